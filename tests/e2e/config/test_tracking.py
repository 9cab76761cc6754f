"""What whole runs and sweeps leave in wandb, TensorBoard and MLflow, read back."""

from __future__ import annotations

import os
import signal
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import mlflow
import pytest
from conftest import Recorder, Tiny
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tracked import ALL, WEIGHT, play
from wandb_files import offline_runs

from rdistill.config.tracking import load_run_ids, parse_tracking
from rdistill.core.stopping import Stopped, StopRequest
from rdistill.sweeps.monitor.trackers import RunIds, trackers
from rdistill.training.hooks import Silent
from rdistill.training.run import train


def scalars(folder: Path, key: str) -> list[tuple[int, float]]:
    events = EventAccumulator(str(folder))
    events.Reload()
    return [(event.step, event.value) for event in events.Scalars(key)]


@pytest.mark.e2e
def test_a_run_in_all_three_and_its_resume(tiny: Tiny, tmp_path: Path, recorder: Recorder) -> None:
    """Stopped after four iterations, it goes on in the same runs."""
    work_dir, stop = tmp_path / "run", StopRequest()

    class AsksToStop(Silent):
        def validated(self, iteration: int, metrics: Mapping[str, Any]) -> None:
            recorder.validated(iteration, metrics)
            if iteration == 4:
                stop.signum = signal.SIGINT

    cfg = tiny.load("distill", iters=6)
    cfg.tracking = parse_tracking(ALL).model_dump(exclude_none=True)
    with pytest.raises(Stopped, match="stopped at iteration 4 of 6"):
        train(cfg, work_dir, listener=AsksToStop(), stop=stop)
    metrics = train(cfg, work_dir, resume=True, listener=recorder)
    by_iteration = [(iteration, scores["mIoU"]) for iteration, scores in recorder.validations]
    assert [iteration for iteration, _ in by_iteration] == [2, 4, 6]
    expected = [(iteration, pytest.approx(score, abs=1e-3)) for iteration, score in by_iteration]

    first, second = offline_runs(work_dir)
    assert first.id == second.id == load_run_ids(work_dir)["wandb"]
    assert first.series("mIoU") + second.series("mIoU") == expected
    assert second.summary["best_mIoU"] == pytest.approx(metrics["mIoU"], abs=1e-3)
    assert second.config["distill"]["losses"]["logits"]["weight"] == 3.0
    assert (first.name, first.exit_code, second.exit_code) == ("run", 1, 0)  # the first did not come to its end
    assert any(key.startswith("val_") for key in second.history[-2] | second.history[-3])

    assert scalars(work_dir / "tensorboard", "mIoU") == expected
    assert "MLFLOW_TRACKING_URI" not in os.environ
    client = mlflow.MlflowClient(f"sqlite:///{work_dir / 'mlflow.db'}")
    (run,) = client.search_runs([client.get_experiment_by_name("rdistill").experiment_id])
    assert run.info.status == "FINISHED" and run.data.params["distill.losses.logits.weight"] == "3.0"
    history = client.get_metric_history(run.info.run_id, "mIoU")
    assert [(entry.step, entry.value) for entry in history] == expected
    assert len(client.list_artifacts(run.info.run_id, "images")) == 3
    assert "tracking" not in (work_dir / "student.py").read_text()


@pytest.mark.e2e
def test_a_run_a_trial(tmp_path: Path) -> None:
    """Two parts, as of a sweep that was resumed; a run for each trial all the same."""
    warnings: list[str] = []
    for scores, begin in (([50.0, 60.0], 0), ([50.0, 60.0, 55.0], 2)):
        looking_on = trackers(parse_tracking(ALL), "coef", tmp_path, warnings.append)
        for listener in looking_on:
            listener.__enter__()
        play(tmp_path, looking_on, scores, begin)
        for listener in looking_on:
            listener.__exit__()
    assert warnings == []

    runs = offline_runs(tmp_path)
    assert sorted((run.name, run.group, run.job_type) for run in runs) == [
        ("baseline", "coef", "baseline"), ("baseline", "coef", "baseline"),
        ("t0001", "coef", "search"), ("t0001", "coef", "search"),
    ]  # fmt: skip
    ids = RunIds(tmp_path, "wandb").ids
    assert {run.id for run in runs} == set(ids.values()) and len(ids) == 2
    same_trial = [run for run in runs if run.name == "t0001"]
    assert same_trial[0].series("mIoU") + same_trial[1].series("mIoU") == [(10, 50.0), (20, 60.0), (30, 55.0)]
    assert same_trial[0].config[WEIGHT] == 3.0 and same_trial[0].config["effective"] == {WEIGHT: 3.0}
    assert (same_trial[1].summary["status"], same_trial[1].summary["best_mIoU"], same_trial[1].exit_code) == (
        "finished",
        60.0,
        0,
    )

    client = mlflow.MlflowClient(f"sqlite:///{tmp_path / 'mlflow.db'}")
    runs_by_name = {
        run.info.run_name: run for run in client.search_runs([client.get_experiment_by_name("coef").experiment_id])
    }
    assert set(runs_by_name) == {"baseline", "t0001"}
    history = client.get_metric_history(runs_by_name["t0001"].info.run_id, "IoU/disc")
    assert [(entry.step, entry.value) for entry in history] == [(10, 50.0), (20, 60.0), (30, 55.0)]
    assert runs_by_name["t0001"].data.params[WEIGHT] == "3.0" and runs_by_name["t0001"].info.status == "FINISHED"
    assert [score for _, score in scalars(tmp_path / "tensorboard" / "t0001", "ray/tune/mIoU")] == [50.0, 60.0, 55.0]

"""wandb, TensorBoard and MLflow: what is asked for, and what a run leaves in each, read back."""

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
from wandb_files import offline_runs

from rdistill.config.tracking import Tracking, load_run_ids, parse_tracking, require_trackers, where_to_look
from rdistill.core.errors import UserError
from rdistill.core.stopping import Stopped, StopRequest
from rdistill.sweeps.monitor.events import TrialSeen
from rdistill.sweeps.monitor.trackers import InBackground, RunIds, metrics_at, trackers
from rdistill.sweeps.study.records import TRIALS, TrialRecord
from rdistill.sweeps.study.spec import parse_sweep
from rdistill.training.hooks import Silent
from rdistill.training.run import train

ALL = "wandb, tensorboard, mlflow"
WEIGHT = "distill.losses.logits.weight"


# ---------------------------------------------------------------------------------------------------------
# What is asked for


@pytest.mark.parametrize("asked", ["wandb,mlflow", ["wandb", "mlflow"], {"wandb": None, "mlflow": True}])
def test_ways_of_asking(asked: Any) -> None:
    tracking = parse_tracking(asked)
    assert tracking.names == ["wandb", "mlflow"] and tracking.images == 3
    assert parse_tracking(tracking.model_dump(exclude_none=True)) == tracking


def test_nothing_asked_and_switched_off() -> None:
    assert parse_tracking(None) == parse_tracking({"wandb": False}) == Tracking()


@pytest.mark.parametrize(
    ("asked", "problem"),
    [
        ("wandbb", "unknown key tracking.wandbb; did you mean 'wandb'?"),
        ({"wandb": {"porject": "x"}}, "unknown key tracking.wandb.porject; did you mean 'project'?"),
        ({"wandb": {"mode": "on"}}, "tracking.wandb.mode: must be 'online', 'offline' or 'disabled', got 'on'"),
        ({"wandb": {"api_key": "s3"}}, "tracking.wandb.api_key: a secret does not belong"),
        ({"mlflow": {"tracking_uri": "http://me:s3@host"}}, "tracking.mlflow.tracking_uri: has a password in it"),
        (3, "tracking: must name trackers (wandb, tensorboard, mlflow), got 3"),
    ],
)
def test_mistakes(asked: Any, problem: str) -> None:
    with pytest.raises(UserError) as caught:
        parse_tracking(asked)
    assert len(caught.value.problems) == 1 and caught.value.problems[0].startswith(problem)
    assert "s3" not in str(caught.value)
    with pytest.raises(UserError, match=r"a\.yaml: "):
        parse_sweep(
            {"config": "c.py", "space": {WEIGHT: {"type": "choice", "values": [1]}}, "tracking": asked}, "a.yaml"
        )


def test_online_needs_a_key(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "none"))
    monkeypatch.setenv("HOME", str(tmp_path))
    online = parse_tracking({"wandb": {"mode": "online"}})
    with pytest.raises(UserError, match="online needs a key: set WANDB_API_KEY"):
        require_trackers(online)
    monkeypatch.setenv("WANDB_API_KEY", "local-key")
    require_trackers(online)
    require_trackers(parse_tracking("wandb"))


def test_where_to_look_says_how(tmp_path: Path) -> None:
    lines = where_to_look(parse_tracking(ALL), tmp_path)
    assert [line.split()[0] for line in lines] == ["wandb", "tracked", "mlflow"]
    assert f"wandb sync {tmp_path}/wandb/offline-run-*" in lines[0]
    assert f"sqlite:///{tmp_path}/mlflow.db" in lines[2]
    assert where_to_look(parse_tracking({"wandb": {"mode": "disabled"}}), tmp_path) == []


# ---------------------------------------------------------------------------------------------------------
# One run


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


def test_a_tracker_that_fails_stops_nothing(tiny: Tiny, tmp_path: Path) -> None:
    told: list[str] = []

    class Listener(Recorder):
        def warned(self, message: str) -> None:
            told.append(message)

    (tmp_path / "wandb").write_text("a file where its folder should be")
    (tmp_path / "tensorboard").write_text("likewise")
    cfg = tiny.load("student", iters=2)
    cfg.tracking = {"tensorboard": {}}
    metrics = train(cfg, tmp_path, listener=Listener([], [], []))
    assert metrics["iter"] == 2
    (line,) = told
    assert line.startswith("tensorboard failed: ") and line.endswith("; the run goes on without it")


# ---------------------------------------------------------------------------------------------------------
# A sweep's trials


def record_of(name: str, scores: list[float], **options: Any) -> TrialRecord:
    history = [
        {"iter": 10 * (index + 1), "seconds": 1.0, "mIoU": score, "IoU": {"disc": score, "gone": None}}
        for index, score in enumerate(scores)
    ]
    losses = [{"iter": 8, "loss": 2.0, "distill.loss_logits": 0.5}]
    return TrialRecord(name, {WEIGHT: 3.0}, 0, effective={WEIGHT: 3.0}, history=history, losses=losses, **options)


def play(work_dir: Path, looking_on: list[InBackground], scores: list[float], begin: int = 0) -> None:
    """A baseline and a trial, one validation after another, as a sweep would tell."""
    seen = {"baseline": TrialSeen("baseline", "baseline", {}), "t0001": TrialSeen("t0001", "search", {WEIGHT: 3.0})}
    for name, trial in seen.items():
        for listener in looking_on:
            listener.trial_started(trial)
        for count in range(begin + 1, len(scores) + 1):
            record_of(name, scores[:count]).save(work_dir / TRIALS / name)
            result = {"iter": 10 * count, "mIoU": scores[count - 1], "best_mIoU": max(scores[:count])}
            for listener in looking_on:
                listener.trial_validated(trial, result)
        record_of(name, scores, status="finished").save(work_dir / TRIALS / name)
        for listener in looking_on:
            listener.trial_ended(trial, {}, False)


@pytest.mark.e2e
def test_a_run_a_trial(tmp_path: Path) -> None:
    """Two parts, as of a sweep that was resumed; a run for each trial all the same."""
    told: list[str] = []
    for scores, begin in (([50.0, 60.0], 0), ([50.0, 60.0, 55.0], 2)):
        looking_on = trackers(parse_tracking(ALL), "coef", tmp_path, told.append)
        for listener in looking_on:
            listener.__enter__()
        play(tmp_path, looking_on, scores, begin)
        for listener in looking_on:
            listener.__exit__()
    assert told == []

    runs = offline_runs(tmp_path)
    assert sorted((run.name, run.group, run.job_type) for run in runs) == [
        ("baseline", "coef", "baseline"), ("baseline", "coef", "baseline"),
        ("t0001", "coef", "search"), ("t0001", "coef", "search"),
    ]  # fmt: skip
    ids = RunIds(tmp_path, "wandb").ids
    assert {run.id for run in runs} == set(ids.values()) and len(ids) == 2
    ours = [run for run in runs if run.name == "t0001"]
    assert ours[0].series("mIoU") + ours[1].series("mIoU") == [(10, 50.0), (20, 60.0), (30, 55.0)]
    assert ours[0].config[WEIGHT] == 3.0 and ours[0].config["effective"] == {WEIGHT: 3.0}
    assert (ours[1].summary["status"], ours[1].summary["best_mIoU"], ours[1].exit_code) == ("finished", 60.0, 0)

    client = mlflow.MlflowClient(f"sqlite:///{tmp_path / 'mlflow.db'}")
    found = {
        run.info.run_name: run for run in client.search_runs([client.get_experiment_by_name("coef").experiment_id])
    }
    assert set(found) == {"baseline", "t0001"}
    history = client.get_metric_history(found["t0001"].info.run_id, "IoU/disc")
    assert [(entry.step, entry.value) for entry in history] == [(10, 50.0), (20, 60.0), (30, 55.0)]
    assert found["t0001"].data.params[WEIGHT] == "3.0" and found["t0001"].info.status == "FINISHED"
    assert [score for _, score in scalars(tmp_path / "tensorboard" / "t0001", "ray/tune/mIoU")] == [50.0, 60.0, 55.0]


def test_a_sweep_goes_on_without_a_tracker(tmp_path: Path) -> None:
    told: list[str] = []
    (tmp_path / "tensorboard").write_text("a file where its folder should be")
    (tracker,) = trackers(parse_tracking("tensorboard"), "coef", tmp_path, told.append)
    with tracker:
        play(tmp_path, [tracker], [50.0, 60.0])
    assert len(told) == 2 and told[0].startswith("tensorboard failed: ")
    assert told[1].endswith("; the sweep goes on without it")


def test_metrics_of_a_validation() -> None:
    assert metrics_at(record_of("t0001", [50.0, 60.0]), 10) == {
        "iter": 10.0, "seconds": 1.0, "mIoU": 50.0, "IoU/disc": 50.0, "loss": 2.0, "distill.loss_logits": 0.5,
    }  # fmt: skip

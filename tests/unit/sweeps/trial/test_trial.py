"""What a trial writes down as it goes, fails, is killed and goes on. Training itself is tests/e2e's."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import Tiny
from ray.exceptions import ActorUnavailableError, RayTaskError

from rdistill.config.load import LoadedConfig, load_config
from rdistill.core.errors import UserError
from rdistill.sweeps.study.records import TrialRecord, error_to_read, load_record
from rdistill.sweeps.study.seconds import training_seconds
from rdistill.sweeps.study.spec import parse_sweep
from rdistill.sweeps.trial.faults import retry_failed_trials
from rdistill.sweeps.trial.trial import Study, last_report, reason_of, run_trial, trial_config
from rdistill.training.hooks import RunListener

LR = "optim_wrapper.optimizer.lr"
TRIAL = {"id": "t0001", "values": {LR: 0.1}, "seed": 3}


@pytest.fixture
def study(tiny: Tiny, tmp_path: Path) -> Study:
    space = {LR: {"type": "choice", "values": [0.1]}}
    spec = parse_sweep({"config": "distill.py", "space": space, "search": {"type": "grid"}}, "test")
    return Study(LoadedConfig.of(tiny.load("distill")), spec, str(tmp_path), [{"mIoU": 80.0}], False)


def training(first: int, scores: dict[int, float]) -> Callable[..., dict[str, Any]]:
    """What stands for training: tells its listener of losses and scores by iteration, from a checkpoint on."""

    def train(cfg: Any, folder: Path, options: Any, listener: RunListener) -> dict[str, Any]:
        listener.training_started(first_iteration=first, last_iteration=6, facts={"effective": {LR: 0.1}})
        for iteration, value in scores.items():
            listener.stepped(iteration, {"loss": 1.0 / iteration})
            listener.validated(iteration, {"mIoU": value})
        return {"iter": 6, "last": {"mIoU": 6.5}}

    return train


def record_of(study: Study) -> TrialRecord:
    record = load_record(Path(study.work_dir) / "trials" / "t0001")
    assert record is not None
    return record


def test_a_trial_from_its_begin_to_its_end(study: Study) -> None:
    told: list[dict[str, Any]] = []
    run_trial(study, TRIAL, told.append, train=training(0, {2: 20.0, 4: 40.0, 6: 30.0}))
    record = record_of(study)
    assert (record.status, record.attempts, record.teacher_mIoU) == ("finished", 1, 80.0)
    assert [(entry["iter"], entry["mIoU"]) for entry in record.history] == [(2, 20.0), (4, 40.0), (6, 30.0)]
    assert told[-1] == {"iter": 6, "mIoU": 30.0, "best_mIoU": 40.0} and len(told) == 3
    cfg = load_config(Path(study.work_dir) / "trials" / "t0001" / "trial.py")
    assert (cfg.optim_wrapper.optimizer.lr, cfg.randomness.seed) == (0.1, 3)


def test_seconds_that_another_process_has_measured_are_the_trials(study: Study) -> None:
    """Those of a worker group, outside of cohorts: they come with each validation, and count on after a kill."""

    def train(cfg: Any, folder: Path, options: Any, listener: RunListener) -> dict[str, Any]:
        first = 0 if not told else 4
        listener.training_started(first_iteration=first, last_iteration=6, facts={"effective": {}})
        for steps in (1, 2):
            cost = {"steps": steps, "steps_seconds": 0.5 * steps}
            listener.validated(first + 2 * steps, {"mIoU": 10.0, "cost": cost})
            if first and steps == 1:
                return {"iter": 6}
        raise UserError("cut off")

    told: list[dict[str, Any]] = []
    with pytest.raises(UserError):
        run_trial(study, TRIAL, told.append, train=train)
    assert record_of(study).cost == {"steps": 2, "steps_seconds": 1.0}
    assert all("cost" not in entry for entry in record_of(study).history) and all("cost" not in one for one in told)
    retry_failed_trials(Path(study.work_dir), confirmed=False)
    run_trial(study, TRIAL, told.append, train=train)
    record = record_of(study)
    assert record.cost == {"steps": 3, "steps_seconds": 1.5}
    seconds = training_seconds(record)
    assert seconds is not None and (seconds.real, seconds.alone, seconds.steps) == (3.0, 3.0, 6)


def test_what_came_after_the_checkpoint_is_recorded_once(study: Study) -> None:
    """Killed after iteration 6, whose checkpoint is lost: it goes on from 4, and 6 is trained and scored again."""
    folder = Path(study.work_dir) / "trials" / "t0001"
    history = [{"iter": number, "seconds": 10.0 * number, "mIoU": 1.0 * number} for number in (2, 4, 6)]
    losses = [{"iter": number, "loss": 9.0} for number in (2, 4, 5, 6)]
    TrialRecord(**TRIAL, attempts=1, history=history, losses=losses).save(folder)
    told: list[dict[str, Any]] = []
    run_trial(study, TRIAL, told.append, train=training(4, {6: 2.5}))
    record = record_of(study)
    assert [(entry["iter"], entry["mIoU"]) for entry in record.history] == [(2, 2.0), (4, 4.0), (6, 2.5)]
    assert [(entry["iter"], entry["loss"]) for entry in record.losses] == [(2, 9.0), (4, 9.0), (6, 0.166666667)]
    assert record.history[-1]["seconds"] >= 40.0 and record.attempts == 2
    assert told == [{"iter": 6, "mIoU": 2.5, "best_mIoU": 4.0}]


def test_a_score_that_a_kill_kept_from_the_record_is_caught_up(study: Study) -> None:
    """All is trained and nothing is validated: the run remembers the last score, and Tune wants it."""
    folder = Path(study.work_dir) / "trials" / "t0001"
    TrialRecord(**TRIAL, history=[{"iter": 4, "seconds": 40.0, "mIoU": 4.0}]).save(folder)
    told: list[dict[str, Any]] = []
    run_trial(study, TRIAL, told.append, train=training(6, {}))
    assert told == [{"iter": 6, "mIoU": 6.5, "best_mIoU": 6.5}] and record_of(study).history[-1]["seconds"] == 40.0


def test_a_finished_trial_is_reported_and_not_trained_again(study: Study) -> None:
    run_trial(study, TRIAL, lambda result: None, train=training(0, {6: 6.0}))
    told: list[dict[str, Any]] = []

    def train(*_: Any, **__: Any) -> dict[str, Any]:
        raise AssertionError("trained again")

    run_trial(study, TRIAL, told.append, train=train)
    assert told == [{"iter": 6, "mIoU": 6.0, "best_mIoU": 6.0}]


def test_another_trial_of_its_name_leaves_nothing(study: Study) -> None:
    folder = Path(study.work_dir) / "trials" / "t0001"
    TrialRecord("t0001", {LR: 0.5}, 3, history=[{"iter": 2, "seconds": 1.0, "mIoU": 99.0}]).save(folder)
    (folder / "last.pth").write_text("of the other")
    run_trial(study, TRIAL, lambda result: None, train=training(0, {6: 6.0}))
    assert not (folder / "last.pth").exists() and record_of(study).best["mIoU"] == 6.0


def test_a_failure_is_recorded_and_raised(study: Study) -> None:
    def train(*_: Any, **__: Any) -> dict[str, Any]:
        raise UserError("first problem", "second problem")

    with pytest.raises(UserError):
        run_trial(study, TRIAL, lambda result: None, train=train)
    content = json.loads((Path(study.work_dir) / "trials" / "t0001" / "trial.json").read_text())
    assert (content["status"], content["reason"]) == ("failed", "first problem second problem")
    folder = Path(study.work_dir) / "trials" / "t0001"
    assert error_to_read(Path(study.work_dir), "t0001") == f"; see {folder / 'error.txt'}"
    written = (folder / "error.txt").read_text()
    assert written.startswith("Traceback") and "first problem\nsecond problem" in written and "in train" in written
    retry_failed_trials(Path(study.work_dir), confirmed=False)  # a resume
    run_trial(study, TRIAL, lambda result: None, train=training(0, {3: 5.0}))
    assert not error_to_read(Path(study.work_dir), "t0001")


def test_a_reason_is_one_line() -> None:
    assert reason_of(ValueError("Traceback\n  of Ray\n\nthe end  \n")) == "ValueError: the end"
    assert reason_of(KeyError()) == "KeyError: " and len(reason_of(ValueError("x" * 999))) == 300
    silent = ActorUnavailableError("RpcError: timed out", b"1" * 16)
    assert reason_of(silent) == "its process did not answer Ray"
    of_cohort = RayTaskError("step", "Traceback\n  of Ray", silent)
    assert reason_of(of_cohort) == "a process that it shares with other trials did not answer Ray"


def test_a_baseline_has_no_distillation(study: Study) -> None:
    assert trial_config(study, TrialRecord("baseline", {}, 0)).cfg.get("distill") is None
    distilled = trial_config(study, TrialRecord("t1", {}, 5)).cfg
    assert distilled.distill is not None and distilled.randomness.seed == 5


def test_a_baseline_reads_back_what_its_search_would_set(tiny: Tiny, tmp_path: Path) -> None:
    search = {LR: {"type": "choice", "values": [0.1]}}
    contents = {"config": "distill.py", "space": {"distill.task_weight": search[LR]}, "search": {"type": "grid"}}
    spec = parse_sweep({**contents, "baseline": {"type": "grid", "search": search}}, "test")
    study = Study(LoadedConfig.of(tiny.load("distill")), spec, str(tmp_path), [{"mIoU": 80.0}], False)
    swept = []

    def train(cfg: Any, folder: Path, options: Any, listener: RunListener) -> dict[str, Any]:
        swept.append(options.swept)
        return training(0, {6: 30.0})(cfg, folder, options, listener)

    configured = study.base.cfg.optim_wrapper.optimizer.lr
    for name, values in (("baseline", {}), ("b0001", {LR: 0.1}), ("t0001", {})):
        run_trial(study, {"id": name, "values": values, "seed": 3}, lambda _: None, train=train)
    assert swept == [{LR: configured}, {LR: 0.1}, {}] and configured != 0.1


def test_objectives_go_with_a_score() -> None:
    entry = {"iter": 2, "mIoU": 5.0}
    assert last_report(TrialRecord("t1", {}, 0, history=[entry], objectives={"parameters": 7.0}))["parameters"] == 7.0

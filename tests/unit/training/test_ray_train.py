"""What a run of several workers refuses before Ray starts, what its driver gets, and what is made of Ray's errors."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import ray.train
from conftest import Recorder, Tiny
from ray.exceptions import ActorDiedError, OutOfMemoryError
from ray.train import ControllerError, WorkerGroupError
from ray.train.v2._internal.exceptions import WorkerGroupStartupFailedError, WorkerGroupStartupTimeoutError

from rdistill.core.errors import RunError, UserError
from rdistill.schemas.run import RunFacts
from rdistill.training import ray_train
from rdistill.training.hooks import DivergedError
from rdistill.training.ray_train import (
    Resources,
    _RayTrainListener,
    _readable_error,
    _user_error,
    controller_lost,
    train_in_group,
)


def test_resources_of_a_run() -> None:
    assert Resources(3, 2.0, 0).per_worker() == {"CPU": 2.0}
    assert Resources(3, 2.0, 0.5).total() == {"CPU": 6.0, "GPU": 1.5}


def test_a_batch_that_does_not_divide_is_refused_before_ray_starts(tiny: Tiny, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="3 images do not divide among 2 workers; set --batch-size"):
        train_in_group(tiny.load("student", batch_size=3), tmp_path / "run", Resources(2))
    assert list(tmp_path.iterdir()) == []


def test_a_finished_run_is_refused_before_ray_starts(tiny: Tiny, tmp_path: Path) -> None:
    (tmp_path / "metrics.json").write_text("{}")
    with pytest.raises(UserError, match="holds a run already; pass --resume"):
        train_in_group(tiny.load("student"), tmp_path, Resources(2))


OF_RAY = OutOfMemoryError(
    "1 worker(s) were killed due to the node running low on memory. Memory on the node (IP: 127.0.0.1, ID: a509) was "
    "6.45GB used / 23.54GB limit (0.273800)\nOOM kill reason: Memory usage 6887460864B exceeded threshold\nand a page"
)


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (ControllerError(OF_RAY), True),
        (ActorDiedError(), True),
        (WorkerGroupError("worker 0", {0: OF_RAY}), False),  # Ray Train has started them again as often as it may
        (ControllerError(DivergedError("loss is nan")), False),
        (ControllerError(ValueError("of the code")), False),
    ],
    ids=["a helper killed for memory", "the controller", "workers", "diverged", "a bug"],
)
def test_what_the_driver_starts_again(error: Exception, expected: bool) -> None:
    assert controller_lost(error) is expected


def test_a_workers_own_error_is_found_in_rays() -> None:
    mistake, diverged = UserError("a.py: wrong"), DivergedError("iteration 2")
    assert _user_error(WorkerGroupError("text", {0: ValueError("other"), 1: mistake})) is mistake
    wrapped = RuntimeError("outer")
    wrapped.__cause__ = diverged
    assert _user_error(wrapped) is diverged
    assert _user_error(WorkerGroupError("text", {0: ValueError("other")})) is None


class _Ticking:
    """A clock that counts how often it was read."""

    def __init__(self) -> None:
        self.steps = 0

    def seconds(self) -> dict[str, float]:
        self.steps += 1
        return {"steps": self.steps}


def test_a_clock_stays_and_what_it_measured_goes(monkeypatch: pytest.MonkeyPatch, recorder: Recorder) -> None:
    reported: list[dict[str, Any]] = []
    monkeypatch.setattr(ray.train, "report", reported.append)
    facts: RunFacts = {"effective": {"a": 1}, "clock": _Ticking()}
    listener = _RayTrainListener(recorder)
    listener.training_started(first_iteration=0, last_iteration=4, facts=facts)
    listener.stepped(1, {"loss": 0.5})
    listener.validated(2, {"mIoU": 40.0})
    listener.validated(4, {"mIoU": 50.0})
    assert recorder.starts == [(0, 4, {"effective": {"a": 1}})] and "clock" in facts  # the run's own facts stay whole
    assert recorder.steps == [(1, {"loss": 0.5})]
    assert recorder.validations == [
        (2, {"mIoU": 40.0, "cost": {"steps": 1}}), (4, {"mIoU": 50.0, "cost": {"steps": 2}})
    ]  # fmt: skip
    assert reported == [{"iter": 2, "mIoU": 40.0}, {"iter": 4, "mIoU": 50.0}]


def test_a_group_that_found_no_place_is_told_from_one_that_died_in_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray_train, "free_resources", lambda kinds: "the cluster has 2 CPU, 0 are free")
    nowhere = ControllerError(WorkerGroupStartupTimeoutError(2))
    died = WorkerGroupStartupFailedError("At least one of the worker actors failed to initialize.")
    died.__cause__ = ActorDiedError()
    lines = [str(_readable_error(error, {"CPU": 1.0}, Resources(2))) for error in (nowhere, ControllerError(died))]
    assert lines[0] == (
        "no place for 2 workers of 1 CPU, 3 times tried: the cluster has 2 CPU, 0 are free; "
        "continue with --resume when there is room"
    )
    assert lines[1].startswith("a worker died before it began, 3 times tried, last by: ") and "\n" not in lines[1]
    assert isinstance(_readable_error(nowhere, {"CPU": 1.0}, Resources(2)), RunError)
    assert not controller_lost(nowhere) and not controller_lost(ControllerError(died))

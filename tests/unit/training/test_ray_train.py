"""What a run of several workers refuses before Ray starts, and what is made of errors of Ray's."""

from __future__ import annotations

from pathlib import Path

import pytest
from conftest import Tiny
from ray.exceptions import ActorDiedError, OutOfMemoryError
from ray.train import ControllerError, WorkerGroupError

from rdistill.core.errors import UserError
from rdistill.training.hooks import DivergedError
from rdistill.training.ray_train import Resources, _users_own, lost_rays_own, train_in_group


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
    assert lost_rays_own(error) is expected


def test_a_workers_own_error_is_found_in_rays() -> None:
    mistake, diverged = UserError("a.py: wrong"), DivergedError("iteration 2")
    assert _users_own(WorkerGroupError("text", {0: ValueError("other"), 1: mistake})) is mistake
    wrapped = RuntimeError("outer")
    wrapped.__cause__ = diverged
    assert _users_own(wrapped) is diverged
    assert _users_own(WorkerGroupError("text", {0: ValueError("other")})) is None

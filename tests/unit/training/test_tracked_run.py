"""A run's trackers among mmengine's backends: none of their failures reaches the run."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from mmengine.structures import PixelData
from mmseg.structures import SegDataSample

from rdistill.config.tracking import parse_tracking
from rdistill.training import tracked_run
from rdistill.training.tracked_run import MAX_FAILURES, MAX_SIDE, TrackerBackend, TrackingHook, _smaller, track


def test_trackers_stand_beside_the_backends_of_the_config(tmp_path: Path) -> None:
    local = dict(type="LocalVisBackend")
    for own, kept in ((dict(type="V", vis_backends=[local]), [local]), (dict(type="V", vis_backends=local), [local]),
                      (None, [local]), (dict(type="V"), [])):  # fmt: skip
        drawn = track(own, parse_tracking("tensorboard, wandb"), tmp_path, resume=True)
        assert drawn["vis_backends"][: len(kept)] == kept
        added = drawn["vis_backends"][len(kept) :]
        assert sorted(backend["tracker"] for backend in added) == ["tensorboard", "wandb"]
        assert all(backend["type"] == "TrackerBackend" and backend["resume"] for backend in added)
    assert own is None or own == dict(type="V")  # the config's own stays as it was


class Inner:
    """A tracker whose calls are kept, or fail."""

    experiment: Any = "its own"

    def __init__(self) -> None:
        self.calls: list[Any] = []
        self.fails = False

    def __getattr__(self, name: str) -> Any:
        def call(*arguments: Any) -> None:
            if self.fails:
                raise ConnectionError("no route")
            self.calls.append((name, *arguments))

        return call


def backend(tmp_path: Path, inner: Inner | Exception, tracker: str = "tensorboard") -> TrackerBackend:
    made = TrackerBackend(str(tmp_path), tracker, parse_tracking(tracker).model_dump(), False)

    def start() -> Inner:
        if isinstance(inner, Exception):
            raise inner
        return inner

    made._start = start  # type: ignore[assignment,method-assign]
    return made


def test_scalars_have_classes_in_a_group_of_their_own(tmp_path: Path) -> None:
    inner = Inner()
    backend(tmp_path, inner).add_scalars({"IoU.disc": 50.0, "loss": 1.0, "step": 3}, 3)
    assert inner.calls == [("add_scalars", {"IoU/disc": 50.0, "loss": 1.0}, 3)]
    wandb = Inner()
    backend(tmp_path, wandb, "wandb").add_scalar("loss", 1.0, 4)
    assert wandb.calls == [("add_scalars", {"loss": 1.0, "iter": 4}, 4)]


def test_a_tracker_that_fails_again_and_again_is_let_go(tmp_path: Path) -> None:
    inner = Inner()
    made = backend(tmp_path, inner)
    made.add_scalar("loss", 1.0, 0)
    inner.fails = True
    for step in range(MAX_FAILURES - 1):
        made.add_scalar("loss", 1.0, step)
    inner.fails = False
    made.add_scalar("loss", 1.0, 5)  # it works again: the failures so far are forgotten
    assert made.problems == ["tensorboard failed: ConnectionError: no route"]
    inner.fails = True
    for step in range(MAX_FAILURES):
        made.add_scalar("loss", 1.0, step)
    assert made.problems[-1] == "tensorboard failed: ConnectionError: no route; the run goes on without it"
    inner.fails = False
    made.add_scalar("loss", 1.0, 9)
    assert len(inner.calls) == 2 and len(made.problems) == 3


def test_a_tracker_that_does_not_start_is_tried_once(tmp_path: Path) -> None:
    made = backend(tmp_path, OSError("no such host"))
    for step in range(3):
        made.add_scalar("loss", 1.0, step)
    assert made.problems == ["tensorboard failed: OSError: no such host; the run goes on without it"]
    assert made.experiment is None


@pytest.mark.parametrize("failed", [True, False])
def test_its_run_ends_as_failed_while_an_error_is_on_its_way(tmp_path: Path, failed: bool) -> None:
    ends: list[Any] = []
    inner = Inner()
    inner.experiment = SimpleNamespace(finish=lambda exit_code: ends.append(exit_code))
    made = backend(tmp_path, inner, "wandb")
    made.add_scalar("loss", 1.0, 0)
    try:
        if failed:
            raise ValueError
        made.close()
    except ValueError:
        made.close()
    made.add_scalar("loss", 1.0, 1)
    assert ends == [int(failed)] and len(inner.calls) == 1 and sys.exc_info() == (None, None, None)


def test_the_best_score_so_far_goes_with_each_validation(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    inner = Inner()
    monkeypatch.setattr(tracked_run, "visual_backends", lambda visualizer: [backend(tmp_path, inner), "mmengine's own"])
    runner: Any = SimpleNamespace(visualizer=None, iter=2)
    hook, checkpoint = TrackingHook(3, SimpleNamespace(warned=print)), dict[str, Any]()  # type: ignore[arg-type]
    for score in (50.0, 40.0, 60.0):
        hook.after_val_epoch(runner, {"mIoU": score})
    assert [call[1]["best_mIoU"] for call in inner.calls] == [50.0, 50.0, 60.0]
    hook.before_save_checkpoint(runner, checkpoint)  # type: ignore[arg-type]
    resumed = TrackingHook(3, SimpleNamespace(warned=print))  # type: ignore[arg-type]
    resumed.after_load_checkpoint(runner, checkpoint)  # type: ignore[arg-type]
    resumed.after_val_epoch(runner, {"mIoU": 55.0})
    assert inner.calls[-1][1] == {"best_mIoU": 60.0}


def test_large_images_are_tracked_smaller_with_their_masks() -> None:
    """The left half of the mask is class 1: also in the smaller one, to the pixel."""
    image = np.zeros((MAX_SIDE, 2 * MAX_SIDE, 3), np.uint8)
    mask = torch.zeros(1, *image.shape[:2], dtype=torch.long)
    mask[..., :MAX_SIDE] = 1
    sample = SegDataSample(gt_sem_seg=PixelData(data=mask))
    small, drawn = _smaller(image, sample)
    assert small.shape == (MAX_SIDE // 2, MAX_SIDE, 3)
    actual = drawn.gt_sem_seg.data
    assert actual.shape == (1, MAX_SIDE // 2, MAX_SIDE)
    assert actual[..., : MAX_SIDE // 2].all() and not actual[..., MAX_SIDE // 2 :].any()
    assert sample.gt_sem_seg.data is mask  # the sample's own stays

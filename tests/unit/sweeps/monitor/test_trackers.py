"""Trackers of a sweep: what they get, and a sweep that goes on without one."""

from __future__ import annotations

from pathlib import Path

from tracked import play, record_of

from rdistill.config.tracking import parse_tracking
from rdistill.sweeps.monitor.trackers import metrics_at, trackers


def test_a_sweep_goes_on_without_a_tracker(tmp_path: Path) -> None:
    messages: list[str] = []
    (tmp_path / "tensorboard").write_text("a file where its folder should be")
    (tracker,) = trackers(parse_tracking("tensorboard"), "coef", tmp_path, messages.append)
    with tracker:
        play(tmp_path, [tracker], [50.0, 60.0])
    assert len(messages) == 2 and messages[0].startswith("tensorboard failed: ")
    assert messages[1].endswith("; the sweep goes on without it")


def test_metrics_of_a_validation() -> None:
    assert metrics_at(record_of("t0001", [50.0, 60.0]), 10) == {
        "iter": 10.0, "seconds": 1.0, "mIoU": 50.0, "IoU/disc": 50.0, "loss": 2.0, "distill.loss_logits": 0.5,
    }  # fmt: skip

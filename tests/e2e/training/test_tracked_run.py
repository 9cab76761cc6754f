"""A run that a tracker follows."""

from __future__ import annotations

from pathlib import Path

import pytest
from conftest import Recorder, Tiny

from rdistill.training.run import train


@pytest.mark.e2e
def test_a_tracker_that_fails_stops_nothing(tiny: Tiny, tmp_path: Path) -> None:
    messages: list[str] = []

    class Listener(Recorder):
        def warned(self, message: str) -> None:
            messages.append(message)

    (tmp_path / "wandb").write_text("a file where its folder should be")
    (tmp_path / "tensorboard").write_text("likewise")
    cfg = tiny.load("student", iters=2)
    cfg.tracking = {"tensorboard": {}}
    metrics = train(cfg, tmp_path, listener=Listener([], [], []))
    assert metrics["iter"] == 2
    (line,) = messages
    assert line.startswith("tensorboard failed: ") and line.endswith("; the run goes on without it")

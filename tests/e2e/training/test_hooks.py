"""A run that is killed between two validations goes on from its checkpoint."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import Run, Tiny
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from torch import Tensor

from rdistill.training.run import train

Equal = Callable[[Mapping[str, Tensor], Mapping[str, Tensor]], bool]


@HOOKS.register_module()
class StopAtStep(Hook):
    """Ends a run in the middle of a training step, after every other hook of the step before."""

    armed = True

    def __init__(self, iteration: int) -> None:
        self.iteration = iteration

    def before_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None) -> None:
        if self.armed and runner.iter == self.iteration:
            raise KeyboardInterrupt


@pytest.mark.e2e
def test_a_kill_between_validations(
    tiny: Tiny, distilled_run: Run, tmp_path: Path, state_equal: Equal, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The config's own checkpoint interval says how much is lost; what follows is the same to the last bit."""
    interval = {"+default_hooks.checkpoint": dict(type="CheckpointHook", by_epoch=False, interval=1)}
    killing = {**interval, "+custom_hooks": [dict(type="StopAtStep", iteration=3)]}
    with pytest.raises(KeyboardInterrupt):
        train(tiny.load("distill", killing), tmp_path / "run", teacher_metrics={})
    saved = torch.load(tmp_path / "run" / "last.pth", weights_only=True)
    assert saved["meta"]["iter"] == 3 and saved["meta"]["last"]["iter"] == 2
    assert sorted(path.name for path in (tmp_path / "run").glob("*.pth")) == ["best.pth", "last.pth"]
    monkeypatch.setattr(StopAtStep, "armed", False)
    metrics = train(tiny.load("distill", killing), tmp_path / "run", resume=True)
    for name in ("last.pth", "best.pth", "student.pth"):
        assert state_equal(Run(tmp_path / "run", metrics).weights(name), distilled_run.weights(name))
    assert {**metrics, "seconds": 0} == {**distilled_run.metrics, "seconds": 0}

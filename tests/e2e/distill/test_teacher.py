"""A student under its own average: a whole run, cut off and resumed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import Recorder, Tiny
from torch import Tensor

from rdistill.training.run import train

Equal = Callable[[Mapping[str, Tensor], Mapping[str, Tensor]], bool]

SELF = {"distill.teachers": [dict(ema_decay=0.75)]}


@pytest.mark.e2e
def test_self_distillation_trains_and_resumes(tiny: Tiny, tmp_path: Path, state_equal: Equal) -> None:
    """Cut off after the validation at 4 and resumed: to the last bit the run that was not cut."""

    class Cut(Recorder):
        def validated(self, iteration: int, metrics: Mapping[str, Any]) -> None:
            if iteration == 4:
                raise KeyboardInterrupt

    def weights(folder: str) -> dict[str, Tensor]:
        return torch.load(tmp_path / folder / "last.pth", weights_only=True)["state_dict"]

    cfg = tiny.load("distill", SELF)
    metrics = train(cfg, tmp_path / "whole")
    assert metrics["teacher_mIoU"] is None
    with pytest.raises(KeyboardInterrupt):
        train(cfg, tmp_path / "cut", listener=Cut([], [], []))
    train(cfg, tmp_path / "cut", resume=True)
    assert state_equal(weights("whole"), weights("cut"))
    student = torch.load(tmp_path / "whole" / "student.pth", weights_only=True)["state_dict"]
    assert not any("average" in key or "teacher" in key for key in student)

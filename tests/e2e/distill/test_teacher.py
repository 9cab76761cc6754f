"""Whole runs under several teachers, under a schedule, and under the student's own average, cut off and resumed."""

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


def two_teachers(tiny: Tiny, weights: tuple[float, float] = (1.0, 3.0)) -> dict[str, Any]:
    """Overrides that put the student's own architecture beside the R50 as a second teacher."""
    first = dict(config=str(tiny.folder / "teacher.py"), checkpoint=str(tiny.folder / "teacher" / "best.pth"))
    second = dict(config=str(tiny.folder / "teacher.py"), checkpoint=str(tiny.folder / "teacher" / "last.pth"))
    return {"distill.teachers": [{**first, "weight": weights[0]}, {**second, "weight": weights[1]}]}


@pytest.mark.e2e
def test_each_teacher_is_scored(tiny: Tiny, tmp_path: Path, recorder: Recorder) -> None:
    cfg = tiny.load("distill", two_teachers(tiny), iters=1, val_interval=1)
    metrics = train(cfg, tmp_path / "run", listener=recorder)
    assert len(metrics["teachers_mIoU"]) == 2 and metrics["teacher_mIoU"] == metrics["teachers_mIoU"][0]


@pytest.mark.e2e
def test_schedule_in_training(tiny: Tiny, tmp_path: Path, recorder: Recorder) -> None:
    """The weighted value is the raw one times weight times factor, at each iteration."""
    schedule = {"distill.losses.logits.schedule": {"warmup": 2, "stop": 4}, "distill.losses.logits.weight": 10.0}
    cfg = tiny.load("distill", schedule)
    train(cfg, tmp_path / "run", teacher_metrics=[{}], listener=recorder)
    assert [iteration for iteration, _ in recorder.steps] == [6]
    assert recorder.steps[0][1]["distill.loss_logits"] == 0.0 and recorder.steps[0][1]["raw/logits"] > 0
    effective = recorder.starts[0][2]["effective"]
    assert effective["distill.losses.logits.schedule.stop"] == 4

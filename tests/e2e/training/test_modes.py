"""Whole runs with activation checkpointing and gradient accumulation; no tensor is kept over 200 steps."""

from __future__ import annotations

import gc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import Recorder, Tiny
from mmengine.optim import OptimWrapper
from torch import Tensor

from rdistill.distill.distiller import build_distiller
from rdistill.training.run import train

Batches = Callable[..., list[dict[str, Any]]]

CHECKPOINTED = {"+activation_checkpointing": ["backbone"]}  # the student's own names, as in plain mmseg


@pytest.mark.e2e
def test_activation_checkpointing_changes_no_student(tiny: Tiny, tmp_path: Path) -> None:
    """A backbone's input takes no gradients, its BatchNorm sees each batch twice: neither may show."""
    weights = {}
    for name, changes in (("plain", {}), ("checkpointed", CHECKPOINTED)):
        train(tiny.load("distill", changes, iters=4), tmp_path / name, teacher_metrics=[{}])
        weights[name] = torch.load(tmp_path / name / "last.pth", weights_only=True)["state_dict"]
    for key, value in weights["plain"].items():
        assert torch.equal(weights["checkpointed"][key], value), key


@pytest.mark.e2e
def test_gradient_accumulation(tiny: Tiny, tmp_path: Path, recorder: Recorder) -> None:
    """Two batches an update: half as many updates, and another student than without."""
    weights = {}
    for count in (1, 2):
        cfg = tiny.load("distill", {"+optim_wrapper.accumulative_counts": count}, iters=4, val_interval=4)
        train(cfg, tmp_path / str(count), teacher_metrics=[{}])
        state = torch.load(tmp_path / str(count) / "last.pth", weights_only=True)
        weights[count] = state["state_dict"]["student.decode_head.conv_seg.weight"]
    assert not torch.equal(weights[1], weights[2])


@pytest.mark.e2e
def test_nothing_is_kept_alive_over_200_steps(tiny: Tiny, stream_batches: Batches) -> None:
    """The number of tensors in the process does not grow from step to step."""
    cfg = tiny.load("distill", size="16")
    distiller = build_distiller(cfg, seed=0)
    distiller.train()
    optimizer = OptimWrapper(torch.optim.SGD(distiller.parameters(), lr=0.01))
    batch = stream_batches(cfg, 1)[0]
    counts = []
    for step in range(200):
        with distiller.capture:
            distiller.train_step(batch, optimizer)
        if step in (9, 199):
            gc.collect()
            counts.append(sum(1 for thing in gc.get_objects() if type(thing) is Tensor))
    assert counts[1] <= counts[0]
    assert all(name not in vars(module) for module in distiller.student.modules() for name in ("forward",))

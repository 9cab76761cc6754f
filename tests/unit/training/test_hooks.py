"""Which checkpoint is the best; what the hooks do in whole runs is in tests/e2e/training/test_hooks.py."""

from __future__ import annotations

from pathlib import Path

import torch
from conftest import Recorder, Tiny

from rdistill.training.run import train


def test_of_equal_scores_the_first_is_the_best(tiny: Tiny, tmp_path: Path, recorder: Recorder) -> None:
    """A student that stands still is no better later: best.pth stays, as its iteration says."""
    still = {
        "optim_wrapper.optimizer.lr": 0.0, "model.backbone.norm_cfg.momentum": 0.0,
        "model.decode_head.norm_cfg.momentum": 0.0,
    }  # fmt: skip
    metrics = train(tiny.load("student", still, iters=3, val_interval=1), tmp_path / "run", listener=recorder)
    assert len({scored["mIoU"] for _, scored in recorder.validations}) == 1 < len(recorder.validations)
    assert metrics["best_iter"] == 1 and metrics["iter"] == 3
    assert torch.load(tmp_path / "run" / "best.pth", weights_only=True)["meta"]["iter"] == 1

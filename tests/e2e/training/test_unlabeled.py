"""Training beside images without masks: alone, by data workers, and in lockstep with the same numbers."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from conftest import Tiny

from rdistill.training.run import train

pytestmark = pytest.mark.e2e


def test_data_workers_change_nothing(tiny: Tiny, tmp_path: Path) -> None:
    overrides = {"+distill.unlabeled": {"img_dir": "img_dir/train", "share": 0.5, "min_confidence": 0.6}}
    weights = []
    for workers in (0, 2):
        folder = tmp_path / str(workers)
        train(tiny.load("distill", {**overrides, "+distill.on_ignored": True}, num_data_workers=workers), folder)
        weights.append(torch.load(folder / "last.pth", weights_only=True)["state_dict"])
    assert all(torch.equal(value, weights[1][name]) for name, value in weights[0].items())

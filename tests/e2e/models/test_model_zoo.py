"""Segmentors of many kinds, inherited from mmseg, distil in whole steps and runs."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from conftest import Tiny
from model_zoo import (
    ZOO,
    under_itself,
    write_config,
)

from rdistill.config.load import Shortcuts, load_config, read_config_file
from rdistill.models.segmentor import build_segmentor
from rdistill.training.run import train


@pytest.mark.e2e
@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=pytest.mark.slow) if ZOO[name][3] > 500 else name for name in ZOO],
)
def test_student_and_teacher(name: str, tiny: Tiny, tmp_path: Path) -> None:
    """The model under a copy of itself with other weights: KL on its logits, CWD on a feature of each side."""
    file = write_config(tmp_path, name)
    feature, size = ZOO[name][2:]
    torch.manual_seed(1)
    torch.save({"state_dict": build_segmentor(read_config_file(file).model).state_dict()}, tmp_path / "teacher.pth")
    distill = dict(
        teachers=[dict(config=str(file), checkpoint=str(tmp_path / "teacher.pth"))],
        features=dict(student=[feature], teacher=[feature]),
        losses=dict(logits=dict(type="KL"), hidden=dict(type="CWD", pair=(0, 0))),
    )
    shortcuts = Shortcuts(data_root=str(tiny.data_root), size=str(size), iters=1, batch_size=2, val_interval=1)
    cfg = load_config(file, {"+distill": distill, "+val_dataloader.dataset.indices": 1}, shortcuts)
    metrics = train(cfg, tmp_path / "run", teacher_metrics=[{}])
    assert metrics["iter"] == 1 and set(metrics["IoU"]) == {"background", "optic disc"}


@pytest.mark.e2e
@pytest.mark.parametrize("name", ["ddrnet", "pidnet", "encnet"])
def test_several_logits_train(name: str, tiny: Tiny, tmp_path: Path) -> None:
    metrics = train(under_itself(name, tiny, tmp_path, logits=dict(type="KL")), tmp_path / "run")
    assert metrics["iter"] == 1 and metrics["teacher_mIoU"] is not None

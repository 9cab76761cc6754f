"""Segmentors of many kinds, inherited from mmseg, distil: as students and as teachers, CNN maps and tokens alike."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import REPO, Tiny

from rdistill.config import Shortcuts, load_config, read_config_file
from rdistill.distiller import build_distiller
from rdistill.segmentor import build_segmentor
from rdistill.training import train

# name: mmseg's base, what makes it small, one feature, pixels
ZOO: dict[str, tuple[str, dict[str, Any], str, int]] = {
    "pspnet": (
        "pspnet_r50-d8",
        dict(
            backbone=dict(depth=18, base_channels=8, stem_channels=8),
            decode_head=dict(in_channels=64, channels=16, num_classes=2),
            auxiliary_head=dict(in_channels=32, channels=8, num_classes=2),
        ),
        "backbone.layer4",
        64,
    ),
    "fcn_hrnet": ("fcn_hr18", dict(decode_head=dict(num_classes=2)), "backbone[3]", 64),
    "segformer_maps": ("segformer_mit-b0", dict(decode_head=dict(num_classes=2)), "backbone[3]", 64),
    "segformer_tokens": ("segformer_mit-b0", dict(decode_head=dict(num_classes=2)), "backbone.layers.1.1.1", 64),
    "upernet_swin": (
        "upernet_swin",
        dict(
            backbone=dict(embed_dims=12, depths=(1, 1, 1, 1), num_heads=(1, 2, 4, 4)),
            decode_head=dict(in_channels=[12, 24, 48, 96], channels=16, num_classes=2),
            auxiliary_head=dict(in_channels=48, channels=8, num_classes=2),
        ),
        "backbone.stages.2.blocks.0",
        64,
    ),
    "fast_scnn": (
        "fast_scnn",
        dict(
            decode_head=dict(num_classes=2),
            auxiliary_head=[
                dict(type="FCNHead", in_channels=128, channels=32, num_convs=1, num_classes=2, in_index=-2),
                dict(type="FCNHead", in_channels=64, channels=32, num_convs=1, num_classes=2, in_index=-3),
            ],
        ),
        "backbone[2]",
        64,
    ),
    # A fixed pool of 49 cells at stride 16: no image below 784 pixels.
    "lraspp": ("lraspp_m-v3-d8", dict(decode_head=dict(num_classes=2)), "backbone[2]", 784),
}


def write_config(folder: Path, name: str) -> Path:
    """A complete training config of one of the zoo's models, in a file."""
    base, small, _, size = ZOO[name]
    bases = [f"mmseg::_base_/models/{base}.py"]
    bases += [str(REPO / "configs" / "_base_" / part) for part in
              ("datasets/optic-disc-128.py", "schedules/sgd_poly_1k.py", "default_runtime.py")]  # fmt: skip
    preprocessor = dict(type="SegDataPreProcessor", size=(size, size), bgr_to_rgb=True, pad_val=0, seg_pad_val=255)
    statistics = dict(mean=[127.5] * 3, std=[127.5] * 3)
    file = folder / f"{name}.py"
    model = dict(pretrained=None, data_preprocessor={**preprocessor, **statistics}, **small)
    file.write_text(f"_base_ = {bases}\nmodel = {model}\n")
    return file


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


def test_tokens_are_compared_as_maps(tiny: Tiny, tmp_path: Path) -> None:
    """A SegFormer layer's N x L x C against a CNN's map, with an adapter between their widths."""
    file = write_config(tmp_path, "segformer_tokens")
    distill = dict(
        teachers=[dict(config=str(tiny.folder / "teacher.py"), checkpoint=str(tiny.folder / "teacher" / "best.pth"))],
        features=dict(student=[ZOO["segformer_tokens"][2]], teacher=["backbone.layer2"]),
        losses=dict(hidden=dict(type="FitNet", pair=(0, 0))),
    )
    cfg = load_config(file, {"+distill": distill}, Shortcuts(data_root=str(tiny.data_root), size="64"))
    distiller = build_distiller(cfg, seed=0)
    adapter = distiller.terms["hidden"].adapter
    assert adapter is not None
    assert [tuple(weight.shape[:2]) for weight in adapter.parameters() if weight.ndim == 4] == [(32, 64)]

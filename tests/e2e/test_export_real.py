"""Whole models, as wide as mmseg has them, trained on real photographs for a moment, and exported."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from e2e.conftest import Sandbox
from e2e.test_real_data import DATA, REPO, needs_optic_disc

pytestmark = [pytest.mark.e2e, pytest.mark.slow, needs_optic_disc]

# mmseg's base model -> what makes two classes and one BatchNorm of it. The teacher's config is complete as it is.
BASES = {
    "pspnet_r50-d8": "pretrained=None, auxiliary_head=None, decode_head=dict(num_classes=2)",
    "segformer_mit-b0": "pretrained=None, backbone=dict(init_cfg=None), decode_head=dict(num_classes=2)",
}


# This one's BatchNorm statistics would not follow its weights within so few iterations.
QUICK = {
    "deeplabv3plus_r50-d8_optic-disc": [
        "--set", "+model.backbone.norm_cfg.momentum=0.5", "--set", "+model.decode_head.norm_cfg.momentum=0.5",
    ]
}  # fmt: skip


def config(name: str, folder: Path) -> Path:
    if name not in BASES:
        return REPO / "configs" / "teacher" / f"{name}.py"
    bases = [
        f"{REPO}/configs/_base_/{base}.py"
        for base in ("datasets/optic-disc-128", "schedules/sgd_poly_1k", "default_runtime")
    ]
    file = folder / f"{name}.py"
    file.write_text(
        f"_base_ = {[f'mmseg::_base_/models/{name}.py', *bases]!r}\n"
        f"model = dict(data_preprocessor=dict(size=(128, 128)), {BASES[name]})\n"
    )
    return file


@pytest.mark.parametrize("name", ["deeplabv3plus_r50-d8_optic-disc", *BASES])
def test_real_checkpoints(sandbox: Sandbox, tmp_path: Path, name: str) -> None:
    run = tmp_path / "run"
    sandbox.run(
        "train", config(name, tmp_path), "--data-root", DATA / "optic_disc", "--size", 96, "--batch-size", 4,
        "--iters", 16, "--val-interval", 8, "--work-dir", run,
        "--set", "+model.decode_head.loss_decode.class_weight=[0.5,30.0]", *QUICK.get(name, []),
    )  # fmt: skip
    scores = json.loads((run / "metrics.json").read_text())["IoU"]
    assert min(scores.values()) > 0, "one class alone: every mask would be equal"
    done = sandbox.run("export", run / "student.py", run / "student.pth", tmp_path / "model.onnx")
    share = re.search(r"equal to PyTorch's on ([\d.]+) ?% of", done.stdout)
    assert share is not None and float(share[1]) >= 99.9, done.stdout
    assert "of 16 images" in done.stdout

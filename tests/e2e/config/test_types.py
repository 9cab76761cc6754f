"""Configs that name their types otherwise than mmseg's own files: by class (pure Python), or with a scope.

And pictures of which no pixel has a label, in a run.
"""

from __future__ import annotations

import json
import shutil
import signal
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import Tiny
from mmengine.config import Config
from PIL import Image
from torch import Tensor

from e2e.conftest import TIMEOUT_S, Sandbox
from e2e.processes import wait_until
from rdistill.config.load import read_config_file
from rdistill.config.render import config_source

pytestmark = pytest.mark.e2e

PURE = """from mmengine.config import read_base
from mmcv.transforms import Resize
from mmseg.evaluation import IoUMetric

with read_base():
    from .base import *
val_evaluator = dict(type=IoUMetric, iou_metrics=['mIoU'])
test_evaluator = val_evaluator
train_dataloader['dataset']['pipeline'].insert(2, dict(type=Resize, scale=(48, 48)))
"""


def small(tiny: Tiny, iterations: int) -> list[object]:
    return ["--data-root", tiny.data_root, "--size", 32, "--batch-size", 2, "--iters", iterations, "--val-interval", 4]


@pytest.fixture(scope="module")
def pure(sandbox: Sandbox, tiny_without_teacher: Tiny) -> Path:
    """The tiny student as one of mmengine's pure Python configs."""
    plain = read_config_file(tiny_without_teacher.folder / "student.py").to_dict()
    base = {key: value for key, value in plain.items() if key not in ("val_evaluator", "test_evaluator")}
    (sandbox.root / "base.py").write_text(config_source(Config(base)))
    (sandbox.root / "pure.py").write_text(PURE)
    return sandbox.root / "pure.py"


@pytest.fixture(scope="module")
def whole(sandbox: Sandbox, pure: Path, tiny_without_teacher: Tiny) -> Path:
    sandbox.run("train", pure, "--work-dir", sandbox.root / "whole", *small(tiny_without_teacher, 24))
    return sandbox.root / "whole"


def test_a_pure_python_config_stopped_and_resumed(
    sandbox: Sandbox,
    pure: Path,
    whole: Path,
    tiny_without_teacher: Tiny,
    state_equal: Callable[[Mapping[str, Tensor], Mapping[str, Tensor]], bool],
) -> None:
    work_dir = sandbox.root / "stopped"
    arguments = ["train", pure, "--work-dir", work_dir, *small(tiny_without_teacher, 24)]
    with sandbox.start(*arguments) as process:
        wait_until((work_dir / "last.pth").exists, process)
        process.send_signal(signal.SIGTERM)
        _, err = process.communicate(timeout=TIMEOUT_S)
    assert process.returncode == 128 + signal.SIGTERM and err.startswith("stopped at iteration "), err
    done = sandbox.run(*arguments, "--resume")
    assert "resumed   at" in done.stdout
    weights, of_whole = (
        torch.load(folder / "last.pth", weights_only=True)["state_dict"] for folder in (work_dir, whole)
    )
    assert state_equal(weights, of_whole)
    scores = [json.loads((folder / "metrics.json").read_text())["mIoU"] for folder in (work_dir, whole)]
    assert scores[0] == scores[1]


def scoped(node: Any) -> Any:
    """The metric and the resizing under the names of the packages that have them."""
    names = {"IoUMetric": "mmseg.IoUMetric", "Resize": "mmcv.Resize"}
    if isinstance(node, dict):
        return {key: names.get(item, item) if key == "type" else scoped(item) for key, item in node.items()}
    return [scoped(item) for item in node] if isinstance(node, list) else node


def test_eval_and_predict_with_scopes(sandbox: Sandbox, whole: Path, tiny_without_teacher: Tiny) -> None:
    """The same scores and masks as without them."""
    plain = read_config_file(whole / "student.py").to_dict()
    file = sandbox.root / "scoped.py"
    file.write_text(config_source(Config(scoped(plain))))
    assert "mmseg.IoUMetric" in file.read_text() and "mmcv.Resize" in file.read_text()
    image = min((tiny_without_teacher.data_root / "img_dir" / "val").iterdir())
    scores, masks = [], []
    for config in (whole / "student.py", file):
        scores.append(json.loads(sandbox.run("eval", config, whole / "student.pth", "--size", 40, "--json").stdout))
        out = sandbox.root / f"masks-{config.stem}"
        sandbox.run("predict", config, whole / "student.pth", image, "--out", out, "--size", 40)
        masks.append(np.asarray(Image.open(out / "masks" / f"{image.stem}.png")))
    assert scores[0]["mIoU"] == scores[1]["mIoU"] and scores[0]["IoU"] == scores[1]["IoU"]
    assert masks[0].shape == Image.open(image).size[::-1] and (masks[0] == masks[1]).all()


def test_a_batch_of_which_no_pixel_has_a_label(sandbox: Sandbox, tiny: Tiny, one_channel: dict[str, Any]) -> None:
    """One image a step, two of them, and one mask of 255: its step has no task loss, and the distillation's goes on."""
    root = sandbox.root / "ignored"
    shutil.copytree(tiny.data_root, root)
    for index, image in enumerate(sorted((root / "img_dir" / "train").iterdir())):
        mask = root / "ann_dir" / "train" / f"{image.stem}.png"
        if index > 1:
            image.unlink()
            mask.unlink()
        elif index == 1:
            Image.fromarray(np.full_like(np.asarray(Image.open(mask)), 255)).save(mask)
    sets = [word for key, value in one_channel.items() for word in ("--set", f"{key}={value!r}")]
    options = ["--data-root", root, "--size", 32, "--batch-size", 1, "--iters", 2, "--val-interval", 2]
    for name in ("student", "distill"):
        work_dir = sandbox.root / f"ignored-{name}"
        # One value a channel is none for BatchNorm in training: a batch of one image has a global pooling branch.
        norm = ["--set", "model.decode_head.norm_cfg={'type': 'GN', 'num_groups': 2}"]
        sandbox.run(
            "train", tiny.folder / f"{name}.py", "--work-dir", work_dir, *options, *sets, *norm,
            "--set", "default_hooks.logger.interval=1",
        )  # fmt: skip
        (log,) = work_dir.glob("*/vis_data/scalars.json")
        steps = [line for line in map(json.loads, log.read_text().splitlines()) if "loss" in line]
        first, mean = (step["decode.loss_ce"] for step in steps)  # mmengine logs the mean of the last iterations
        assert sorted([first, 2 * mean - first]) == [pytest.approx(0, abs=1e-6), pytest.approx(0.69, abs=0.2)]
        if name == "distill":
            assert all(step["distill.loss_hidden"] > 0 for step in steps)
        last = torch.load(work_dir / "last.pth", weights_only=True)["state_dict"]
        assert all(value.isfinite().all() for value in last.values())

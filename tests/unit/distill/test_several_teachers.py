"""Teachers that see images at sizes of their own, and several that are balanced by shares."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from conftest import Tiny

from rdistill.config.distill_spec import distill_spec
from rdistill.config.load import with_overrides
from rdistill.core.errors import UserError
from rdistill.distill.distiller import build_distiller
from rdistill.distill.gradients import task_loss
from rdistill.models.segmentor import seen_size
from rdistill.models.shapes import probe_features

Batches = Callable[..., list[dict[str, Any]]]
LAYER = "backbone.layer3"


def two_teachers(tiny: Tiny, **second: Any) -> dict[str, Any]:
    entry = dict(config=str(tiny.folder / "teacher.py"), checkpoint=str(tiny.folder / "teacher" / "best.pth"))
    return {"distill.teachers": [entry, {**entry, **second}]}


def test_a_teacher_sees_images_at_its_own_size(tiny: Tiny, stream_batches: Batches) -> None:
    """Its features are those of the resized image, and its predictions keep the image's own size."""
    pair = {"type": "CWD", "pair": [0, 0], "teacher": 1}
    cfg = tiny.load("distill", {**two_teachers(tiny, input_size=[64, 96]), "distill.losses": {"hidden": pair}})
    distiller = build_distiller(cfg, seed=0)
    first, second = distiller.teachers
    data = distiller.data_preprocessor(stream_batches(cfg, 1)[0], training=False)
    images = data["inputs"]
    larger = torch.nn.functional.interpolate(images, (64, 96), mode="bilinear", align_corners=False, antialias=True)
    with torch.no_grad():
        expected = first.model.extract_feat(larger)
        for actual, feature in zip(second.model.extract_feat(images), expected, strict=True):
            torch.testing.assert_close(actual, feature, rtol=1e-4, atol=1e-5)
    assert second(images)[LAYER].shape[-2:] == expected[2].shape[-2:]
    assert probe_features(second.model, [LAYER], (32, 32))[LAYER] == (1, *expected[2].shape[1:])
    assert seen_size(second.model, (16, 32)) == (32, 96) and seen_size(first.model, (16, 32)) == (16, 32)
    assert second.model.predict(images)[0].pred_sem_seg.data.shape == (1, 32, 32)
    distiller.train()
    with distiller.capture:
        assert distiller.loss(images, data["data_samples"])["raw/hidden"].isfinite()


def test_teachers_are_balanced_by_shares(tiny: Tiny, stream_batches: Batches) -> None:
    """Each teacher's loss gets the weight at which its gradient is its share of the task's, whatever its scale."""
    losses = {
        "first": {"type": "KL", "teacher": 0, "weight": {"share": 0.5}},
        "second": {"type": "KL", "teacher": 1, "weight": {"share": 0.25}, "tau": 4.0},
    }
    cfg = tiny.load("distill", {**two_teachers(tiny, input_size=64), "distill.losses": losses})
    distiller = build_distiller(cfg, seed=0)
    distiller.train()
    data = distiller.data_preprocessor(stream_batches(cfg, 1)[0], training=True)
    with distiller.capture:
        values = distiller.loss(data["inputs"], data["data_samples"])
        read = distiller.capture["decode_head"]
        task = torch.autograd.grad(task_loss(values), read, retain_graph=True)[0].norm()
        lengths = {
            name: torch.autograd.grad(values[f"distill.loss_{name}"], read, retain_graph=True)[0].norm()
            for name in losses
        }
    came_out = {name: float(length / task) for name, length in lengths.items()}
    assert came_out == pytest.approx({"first": 0.5, "second": 0.25}, rel=1e-4)
    assert values["weight/first"] != values["weight/second"]


def test_the_size_stays_with_the_config(tiny: Tiny, tmp_path: Any) -> None:
    cfg = tiny.load("distill", {"+distill.teachers.0.input_size": 48})
    spec = distill_spec(cfg)
    assert spec is not None and spec.teachers[0].input_size == (48, 48) and spec.teachers[0].input_scale == (1.5, 1.5)
    with pytest.raises(UserError, match=r"distill.teachers.0.input_size: the teacher's model is made of it"):
        with_overrides(cfg, {"distill.teachers.0.input_size": 64})
    for wrong in (0, "large", [1, 2, 3]):
        with pytest.raises(UserError, match=r"distill.teachers.0.input_size"):
            tiny.load("distill", {"+distill.teachers.0.input_size": wrong})

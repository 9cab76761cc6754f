"""Images without masks: no part of the task's loss, all of the distillation's."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import Tiny
from mmengine.runner import Runner
from torch import Tensor

from rdistill.core.errors import UserError
from rdistill.data.unlabeled import NO_LABEL
from rdistill.distill.batch_labels import confident_mask
from rdistill.distill.distiller import Distiller, build_distiller
from rdistill.distill.gradients import task_loss
from rdistill.training.runner import prepare_config

UNLABELED = {"img_dir": "img_dir/train", "per_batch": 3}


def losses(distiller: Distiller, batch: Any) -> dict[str, Any]:
    data = distiller.data_preprocessor(copy.deepcopy(batch), training=True)
    with distiller.capture:
        return distiller(**data, mode="loss")


def built(tiny: Tiny, folder: Path, unlabeled: dict[str, Any] | None = None) -> tuple[Distiller, Any]:
    cfg = tiny.load("distill", {"+distill.unlabeled": unlabeled} if unlabeled else {})
    loader = prepare_config(cfg, folder, 0, None).train_dataloader
    distiller = build_distiller(cfg, seed=0)
    distiller.eval()  # BatchNorm and dropout, which see the whole batch, aside
    return distiller, next(iter(Runner.build_dataloader(loader, seed=0)))


def gradient(distiller: Distiller, total: Tensor) -> list[Tensor]:
    parts = torch.autograd.grad(total, list(distiller.student.parameters()), allow_unused=True)
    return [part for part in parts if part is not None]


def test_the_task_is_that_of_the_labelled_images_alone(tiny: Tiny, tmp_path: Path) -> None:
    distiller, batch = built(tiny, tmp_path)
    expected = gradient(distiller, task_loss(losses(distiller, batch)))
    distiller, batch = built(tiny, tmp_path, UNLABELED)
    assert len(batch["inputs"]) == 5
    actual = gradient(distiller, task_loss(losses(distiller, batch)))
    assert expected and all(torch.allclose(a, b, atol=1e-6) for a, b in zip(actual, expected, strict=True))


def test_the_weight_is_on_what_a_loss_is_on_them(tiny: Tiny, tmp_path: Path) -> None:
    values = []
    for weight in (0.0, 1.0, 3.0):
        distiller, batch = built(tiny, tmp_path, {**UNLABELED, "weight": weight})
        values.append({name: losses(distiller, batch)[f"raw/{name}"] for name in ("logits", "hidden")})
    alone = losses(*built(tiny, tmp_path))
    for name in ("logits", "hidden"):
        none, single, three = (value[name] for value in values)
        assert torch.allclose(none, alone[f"raw/{name}"], rtol=1e-4) and single > none
        assert torch.allclose(three - none, 3 * (single - none), rtol=1e-3)


def test_confidence() -> None:
    logits = torch.tensor([[2.0, 0.0], [0.0, 0.1]]).view(1, 2, 1, 2)
    assert confident_mask(logits, (1, 2), 0.8).tolist() == [[[True, False]]]


@pytest.mark.parametrize("where_sure", [False, True])
def test_the_teachers_classes_as_labels_of_all_images(tiny: Tiny, tmp_path: Path, where_sure: bool) -> None:
    """On those without a mask too: on the image, and where the teacher is sure enough."""
    overrides = {"+distill.unlabeled": UNLABELED, "distill.labels": "teacher", "distill.losses": {}}
    run = tiny.load("distill", overrides)
    distiller = build_distiller(run, seed=0).eval()
    loader = prepare_config(run, tmp_path, 0, None).train_dataloader
    data = distiller.data_preprocessor(next(iter(Runner.build_dataloader(loader, seed=0))), training=True)
    data["data_samples"][4].gt_sem_seg.data[:, :9] = 255  # padding
    logits = distiller.teachers[0](data["inputs"])["decode_head"]
    resized = torch.nn.functional.interpolate(logits, data["inputs"].shape[-2:], mode="bilinear")
    largest = resized.softmax(dim=1).amax(dim=1)
    label = resized.argmax(dim=1)
    label[4, :9] = 255
    if where_sure:
        least = float(largest[2:].median())
        assert distiller.unlabeled is not None
        distiller.unlabeled = distiller.unlabeled.model_copy(update={"min_confidence": least})
        label[2:][largest[2:] < least] = 255
    actual = distiller.loss(data["inputs"], data["data_samples"])["decode.loss_ce"]
    for sample, own in zip(data["data_samples"], label, strict=True):
        sample.gt_sem_seg.data = own[None]
    torch.testing.assert_close(actual, distiller.student.loss(data["inputs"], data["data_samples"])["decode.loss_ce"])


def test_a_weight_without_a_loss_is_refused(tiny: Tiny) -> None:
    overrides = {"+distill.unlabeled": {**UNLABELED, "weight": 2.0}, "distill.labels": "teacher", "distill.losses": {}}
    with pytest.raises(
        UserError, match=r"distill\.unlabeled\.weight: is a factor on distillation losses, and there are"
    ):
        tiny.load("distill", overrides)


def test_ignored_pixels_are_seen_where_that_is_asked(tiny: Tiny, tmp_path: Path) -> None:
    distiller, batch = built(tiny, tmp_path)
    for sample in batch["data_samples"]:
        sample.gt_sem_seg.data[:, :16] = 255
    half = losses(distiller, batch)
    for sample in batch["data_samples"]:
        sample.gt_sem_seg.data[:, :16] = NO_LABEL
    distiller.on_ignored = True
    whole = losses(distiller, batch)
    assert torch.equal(half["decode.loss_ce"], whole["decode.loss_ce"])
    assert not torch.allclose(half["raw/logits"], whole["raw/logits"])

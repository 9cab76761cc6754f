"""Images without masks: no part of the task's loss, all of the distillation's."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import torch
from conftest import Tiny
from mmengine.runner import Runner
from torch import Tensor

from rdistill.data.unlabeled import NO_LABEL
from rdistill.distill.batch_labels import confident
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
    assert confident(logits, (1, 2), 0.8).tolist() == [[[True, False]]]


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

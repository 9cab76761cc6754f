"""A whole step waits for no device, nor leaves a tensor on another: on torch's `meta` device either raises.

See tests/unit/losses/test_no_device_waits.py, which holds it for each loss by itself.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import library_models as made
import pytest
import torch
from conftest import Tiny
from loss_terms import EVERY_TERM, SMALL
from mmengine.config import Config
from mmengine.optim import OptimWrapper
from mmengine.runner import Runner

from rdistill.config.load import with_overrides
from rdistill.distill.distiller import Distiller, build_distiller
from rdistill.distill.teacher import Teacher
from rdistill.models.segmentor import build_segmentor
from rdistill.training.lockstep import Lane, Lockstep
from rdistill.training.runner import prepare_config

Batches = Callable[..., list[dict[str, Any]]]
AUXILIARY = dict(
    type="FCNHead", in_channels=16, in_index=2, channels=4, num_convs=1, num_classes=2, norm_cfg=dict(type="BN"),
    loss_decode=dict(type="CrossEntropyLoss", loss_weight=0.4),
)  # fmt: skip
# mmseg's cross-entropy with class weights picks the labels that count by their values, which is a wait of its own.
NO_CLASS_WEIGHTS = {"model.decode_head.loss_decode.class_weight": None}
# A student of one class more.
THREE = {
    "model.decode_head.num_classes": 3,
    **{f"+{loader}.dataset.metainfo": {"classes": ["background", "cup", "optic disc"], "palette": [[0] * 3] * 3}
       for loader in ("train_dataloader", "val_dataloader")},
}  # fmt: skip
EMA = {"distill.teachers": [dict(ema_decay=0.75)]}


def config_of(tiny: Tiny, *terms: tuple[str, str]) -> Config:
    """The tiny student with two heads, under these losses."""
    losses = {}
    for name, on in terms:
        where = {"on": "logits"} if on == "logits" else {"pair": (1, 1)}
        losses[f"{name}_{on}"] = {"type": name, "weight": 2.0, **where, **SMALL.get(name, {})}
    return tiny.load(
        "distill", {"distill.losses": losses, "+model.auxiliary_head": AUXILIARY, **NO_CLASS_WEIGHTS}, size="16"
    )


def on_meta(distiller: Distiller) -> Distiller:
    """The same student, losses and teachers, without values."""
    distiller.to("meta")
    for teacher in distiller.teachers:
        teacher.model.to("meta")
    distiller.measure_accuracy = False  # an iteration that is not logged does not measure it
    return distiller.train()


def step(distiller: Distiller, batch: dict[str, Any]) -> dict[str, torch.Tensor]:
    """Forward, backward and the optimizer, on the meta device."""
    images = torch.stack(batch["inputs"]).float().to("meta")
    samples = [sample.to("meta") for sample in batch["data_samples"]]
    optimizer = OptimWrapper(torch.optim.SGD(distiller.parameters(), lr=0.1, momentum=0.9))
    with distiller.capture:
        total, logs = distiller.parse_losses(distiller.loss(images, samples))
        assert total.is_meta and all(value.is_meta for value in logs.values())
        total.backward()
    assert all(parameter.grad is not None and parameter.is_meta for parameter in distiller.parameters())
    optimizer.step()
    return logs


@pytest.fixture
def batch(tiny: Tiny, stream_batches: Batches) -> dict[str, Any]:
    return stream_batches(tiny.load("student", size="16"), 1)[0]


def test_a_step_under_every_loss(tiny: Tiny, batch: dict[str, Any]) -> None:
    logs = step(on_meta(build_distiller(config_of(tiny, *EVERY_TERM), seed=0)), batch)
    assert {"decode.loss_ce", "aux.loss_ce"} < set(logs) and not any("acc" in key for key in logs)
    assert {f"distill.loss_{name}_{on}" for name, on in EVERY_TERM} < set(logs)


def test_a_step_of_a_student_alone(tiny: Tiny, batch: dict[str, Any]) -> None:
    assert set(step(on_meta(build_distiller(tiny.load("student", NO_CLASS_WEIGHTS, size="16"), seed=0)), batch)) == {
        "decode.loss_ce",
        "loss",
    }


def test_a_step_under_the_students_own_average(tiny: Tiny, batch: dict[str, Any]) -> None:
    cfg = config_of(tiny, ("KL", "logits"))
    changes = {**EMA, "distill.features.teacher": cfg.distill.features.student}
    distiller = on_meta(build_distiller(with_overrides(cfg, changes), seed=0))
    (teacher,) = distiller.teachers
    for _ in range(2):
        teacher.follow(distiller.student)
        assert all(tensor.is_meta for tensor in teacher.average.avg_parameters.values())
        step(distiller, batch)


def test_a_step_of_a_cohort(tiny: Tiny, batch: dict[str, Any]) -> None:
    """Two students of different losses, whose teacher is computed once for both."""
    lockstep = Lockstep()
    losses = (("KL", "logits"), ("CWD", "features"))
    distillers = [
        build_distiller(config_of(tiny, term), seed=0, source=Lane(lockstep, term[0], lambda lane: None))
        for term in losses
    ]
    (shared,) = lockstep._teachers.values()
    shared.begin_batch(shared=True)
    for distiller in distillers:
        step(on_meta(distiller), batch)
    assert len(shared._users) == 1 and [len(lanes) for lanes in shared._users.values()] == [2]
    shared.end_batch()


@pytest.mark.parametrize("labels", ["data", "teacher"])
def test_a_step_with_images_without_masks_under_a_teacher_of_other_classes(
    tiny: Tiny, tmp_path: Path, labels: str
) -> None:
    """The teacher knows two of the student's three classes, and one that the student has not; confidence counts too."""
    folder = made.save(made.segformer, tmp_path / "segformer", ("rest", "disc", "sky"))
    teacher = dict(type="hf", path=str(folder), classes={"rest": "background", "disc": "optic disc", "sky": None})
    unlabeled = {"img_dir": "img_dir/train", "per_batch": 2, "min_confidence": 0.4, "weight": 0.5}
    losses = {name: {"type": name} for name in ("KL", "CWD", "DKD")}
    cfg = tiny.load("distill", {
        **THREE, **NO_CLASS_WEIGHTS, "distill.teachers": [teacher], "distill.features.teacher": [],
        "distill.losses": losses, "+distill.unlabeled": unlabeled, "+distill.on_ignored": True,
        "+distill.labels": labels,
    }, size="32")  # fmt: skip
    loader = prepare_config(cfg, tmp_path, 0, None).train_dataloader
    both_kinds = next(iter(Runner.build_dataloader(loader, seed=0)))
    distiller = build_distiller(cfg, seed=0)
    assert [route.classes for route in distiller.routes.values()] == [(0, 2)] * 3
    assert [route.masked_by for route in distiller.routes.values()] == [(0,)] * 3
    assert {f"distill.loss_{name}" for name in losses} < set(step(on_meta(distiller), both_kinds))


def test_a_teacher_that_has_moved_is_still_compared(tiny: Tiny) -> None:
    """A student that joins a cohort is on the CPU when its view of the teacher, on a GPU by then, is made."""
    (teacher,) = build_distiller(config_of(tiny, ("KL", "logits")), seed=0).teachers
    late = build_segmentor(tiny.load("student").model)
    late.data_preprocessor.mean += 1.0
    moved = Teacher(teacher.model.to("meta"), ["decode_head"], late.data_preprocessor)
    flip, scale, shift = moved._rescale
    assert not flip and torch.equal(scale, torch.ones(3, 1, 1))
    torch.testing.assert_close(shift, 1.0 / late.data_preprocessor.std)


def test_what_is_tested_would_show(tiny: Tiny, batch: dict[str, Any]) -> None:
    """mmseg's accuracy is a wait: in a step that computes it, this device raises."""
    distiller = on_meta(build_distiller(tiny.load("student", NO_CLASS_WEIGHTS, size="16"), seed=0))
    distiller.measure_accuracy = True
    with pytest.raises((RuntimeError, NotImplementedError)):
        step(distiller, batch)

"""A teacher that tells other classes apart than its student: what each loss compares, and where it looks."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import library_models as made
import pytest
import torch
from conftest import REPO, Tiny
from torch import Tensor

from rdistill.checks.run import class_name_notes, describe_class_maps
from rdistill.config.distill_spec import distill_spec
from rdistill.config.load import load_config, with_overrides
from rdistill.core.errors import UserError
from rdistill.distill.batch_labels import BatchLabels, drop_unmapped_pixels, mapped_mask, restrict_to_classes
from rdistill.distill.distiller import Distiller, build_distiller
from rdistill.losses import functional
from rdistill.models.quiet_mmseg import DATASETS
from rdistill.models.segmentor import why_unscored

Batches = Callable[..., list[dict[str, Any]]]
EXAMPLE = REPO / "examples" / "teachers" / "segformer-b0-cityscapes_fpn-r18-w12_camvid-128.py"
CLASSES = "+distill.teachers.0.classes"
KL = {"distill.losses": {"logits": {"type": "KL", "at": "logits"}}}
# A student that tells one class more apart than its teacher, which is called as the data's second.
THREE = {
    "model.decode_head.num_classes": 3,
    "model.decode_head.loss_decode.class_weight": [0.5, 30.0, 1.0],
    **{f"+{loader}.dataset.metainfo": {"classes": ["background", "cup", "optic disc"], "palette": [[0] * 3] * 3}
       for loader in ("train_dataloader", "val_dataloader")},
}  # fmt: skip


def values_of(distiller: Distiller, batch: dict[str, Any]) -> tuple[dict[str, Tensor], Tensor, Tensor, Tensor]:
    """The losses of a batch, the student's and the teacher's logits, the labels."""
    data = distiller.data_preprocessor(batch, training=False)
    (output,) = (teacher(data["inputs"]) for teacher in distiller.teachers)
    distiller.train()
    with distiller.capture:
        values = distiller.loss(data["inputs"], data["data_samples"])
        student = distiller.capture["decode_head"]
    labels = torch.stack([sample.gt_sem_seg.data.squeeze(0) for sample in data["data_samples"]])
    return values, student, output["decode_head"], labels


def test_swapped_classes(tiny: Tiny, stream_batches: Batches) -> None:
    plain = tiny.load("distill", KL)
    swapped = tiny.load("distill", {**KL, CLASSES: {"background": "optic disc", "optic disc": "background"}})
    batch = stream_batches(plain, 1)[0]
    _, student, teacher, _ = values_of(build_distiller(plain, seed=0), batch)
    values, _, mapped, _ = values_of(build_distiller(swapped, seed=0), batch)
    torch.testing.assert_close(mapped, teacher.log_softmax(dim=1).flip(1))
    torch.testing.assert_close(values["raw/logits"], functional.kl(student, teacher.flip(1)).detach())


def test_a_class_that_the_teacher_does_not_know(tiny: Tiny, stream_batches: Batches) -> None:
    """Its channel has no part, and the others are compared among themselves, where the mask has one of them."""
    cfg = tiny.load("distill", {**KL, **THREE, CLASSES: {"background": "background", "optic disc": "optic disc"}})
    spec = distill_spec(cfg)
    assert spec is not None and describe_class_maps(spec) == [
        ("class map", "background <- background; optic disc <- optic disc; not the teacher's: cup")
    ]
    batch = stream_batches(cfg, 1)[0]
    for sample in batch["data_samples"]:
        sample.gt_sem_seg.data[:, :10] = 1
    distiller = build_distiller(cfg, seed=0)
    values, student, teacher, labels = values_of(distiller, batch)
    known = [0, 2]
    seen = functional.resize_nearest(labels, teacher.shape[-2:]) != 1
    assert not seen.all()
    expected = functional.kl(student[:, known], teacher[:, known], mask=seen)
    torch.testing.assert_close(values["raw/logits"], expected.detach())
    gradients = torch.autograd.grad(expected, student)
    assert (gradients[0][:, 1] == 0).all() and gradients[0][:, 0].any()


def test_the_teacher_s_labels_leave_a_class_that_it_does_not_know(tiny: Tiny, stream_batches: Batches) -> None:
    teacher_says = {"background": "background", "optic disc": "optic disc"}
    cfg = tiny.load("distill", {**THREE, CLASSES: teacher_says, "distill.losses": {}, "+distill.labels": "teacher"})
    batch = stream_batches(cfg, 1)[0]
    distiller = build_distiller(cfg, seed=0)
    data = distiller.data_preprocessor(batch, training=False)
    labels = torch.stack([sample.gt_sem_seg.data.squeeze(0) for sample in data["data_samples"]])
    outputs = [teacher(data["inputs"]) for teacher in distiller.teachers]
    actual = distiller._labels_from_teachers(outputs, BatchLabels(data["data_samples"], labels, None, len(labels)))
    assert torch.equal(actual == 1, labels == 1) and (labels == 1).any()
    logits = outputs[0]["decode_head"]
    size = labels.shape[1:]
    by_teacher = torch.nn.functional.interpolate(logits, size, mode="bilinear", align_corners=False).argmax(dim=1)
    assert torch.equal(actual[labels != 1], by_teacher[labels != 1])


def test_a_teacher_that_names_its_classes_otherwise(tiny: Tiny, tmp_path: Path) -> None:
    """As many classes in another order are compared by number: nothing fails, and the check says it."""

    def notes(*classes: str, **more: Any) -> list[str]:
        folder = made.save(made.segformer, tmp_path / classes[0], classes)
        section = {"distill.teachers": [dict(type="hf", path=str(folder), **more)], "distill.features.teacher": []}
        cfg = tiny.load("distill", {**section, **KL})
        return class_name_notes(cfg, build_distiller(cfg, seed=0))

    (note,) = notes("optic disc", "background")
    assert note.startswith("distill.teachers[0]: its class 'optic disc' is compared with the student's 'background'")
    assert notes("Background", "Optic Disc") == [] and notes("LABEL_0", "LABEL_1") == []
    assert notes("disc", "rest", classes={"disc": "optic disc", "rest": "background"}) == []


def test_labels_of_some_classes() -> None:
    label = torch.tensor([[[0, 1, 2, 255]]])
    some = restrict_to_classes(BatchLabels([], label, None, 1), [0, 2], 255)
    assert some.label_nhw.tolist() == [[[0, 255, 1, 255]]] and some.seen_nhw is None
    seen = restrict_to_classes(BatchLabels([], label, torch.ones_like(label, dtype=torch.bool), 1), [0, 2], 255)
    assert seen.seen_nhw is not None and seen.seen_nhw.tolist() == [[[True, False, True, True]]]


def test_pixels_of_classes_that_the_student_does_not_have() -> None:
    logits = torch.tensor([0.3, 0.1, 0.4, 0.3]).log().reshape(1, 2, 1, 2)  # 0.7 and 0.4 of one
    enough = mapped_mask(logits, (1, 2))
    assert enough.tolist() == [[[True, False]]]
    labels = drop_unmapped_pixels(BatchLabels([], torch.tensor([[[255, 0]]]), None, 1), enough, 255)
    assert labels.label_nhw.tolist() == [[[255, 255]]]  # a loss about labels, such as DKD, looks at these alone
    assert labels.seen_nhw is not None and labels.seen_nhw.tolist() == [[[False, False]]]


@pytest.mark.parametrize(
    ("classes", "message"),
    [
        ({"background": None}, "distill.teachers[0].classes: names nobody"),
        ({"disc": "optic disc", "background": "background"}, "distill.teachers[0].classes: the teacher has no class"),
        ("x", "distill.teachers.0.classes: must be a mapping from the teacher's classes"),
    ],
)
def test_mistakes_are_found_when_the_config_is_loaded(tiny: Tiny, classes: Any, message: str) -> None:
    with pytest.raises(UserError) as caught:
        tiny.load("distill", {CLASSES: classes})
    (line,) = caught.value.problems
    assert f": {message}" in line


def test_the_map_stays_with_the_config(tiny: Tiny, tmp_path: Any) -> None:
    cfg = tiny.load("distill", {CLASSES: {1: "background", 0: 1}})
    cfg.dump(tmp_path / "dumped.py")
    spec = distill_spec(load_config(tmp_path / "dumped.py"))
    assert spec is not None and spec.teachers[0].class_map is not None and spec.teachers[0].class_map.to == (1, 0)
    with pytest.raises(UserError, match=r"distill.teachers.0.classes: the teacher's model is made of it"):
        with_overrides(cfg, {"distill.teachers.0.classes": {0: 0, 1: 1}})
    again = tiny.load("distill", {CLASSES: {1: 1, 0: 0}})
    assert distill_spec(again).teachers[0].class_map.to == (0, 1)  # type: ignore[union-attr]


def test_the_example_of_a_cityscapes_teacher(tmp_path: Path) -> None:
    """All of CamVid's classes are taught, by names as the hub's model has them."""
    cityscapes = DATASETS.get("CityscapesDataset").METAINFO["classes"]
    path = str(made.save(made.segformer, tmp_path / "segformer", cityscapes))
    cfg = load_config(EXAMPLE, {"distill.teachers.0.path": path}, with_data=False)
    spec = distill_spec(cfg)
    assert spec is not None and spec.teachers[0].class_map is not None
    assert set(spec.teachers[0].class_map.to) == {*range(11), None} and spec.teachers[0].input_scale == (4.0, 4.0)
    distiller = build_distiller(cfg, seed=0)
    assert distiller.routes["logits"].classes is None and distiller.routes["logits"].masked_by == (0,)
    images = torch.randn(1, 3, 32, 32)
    with torch.no_grad():
        (output,) = (teacher(images) for teacher in distiller.teachers)
    assert output["decode_head"].shape == (1, 11, 32, 32)  # a quarter of 128, at which it sees them
    assert not why_unscored(distiller.teachers[0].model, distiller.student)

"""The figures of a diagnosis are those that come out by hand, and nothing is left behind."""

from __future__ import annotations

import copy
import math
from typing import Any

import pytest
import torch
from conftest import Tiny
from mmengine.runner import Runner
from torch import Tensor, nn

from rdistill.data.random_state import random_state
from rdistill.distill.distiller import Distiller, build_distiller
from rdistill.distill.teacher import Teacher
from rdistill.training.diagnosis import on_training, on_validation, training_batches, unchanged, validation_batches
from rdistill.training.runner import prepare_config


def distiller_of(tiny: Tiny, **overrides: Any) -> Distiller:
    return build_distiller(tiny.load("distill", overrides), seed=0)


def loaders_of(tiny: Tiny, tmp_path: Any) -> tuple[Any, Any]:
    cfg = prepare_config(tiny.load("distill"), tmp_path, 0, None)
    train, val = (Runner.build_dataloader(cfg[f"{name}_dataloader"].to_dict(), seed=0) for name in ("train", "val"))
    return train, val


def test_what_student_and_teacher_make_of_validation_images(tiny: Tiny, tmp_path: Any) -> None:
    distiller = distiller_of(tiny)
    batches = validation_batches(loaders_of(tiny, tmp_path)[1], images=3)
    (found,) = on_validation(distiller, batches, [3.0])
    student, teacher = distiller.student.eval(), distiller.teachers[0].model
    labels, ours, theirs, logits = [], [], [], []
    for batch in batches:
        with torch.no_grad():
            own, other = student.val_step(copy.deepcopy(batch)), teacher.val_step(copy.deepcopy(batch))  # type: ignore[operator]
        labels += [sample.gt_sem_seg.data.flatten() for sample in own]
        ours += [sample.pred_sem_seg.data.flatten() for sample in own]
        theirs += [sample.pred_sem_seg.data.flatten() for sample in other]
        logits += [sample.seg_logits.data.flatten(1) for sample in other]
    label, own, other, logit = torch.cat(labels), torch.cat(ours), torch.cat(theirs), torch.cat(logits, dim=1)
    assert found["pixels"] == label.numel() == 3 * 48 * 48
    assert found["agreement"] == pytest.approx(100 * float((own == other).float().mean()), abs=1e-3)
    wrong, own_wrong = other != label, own != label
    assert found["teacher_error"] == pytest.approx(100 * float(wrong.float().mean()), abs=1e-3)
    assert found["errors_repeated"] == pytest.approx(100 * float((own == other)[wrong].float().mean()), abs=1e-3)
    assert found["errors_to_learn"] == pytest.approx(100 * float((~wrong)[own_wrong].float().mean()), abs=1e-3)
    assert list(found["teacher_entropy"]) == ["1", "2", "3", "4", "8"]
    p = (logit / 3.0).softmax(0)
    assert found["teacher_entropy"]["3"] == pytest.approx(float(-(p * p.log()).sum(0).mean()) / math.log(2), abs=1e-4)
    confidence = logit.softmax(0).max(0).values
    assert found["teacher_confidence"] == pytest.approx(100 * float(confidence.mean()), abs=1e-3)
    error = 0.0
    for low in range(15):
        inside = (confidence * 15).long().clamp(max=14) == low
        if inside.any():
            off = confidence[inside].mean() - (other == label)[inside].float().mean()
            error += float(off.abs() * inside.float().mean())
    assert found["teacher_calibration_error"] == pytest.approx(100 * error, abs=1e-2)


def test_a_teacher_agrees_with_itself(tiny: Tiny, tmp_path: Any) -> None:
    distiller = distiller_of(tiny)
    distiller.teachers = (Teacher(distiller.student, ["decode_head"], distiller.student.data_preprocessor),)
    (found,) = on_validation(distiller, validation_batches(loaders_of(tiny, tmp_path)[1], images=2), [])
    assert found["agreement"] == 100.0 and found["errors_repeated"] == 100.0 and found["errors_to_learn"] == 0.0


def test_each_of_several_teachers_is_compared_by_itself(tiny: Tiny, tmp_path: Any) -> None:
    """The second is the student itself, the third tells other classes apart."""
    distiller = distiller_of(tiny)
    batches = validation_batches(loaders_of(tiny, tmp_path)[1], images=2)
    (alone,) = on_validation(distiller, batches, [3.0])
    itself = Teacher(distiller.student, ["decode_head"], distiller.student.data_preprocessor)
    others = distiller_of(tiny).teachers[0]
    others.model.decode_head.num_classes = others.model.decode_head.out_channels = 5
    distiller.teachers = (*distiller.teachers, itself, others)
    first, second, third = on_validation(distiller, batches, [3.0])
    assert first == alone and first["agreement"] != 100.0
    assert (
        second["agreement"] == second["errors_repeated"] == 100.0 and second["teacher_error"] == first["student_error"]
    )
    assert third == {}


def test_gradients_are_those_of_a_backward_pass(tiny: Tiny, tmp_path: Any) -> None:
    distiller = distiller_of(tiny)
    batches = training_batches(loaders_of(tiny, tmp_path)[0], 1)
    with unchanged(distiller):
        found = on_training(distiller, batches)
    lengths: dict[str, Tensor] = {}
    for wanted in ("decode.loss_ce", "distill.loss_logits", "distill.loss_hidden"):
        with unchanged(distiller), distiller.capture:
            distiller.train()
            distiller.zero_grad()
            data = distiller.data_preprocessor(copy.deepcopy(batches[0]), True)
            distiller.loss(data["inputs"], data["data_samples"])[wanted].backward()
            lengths[wanted] = flat(distiller.student)
    task, logits, hidden = lengths.values()
    assert found["gradient_task"] == pytest.approx(float(task.norm()), rel=1e-3)
    assert found["gradient_distill"] == pytest.approx(float((logits + hidden).norm()), rel=1e-3)
    assert found["gradient_ratio"] == pytest.approx(float((logits + hidden).norm() / task.norm()), rel=1e-3)
    cosine = torch.nn.functional.cosine_similarity(task, logits + hidden, dim=0)
    assert found["gradient_cosine"] == pytest.approx(float(cosine), abs=1e-3)
    assert found["terms"]["hidden"]["ratio"] == pytest.approx(float(hidden.norm() / task.norm()), rel=1e-3)


def flat(model: nn.Module) -> Tensor:
    return torch.cat(
        [(torch.zeros_like(one) if one.grad is None else one.grad).flatten() for one in model.parameters()]
    ).clone()


def test_twice_the_weight_is_twice_the_gradient(tiny: Tiny, tmp_path: Any) -> None:
    batches = training_batches(loaders_of(tiny, tmp_path)[0], 2)
    found = []
    for weight in (1.0, 2.0):
        distiller = distiller_of(tiny, **{"distill.losses.hidden": None, "distill.losses.logits.weight": weight})
        with unchanged(distiller):
            found.append(on_training(distiller, batches))
    assert found[1]["gradient_ratio"] == pytest.approx(2 * found[0]["gradient_ratio"], rel=1e-4)
    assert found[1]["gradient_cosine"] == pytest.approx(found[0]["gradient_cosine"], abs=1e-5)
    assert found[1]["terms"]["logits"]["raw"] == pytest.approx(found[0]["terms"]["logits"]["raw"], rel=1e-5)


def test_nothing_is_left_behind(tiny: Tiny, tmp_path: Any) -> None:
    """Buffers, modes, teachers, gradients that wait, and random states."""
    distiller = distiller_of(tiny, **{"distill.losses.hidden": {"type": "MGD", "pair": (1, 1)}}).eval()
    batches = training_batches(loaders_of(tiny, tmp_path)[0], 1)
    for parameter in distiller.parameters():
        parameter.grad = torch.full_like(parameter, 0.5)
    before = {name: value.clone() for name, value in distiller.state_dict().items()}
    torch.rand(3)
    state, teachers = random_state(), distiller.teachers
    with unchanged(distiller):
        distiller.teachers = tuple(teacher.without_cache() for teacher in teachers)
        on_training(distiller, batches)
        assert not all(torch.equal(value, before[name]) for name, value in distiller.state_dict().items())
    assert all(torch.equal(value, before[name]) for name, value in distiller.state_dict().items())
    assert all(
        bool((parameter.grad == 0.5).all()) for parameter in distiller.parameters() if parameter.grad is not None
    )
    assert not any(module.training for module in distiller.modules()) and distiller.teachers is teachers
    after = random_state()
    assert after.python == state.python and torch.equal(after.torch, state.torch)


def test_other_classes_have_no_agreement(tiny: Tiny, tmp_path: Any) -> None:
    distiller = distiller_of(tiny)
    teacher = distiller.teachers[0].model
    teacher.decode_head.num_classes = teacher.decode_head.out_channels = 5
    assert on_validation(distiller, validation_batches(loaders_of(tiny, tmp_path)[1], images=2), []) == [{}]

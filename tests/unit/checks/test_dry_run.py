"""One step of training, tried beforehand: what it cannot build, what is not finite, what has no gradient."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import library_models as made
import torch
from conftest import Tiny
from mmengine.config import Config
from torch import nn

from rdistill.checks.run import Report, check_run
from rdistill.distill.distiller import Distiller, build_distiller

Check = Callable[..., Report]


def one(report: Report) -> str:
    """The only problem."""
    assert len(report.problems) == 1, report.problems
    return report.problems[0]


def test_optimizer(check: Check) -> None:
    problem = one(check({"optim_wrapper.optimizer.lr": -0.1}))
    assert problem.startswith("optim_wrapper: cannot be built") and "-0.1" in problem
    problem = one(check({"+optim_wrapper.optimizer.lrr": 0.1}))
    assert "unknown key optim_wrapper.optimizer.lrr: SGD has no such argument; did you mean 'lr'?" in problem


def test_pipeline(check: Check) -> None:
    cropped = [dict(type="LoadImageFromFile"), dict(type="LoadAnnotations"), dict(type="RandomFlip", probe=0.5)]
    assert "RandomFlip has no such argument; did you mean 'prob'?" in one(
        check({"train_dataloader.dataset.pipeline": cropped})
    )
    cropped[2] = dict(type="RandomFlip", prob=5.0)
    assert "the pipeline fails" in one(check({"train_dataloader.dataset.pipeline": cropped}))


def test_one_image_a_worker(check: Check) -> None:
    """BatchNorm of a pooled branch has one value a channel: PyTorch refuses it, at once instead of in training."""
    problem = one(check(batch_size=1))
    assert problem.startswith("one step of training on ") and "more than 1 value per channel" in problem


def test_loss_that_is_not_finite(built: tuple[Config, Distiller]) -> None:
    cfg, distiller = built
    nn.init.constant_(distiller.terms["hidden"].adapter.project.weight, float("nan"))
    problem = one(check_run(cfg, distiller=distiller))
    assert "distill.loss_hidden, raw/hidden is not finite" in problem and ".jpg" in problem


def test_gradient_that_is_not_finite(built: tuple[Config, Distiller]) -> None:
    cfg, distiller = built
    distiller.student.decode_head.conv_seg.bias.register_hook(lambda gradient: gradient * float("inf"))
    assert "gradients that are not finite: student.decode_head.conv_seg.bias" in one(
        check_run(cfg, distiller=distiller)
    )


def test_a_class_map_that_leaves_no_pixel(tiny: Tiny, tmp_path: Path) -> None:
    """A loss on no pixel is 0, which would train the student alone without a word."""
    folder = made.save(made.segformer, tmp_path / "segformer", ["background", "optic disc", "sky"])
    classes = {"background": "background", "optic disc": "optic disc"}
    teacher = dict(type="hf", path=str(folder), classes=classes)
    losses = dict(logits=dict(type="KL"))
    overrides = {"distill.teachers": [teacher], "distill.features.teacher": [], "distill.losses": losses}
    cfg = tiny.load("distill", overrides)
    distiller = build_distiller(cfg, seed=0)
    parameters = dict(distiller.teachers[0].model.named_parameters())
    (bias,) = (value for name, value in parameters.items() if name.endswith("classifier.bias"))
    nn.init.zeros_(bias)
    assert not [note for note in check_run(cfg, distiller=distiller).notes if "classes" in note]
    with torch.no_grad():
        bias[2] = 100.0
    (note,) = (note for note in check_run(cfg, distiller=distiller).notes if "classes" in note)
    assert note == (
        "distill.teachers[0].classes: on each pixel of the first 2 images the teacher predicts a class that is mapped "
        "to none, so losses on logits use no pixel; map more classes, or set unmapped='renormalise'"
    )


def test_parameters_without_a_gradient(built: tuple[Config, Distiller]) -> None:
    """Several workers hang on them; one does not mind."""
    cfg, distiller = built
    distiller.student.backbone.spare = nn.Linear(2, 2)
    assert check_run(cfg, distiller=distiller).problems == []
    cfg.train_dataloader.batch_size = 4
    problem = one(check_run(cfg, distiller=distiller, workers=2))
    assert "student.backbone.spare.weight, student.backbone.spare.bias" in problem
    assert "or set find_unused_parameters=True" in problem
    cfg.find_unused_parameters = True  # mmengine's keys
    assert check_run(cfg, distiller=distiller, workers=2).problems == []
    cfg.model_wrapper_cfg = dict(type="MMDistributedDataParallel", find_unused_parameters=False)  # the one it looks at
    assert "spare.weight" in one(check_run(cfg, distiller=distiller, workers=2))

"""The student alone, written as plain mmseg reads it."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from conftest import Run, Tiny
from torch import Tensor

from rdistill.config.load import load_config
from rdistill.models.segmentor import build_segmentor
from rdistill.training.evaluation import evaluate, use_class_iou

Equal = Callable[[Mapping[str, Tensor], Mapping[str, Tensor]], bool]


def test_student_files_are_plain_mmseg(distilled_run: Run, tiny: Tiny, state_equal: Equal) -> None:
    saved = torch.load(distilled_run.folder / "student.pth", weights_only=True)
    best = torch.load(distilled_run.folder / "best.pth", weights_only=True)
    assert saved["state_dict"].keys() == build_segmentor(tiny.load("student").model).state_dict().keys()
    of_student = {f"student.{key}": value for key, value in saved["state_dict"].items()}
    assert state_equal(of_student, {key: best["state_dict"][key] for key in of_student})
    assert any(key.startswith("terms.hidden.") for key in best["state_dict"])
    assert saved["meta"]["iter"] == best["meta"]["iter"] == distilled_run.metrics["best_iter"]
    assert saved["meta"]["dataset_meta"]["palette"] == [[0, 0, 0], [255, 215, 0]]
    lines = (distilled_run.folder / "student.py").read_text().splitlines()
    text = "\n".join(line for line in lines if not line.startswith("#"))  # comments say where it comes from
    assert not any(word in text for word in ("distill", "Stream", "ClassIoU", "work_dir"))


def test_student_config_alone_scores_the_same(distilled_run: Run) -> None:
    cfg = load_config(distilled_run.folder / "student.py")
    use_class_iou(cfg)
    model = build_segmentor(cfg.model)
    model.load_state_dict(torch.load(distilled_run.folder / "student.pth", weights_only=True)["state_dict"])
    assert evaluate(model, cfg)["mIoU"] == distilled_run.metrics["mIoU"]

"""What a run leaves behind and how it fails; more of whole runs is in tests/e2e/training/test_run.py."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
import torch
from conftest import Run, Tiny
from torch import Tensor

from rdistill.core.errors import UserError
from rdistill.distill.distiller import build_distiller
from rdistill.training.hooks import DivergedError
from rdistill.training.run import evaluate_checkpoint, evaluate_teachers, train

Equal = Callable[[Mapping[str, Tensor], Mapping[str, Tensor]], bool]


# ---------------------------------------------------------------------------------------------------------
# What a run leaves behind


def test_files_and_metrics(distilled_run: Run, teacher_run: Run) -> None:
    files = {path.name for path in distilled_run.folder.iterdir() if path.is_file()}
    wanted = {
        "metrics.json",
        "best.pth",
        "last.pth",
        "student.pth",
        "student.py",
        "config.py",
        "model_card.md",
        "teacher.json",
    }
    assert wanted <= files <= wanted | {"warnings.log"}  # and no half-written file
    metrics = distilled_run.metrics
    assert distilled_run.written_metrics() == metrics
    assert set(metrics) == {
        "mIoU",
        "aAcc",
        "mAcc",
        "IoU",
        "trivial",
        "iter",
        "best_iter",
        "last",
        "seed",
        "seconds",
        "teacher_mIoU",
    }
    assert set(metrics["IoU"]) == {"background", "optic disc"}
    assert metrics["mIoU"] == pytest.approx(sum(metrics["IoU"].values()) / 2, abs=1e-3)
    assert (metrics["iter"], metrics["seed"]) == (6, 0) and metrics["best_iter"] in (2, 4, 6)
    assert (
        set(metrics["last"]) == {"mIoU", "aAcc", "mAcc", "IoU", "trivial"}
        and metrics["last"]["mIoU"] <= metrics["mIoU"]
    )
    assert metrics["teacher_mIoU"] == teacher_run.metrics["mIoU"]
    assert "teacher_mIoU" not in teacher_run.metrics
    for run in (teacher_run, distilled_run):  # both ran in one process, yet each has its own log and curves
        assert len(list(run.folder.glob("*/*.log"))) == len(list(run.folder.glob("*/vis_data/scalars.json"))) == 1


def test_evaluation_of_the_files_gives_the_scores_of_the_run(distilled_run: Run, tiny: Tiny, teacher_run: Run) -> None:
    cfg = tiny.load("student")
    scores = {key: distilled_run.metrics[key] for key in ("mIoU", "aAcc", "mAcc", "IoU", "trivial")}
    assert evaluate_checkpoint(cfg, distilled_run.folder / "student.pth") == scores
    assert evaluate_checkpoint(cfg, distilled_run.folder / "last.pth") == distilled_run.metrics["last"]
    assert evaluate_checkpoint(cfg, distilled_run.folder / "best.pth", split="test") == scores  # the same images
    assert cfg.val_evaluator.type == "IoUMetric"  # the caller's config is left alone
    assert evaluate_teachers(build_distiller(cfg, seed=0), cfg) == []
    cfg = tiny.load("distill")
    (teacher,) = evaluate_teachers(build_distiller(cfg, seed=0), cfg)
    assert teacher["mIoU"] == teacher_run.metrics["mIoU"]


# ---------------------------------------------------------------------------------------------------------
# The same again


def test_a_finished_run_is_not_written_over(tiny: Tiny, distilled_run: Run) -> None:
    before = {path: path.stat().st_mtime_ns for path in distilled_run.folder.rglob("*")}
    with pytest.raises(UserError, match=f"{distilled_run.folder}: holds a run already; pass --resume to continue it"):
        train(tiny.load("distill"), distilled_run.folder)
    assert {path: path.stat().st_mtime_ns for path in distilled_run.folder.rglob("*")} == before


# ---------------------------------------------------------------------------------------------------------
# How it fails


def test_divergence_names_losses_and_images(tiny: Tiny, tmp_path: Path) -> None:
    cfg = tiny.load("distill", {"optim_wrapper.optimizer.lr": 1e30})
    with pytest.raises(DivergedError) as caught:
        train(cfg, tmp_path / "run", teacher_metrics=[])
    message = str(caught.value)
    assert message.startswith("iteration 2: decode.loss_ce") and "lower the learning rate" in message
    assert "distill.loss_logits" in message and "distill.loss_hidden" in message
    images = message.split("images ")[1].split(";")[0].split(", ")
    names = {path.name for path in (tiny.data_root / "img_dir" / "train").iterdir()}
    assert len(images) == 2 and set(images) <= names
    assert not (tmp_path / "run" / "metrics.json").exists()


def test_swept_values_that_do_not_arrive(tiny: Tiny, tmp_path: Path) -> None:
    swept = {
        "distill.losses.logits.weight": 4.0,
        "distill.losses.absent.weight": 1.0,
        "model.decode_head.dropout_ratio": 0.5,
        "optim_wrapper.optimizer.lr": 0.02,
        "distill.losses.hidden.pair": (1, 1),
    }
    with pytest.raises(UserError) as caught:
        train(tiny.load("distill"), tmp_path / "run", swept=swept)
    assert [problem.split(":")[0] for problem in caught.value.problems] == list(swept)[:4]
    assert caught.value.problems[0] == "distill.losses.logits.weight: the sweep set 4.0, but the built run uses 3.0"


def test_an_untrusted_teacher(tiny: Tiny, tmp_path: Path, distilled_run: Run) -> None:
    torch.save({"state_dict": {}, "meta": train}, tmp_path / "teacher.pth")
    cfg = tiny.load("distill", teacher_checkpoint=str(tmp_path / "teacher.pth"))
    with pytest.raises(UserError, match=r"teacher\.pth: .*--trust-checkpoint"):
        train(cfg, tmp_path / "run")

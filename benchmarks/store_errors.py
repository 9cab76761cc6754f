"""What it changes to store fewer bits and classes of a teacher's outputs: each loss, and a student on paired seeds.

python -m benchmarks.store_errors [--config CONFIG] [--data-root DIR] [--teacher-iters 300] [--iters 200] [--seeds 3]

First a teacher is trained, by default a wider student, because the outputs of an untrained teacher have no peaks to
lose. Then a student is trained by KL from a store for each setting and seed. The losses are compared on one batch with
a trained student: relative errors of value and gradient against those with 32 bits.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config
from torch import Tensor

from benchmarks.turns import REPO, print_machine, workbench
from rdistill.checks.dry_run import capture_batch, tiny_batch, untouched
from rdistill.config.distill_spec import LossSpec
from rdistill.config.load import LoadedConfig, Shortcuts, load_config, with_overrides
from rdistill.distill.batch_labels import batch_labels
from rdistill.distill.distiller import Distiller, build_distiller
from rdistill.distill.routes import build_term
from rdistill.distill.teacher_store import packed, unpacked
from rdistill.losses import LOSSES
from rdistill.models import checkpoint
from rdistill.models.segmentor import ignore_index, labels_of
from rdistill.training.run import train

CONFIG = "configs/distill/fpn_efficientnet-lite0-r18-w6_camvid-128.py"
TEACHER = "configs/student/fpn_r18-w12_camvid-128.py"
FEATURES = ["backbone.layer3"]  # a layer of both models, on which losses on features are compared


@dataclass(frozen=True)
class Setting:
    """The bits of each number and the classes of each pixel that are stored."""

    bits: int
    top_k: int | None = None

    def __str__(self) -> str:
        return f"{self.bits} bits" + (f", {self.top_k} classes" if self.top_k else "")


EXACT = Setting(32)
SETTINGS = (Setting(16), Setting(8), Setting(16, 5), Setting(16, 3), Setting(16, 1))


def students(cfg: Config, folder: Path, seeds: int) -> dict[Setting, list[float]]:
    """Setting -> the mIoU after the last iteration, for each seed."""
    scores: dict[Setting, list[float]] = {setting: [] for setting in (EXACT, *SETTINGS)}
    for seed in range(seeds):
        for setting in scores:
            store = {"views": 2, "bits": setting.bits, "dir": str(folder / "store")}
            store |= {} if setting.top_k is None else {"top_k": setting.top_k}
            run_cfg = with_overrides(cfg, {"distill.store": store})
            metrics = train(
                run_cfg, folder / f"{setting.bits}-{setting.top_k}-{seed}", seed=seed, teacher_metrics=[{}], check=False
            )
            scores[setting].append(float(metrics["last"]["mIoU"]))  # type: ignore[index]
    return scores


def loss_errors(cfg: Config, student_file: Path) -> tuple[dict[str, list[tuple[float, float]]], list[int]]:
    """The relative errors of value and gradient, by loss and setting; and the bytes of a view's logits, by setting."""
    run = LoadedConfig.of(cfg)
    distiller = build_distiller(run, seed=0)
    checkpoint.load_weights(distiller.student, student_file, trust=False)
    batch = tiny_batch(run, 8, 0)
    samples = distiller.data_preprocessor(batch, True)["data_samples"]
    labels = batch_labels(samples, ignore_index(distiller.student))
    with untouched(distiller):
        captured = capture_batch(distiller, run.distillation, batch)
    sides = {
        "logits": (captured.student["decode_head"], captured.teachers[0]["decode_head"]),
        "features": (captured.student[FEATURES[0]], captured.teachers[0][FEATURES[0]]),
    }
    rows: dict[str, list[tuple[float, float]]] = {}
    for name, info in LOSSES.registered().items():
        for side in info.on:
            loss = LossSpec(type=name, pair=None if side == "logits" else (0, 0))
            student, teacher = sides[side]
            settings = [setting for setting in SETTINGS if side == "logits" or setting.top_k is None]
            kept = [teacher, *(_kept(teacher, setting) for setting in settings)]
            rows[f"{name} on {side}"] = _errors(distiller, loss, student, kept, labels)
    logits = sides["logits"][1][:1]
    return rows, [len(packed(logits, setting.bits, setting.top_k)) for setting in (EXACT, *SETTINGS)]


def _kept(teacher_nchw: Tensor, setting: Setting) -> Tensor:
    return torch.cat([unpacked(packed(image, setting.bits, setting.top_k)) for image in teacher_nchw.split(1)])


def _errors(
    distiller: Distiller, loss: LossSpec, student: Tensor, kept: Sequence[Tensor], labels: Any
) -> list[tuple[float, float]]:
    """Relative errors of value and gradient of the other kept outputs against the first."""
    seen = []
    for teacher in kept:
        torch.manual_seed(0)  # adapters draw their weights, some losses their samples
        term = build_term("tried", loss, (student.shape[1], teacher.shape[1]), labels_of(distiller.student))
        leaf = student.clone().requires_grad_()
        layers = LOSSES[loss.type].layers and loss.pair is not None
        sides = ([leaf], [teacher]) if layers else (leaf, teacher)
        value = term(*sides, labels.label_nhw, labels.seen_nhw)
        (gradient,) = torch.autograd.grad(value, leaf)
        seen.append((float(value.detach()), gradient))
    (exact, direction), *others = seen
    return [
        (abs(value - exact) / max(abs(exact), 1e-12), float((gradient - direction).norm() / direction.norm()))
        for value, gradient in others
    ]


def main() -> None:
    """Trains, compares, and prints two tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", default=CONFIG)
    parser.add_argument("--teacher", default=TEACHER, help="a config whose model is trained as the teacher")
    parser.add_argument("--data-root", default="../shared/data/camvid")
    parser.add_argument("--teacher-iters", type=int, default=300)
    parser.add_argument("--iters", type=int, default=200)
    parser.add_argument("--seeds", type=int, default=3)
    args = parser.parse_args()
    with workbench() as folder:
        lengths = dict(data_root=args.data_root, num_data_workers=0)
        teacher_cfg = load_config(
            REPO / args.teacher,
            shortcuts=Shortcuts(**lengths, iters=args.teacher_iters, val_interval=args.teacher_iters),
        )
        teacher = train(teacher_cfg, folder / "teacher")
        names = {"student": FEATURES, "teacher": FEATURES}
        entry = {"config": str(REPO / args.teacher), "checkpoint": str(folder / "teacher" / "best.pth")}
        cfg = load_config(
            REPO / args.config, {"distill.teachers": [entry], "distill.features": names},
            Shortcuts(**lengths, iters=args.iters, val_interval=args.iters),
        )  # fmt: skip
        scores = students(cfg, folder, args.seeds)
        rows, sizes = loss_errors(cfg, folder / "32-None-0" / "student.pth")
        print_machine()
        show_losses(rows)
        show_students(scores, sizes, teacher["mIoU"])


def show_losses(rows: dict[str, list[tuple[float, float]]]) -> None:
    """A row a loss: relative error of value / gradient, in percent."""
    print(f"| loss | {' | '.join(map(str, SETTINGS))} |")
    print(f"| --- |{' --- |' * len(SETTINGS)}")
    for name, errors in rows.items():
        cells = [f"{100 * value:.2g} / {100 * gradient:.2g}" for value, gradient in errors]
        print(f"| {name} | {' | '.join([*cells, *[''] * (len(SETTINGS) - len(cells))])} |")


def show_students(scores: dict[Setting, list[float]], sizes: Sequence[int], teacher: float | None) -> None:
    """A row a setting: bytes, mIoU, and the difference to 32 bits on the same seeds."""
    print(f"\nThe teacher has {teacher} mIoU.\n")
    print(
        "| kept | logits of a view, bytes | mIoU, mean | difference to 32 bits, each seed |\n| --- | --- | --- | --- |"
    )
    for (setting, values), size in zip(scores.items(), sizes, strict=True):
        apart = ", ".join(f"{value - exact:+.2f}" for value, exact in zip(values, scores[EXACT], strict=True))
        print(f"| {setting} | {size} | {statistics.mean(values):.2f} | {apart} |", flush=True)


if __name__ == "__main__":
    main()

"""Makes the table on which `benchmarks.search` replays searches: hundreds of short trainings, in a CSV file beside it.

python -m benchmarks.search_table --data-root ../shared/data/nuclei [--out benchmarks/search_table.csv] [--rows 208]
python -m benchmarks.search_table --data-root ../shared/data/optic_disc --out benchmarks/search_table_optic_disc.csv

Cell nuclei (or optic discs, by the folder's name) at 64 pixels; a teacher of twice the student's width, trained for
1,200 iterations. Each row is a student that was trained alone for 160 iterations (600 on optic discs) and is then
distilled for 32 iterations, by KL on the logits and a loss on one feature pair. Its two weights, KL's temperature and
the learning rate are spread evenly (Sobol) over logarithmic ranges. The two weights are drawn as *shares*: the length
of the loss's gradient divided by that of the task loss, at that start, over all weights of the student. A row has both
shares and weights, so that a search can be replayed in either.

The students train in cohorts (`rdistill.training.lockstep`), about 2.5 seconds of one core each. Rows in the file are
not trained again, so that the command continues where it was stopped; the teacher and the runs are under --work-dir.
"""

from __future__ import annotations

import argparse
import csv
import io
import math
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmengine.runner import Runner
from scipy.stats import qmc

from benchmarks.turns import REPO
from rdistill.config.load import LoadedConfig, Shortcuts, load_run
from rdistill.core.files import write_whole
from rdistill.distill.distiller import build_distiller
from rdistill.models.pretrained import start_weights
from rdistill.schemas.run import Scores
from rdistill.sweeps.proof.two_way import mean_iou
from rdistill.training.diagnosis import on_training, training_batches
from rdistill.training.evaluation import ClassIoUMetric
from rdistill.training.hooks import Silent
from rdistill.training.lockstep import Lane, Lockstep
from rdistill.training.run import RunOptions, train_run
from rdistill.training.runner import prepare_config

TABLE = Path(__file__).parent / "search_table.csv"
ITERATIONS, VALIDATIONS, VAL_IMAGES = 32, 4, 32
TEACHER_ITERATIONS, TEACHER_LR, START_LR = 1200, 0.003, 0.01
START_ITERATIONS = {"nuclei": 160, "optic_disc": 600}  # a disc is 2 % of the pixels, and is not found after 160
CONFIGS = {
    "nuclei": ("configs/student/fpn_r18-w6_nuclei-128.py", "configs/student/fpn_r18-w12_nuclei-128.py"),
    "optic_disc": ("configs/student/fpn_r18-w6_optic-disc-128.py", "configs/student/fpn_r18-w12_optic-disc-128.py"),
}  # name of the data folder -> config of the student, of the teacher
LOSSES = {"CWD": 50.0, "AT": 1.2, "PKD": 1.0}  # loss on a feature pair -> the published weight
PAIRS = ("[0, 0]", "[1, 1]")
# The columns that are spread evenly -> lowest, highest, on a logarithmic scale.
RANGES = {"lr": (1e-4, 3e-2), "tau": (1.0, 8.0), "logits_share": (0.03, 10.0), "hidden_share": (0.03, 10.0)}
COLUMNS = [
    "row", "lr", "hidden", "pair", "tau", "logits_share", "hidden_share", "logits_weight", "hidden_weight",
    *(f"mIoU_{ITERATIONS * (number + 1) // VALIDATIONS}" for number in range(VALIDATIONS)),
]  # fmt: skip
LR = "optim_wrapper.optimizer.lr"
CLASS_WEIGHT = {
    "+model.decode_head.loss_decode.class_weight": [1.0, 4.0]
}  # otherwise it predicts only background for a long time
TOGETHER = 8  # students in a cohort


def design(rows: int) -> list[dict[str, Any]]:
    """The settings of each row, spread evenly; a longer table begins with the rows of a shorter one."""
    points = qmc.Sobol(len(RANGES) + 1, seed=0).random_base2(math.ceil(math.log2(rows)))[:rows]
    kinds = [(loss, pair) for loss in LOSSES for pair in PAIRS]
    listed = []
    for number, point in enumerate(points):
        loss, pair = kinds[int(point[-1] * len(kinds))]
        values = {
            name: low * (high / low) ** part for (name, (low, high)), part in zip(RANGES.items(), point, strict=False)
        }
        listed.append({"row": number, "hidden": loss, "pair": pair, **values})
    return listed


def few_images(data_root: Path) -> dict[str, Any]:
    """An override that uses only every n-th validation image."""
    every = len(list((data_root / "img_dir" / "val").iterdir())) // VAL_IMAGES
    return {"+val_dataloader.dataset.indices": [every * number for number in range(VAL_IMAGES)]}


def two_classes(data_root: Path) -> dict[str, Any]:
    """Overrides: nucleus and its boundary as one class, and a few of the validation images."""
    if data_root.name != "nuclei":
        return few_images(data_root)
    names = {"classes": ("background", "nucleus"), "palette": [[0, 0, 0], [255, 215, 0]]}
    return {
        "model.decode_head.num_classes": 2,
        "train_dataloader.dataset.metainfo": names, "val_dataloader.dataset.metainfo": names,
        "test_dataloader.dataset.metainfo": names, **few_images(data_root),
    }  # fmt: skip


def shortcuts_of(data_root: Path, iterations: int, validations: int) -> Shortcuts:
    """At 64 pixels, 8 images a step; a nucleus's boundary counts as nucleus."""
    return Shortcuts(
        data_root=str(data_root), size="64", iters=iterations, batch_size=8, val_interval=iterations // validations,
        label_map={2: 1} if data_root.name == "nuclei" else None,
    )  # fmt: skip


def student_config(folder: Path, data_root: Path) -> LoadedConfig:
    """The distilled student's config."""
    teacher = folder / "teacher"
    shortcuts = shortcuts_of(data_root, ITERATIONS, VALIDATIONS)
    start = {"load_from": str(folder / "start" / "student.pth")}
    layers = ["backbone.layer3", "backbone.layer4"]
    section = {
        "teachers": [{"config": str(teacher / "config.py"), "checkpoint": str(teacher / "last.pth"), "cache": "on"}],
        "features": {"student": layers, "teacher": layers},
        "losses": {"logits": {"type": "KL", "on": "logits"}, "hidden": {"type": "CWD", "pair": [0, 0]}},
    }
    overrides = {**two_classes(data_root), "+distill": section, **CLASS_WEIGHT, **start}
    return load_run(REPO / CONFIGS[data_root.name][0], overrides, shortcuts)


def values_of(row: Mapping[str, Any]) -> dict[str, Any]:
    """The overrides of the config that a row stands for."""
    pair = [int(index) for index in row["pair"].strip("[]").split(",")]
    logits = {"type": "KL", "on": "logits", "tau": row["tau"], "weight": row.get("logits_weight", 1.0)}
    hidden = {"type": row["hidden"], "pair": pair, "weight": row.get("hidden_weight", 1.0)}
    return {
        LR: row["lr"], "distill.losses": {"logits": logits, "hidden": hidden}
    }  # fmt: skip


def train_alone(config: str, iterations: int, more: Mapping[str, Any], data_root: Path, folder: Path) -> None:
    """Trains the teacher, or the weights that the students start from; ``more`` are overrides."""
    shortcuts = shortcuts_of(data_root, iterations, 4)
    run = load_run(REPO / config, {**two_classes(data_root), **more}, shortcuts)
    train_run(run, folder, RunOptions(resume=folder.exists()), Silent())


def weighed(row: dict[str, Any], config: LoadedConfig) -> dict[str, Any]:
    """The row with the weights that give its shares: a loss's gradient is proportional to its weight."""
    distiller = build_distiller(config.with_overrides(values_of(row)), seed=0)
    start_weights(distiller.student, config.cfg.load_from, trust=False)
    loader = Runner.build_dataloader(prepare_config(config.cfg, Path("unused"), 0, None).train_dataloader, seed=0)
    ratios = on_training(distiller, training_batches(loader, 2))["terms"]
    return {
        **row, **{f"{name}_weight": row[f"{name}_share"] / ratios[name]["ratio"] for name in ("logits", "hidden")}
    }  # fmt: skip


@HOOKS.register_module()
class KeepImages(Hook):
    """Records the score of each image at each validation."""

    def __init__(self, row: int) -> None:
        self.kept = IMAGES.setdefault(row, [])

    def before_val(self, runner: Any) -> None:
        self.counts: list[np.ndarray] = []
        next(
            metric for metric in runner.val_evaluator.metrics if isinstance(metric, ClassIoUMetric)
        ).by_image = self.counts

    def after_val(self, runner: Any) -> None:
        self.kept.append([float(mean_iou(counts)) for counts in self.counts])


IMAGES: dict[int, list[list[float]]] = {}  # row -> validation -> mIoU of each image


class Curve(Silent):
    """Records a student's score at each validation."""

    def __init__(self) -> None:
        self.scores: list[float] = []

    def validated(self, iteration: int, metrics: Scores) -> None:
        self.scores.append(metrics["mIoU"])


def train_together(rows: Sequence[dict[str, Any]], config: LoadedConfig, folder: Path) -> list[list[float]]:
    """Trains the students of some rows in lockstep; returns the scores of each at its validations."""
    lockstep, curves = Lockstep(), [Curve() for _ in rows]
    for row, curve in zip(rows, curves, strict=True):
        work_dir = folder / f"row{row['row']}"
        shutil.rmtree(work_dir, ignore_errors=True)
        hook = [{"type": "KeepImages", "row": row["row"]}]
        run = config.with_overrides({**values_of(row), "+custom_hooks": hook})

        def train(lane: Lane, run: LoadedConfig = run, work_dir: Path = work_dir, curve: Curve = curve) -> None:
            train_run(run, work_dir, RunOptions(teacher_metrics=[{}], lane=lane, check=False), curve)

        lockstep.join(str(row["row"]), train)
    while lockstep.step():
        pass
    for row in rows:
        shutil.rmtree(folder / f"row{row['row']}", ignore_errors=True)
    return [curve.scores for curve in curves]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-root", type=Path, required=True, help="nuclei or optic_disc of shared/data/README.md")
    parser.add_argument("--out", type=Path, default=TABLE)
    parser.add_argument("--work-dir", type=Path, default=Path("work_dirs/search_table"))
    parser.add_argument("--rows", type=int, default=208)
    args = parser.parse_args()
    data_root, folder = args.data_root.absolute(), args.work_dir.absolute()
    student, teacher = CONFIGS[data_root.name]
    train_alone(teacher, TEACHER_ITERATIONS, {LR: TEACHER_LR}, data_root, folder / "teacher")
    train_alone(student, START_ITERATIONS[data_root.name], {LR: START_LR, **CLASS_WEIGHT}, data_root, folder / "start")
    config = student_config(folder, data_root)
    done = read_rows(args.out) if args.out.exists() else []
    images = dict(np.load(args.out.with_suffix(".npz"))) if done else {}
    rows = [row for row in design(args.rows) if row["row"] not in {int(row["row"]) for row in done}]
    for start in range(0, len(rows), TOGETHER):
        some = [weighed(row, config) for row in rows[start : start + TOGETHER]]
        for row, curve in zip(some, train_together(some, config, folder), strict=True):
            done.append({**row, **dict(zip(COLUMNS[-VALIDATIONS:], curve, strict=True))})
        images.update({str(row["row"]): np.array(IMAGES[row["row"]], dtype=np.float16) for row in some})
        np.savez_compressed(args.out.with_suffix(".npz"), **images)  # type: ignore[arg-type]
        write_rows(args.out, done)
        print(f"{len(done)} of {args.rows} rows", flush=True)


def read_rows(file: Path) -> list[dict[str, Any]]:
    """The rows of a table; all columns except ``hidden`` and ``pair`` are numbers."""
    with open(file, newline="") as content:
        return [
            {name: value if name in ("hidden", "pair") else float(value) for name, value in row.items()}
            for row in csv.DictReader(content)
        ]


def write_rows(file: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Writes the table with five digits of each number, more than a training on one seed can tell."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    for row in rows:
        cells = [row[name] for name in COLUMNS]
        writer.writerow([f"{cell:.5g}" if isinstance(cell, float) else cell for cell in cells])
    write_whole(file, text.getvalue())


if __name__ == "__main__":
    main()

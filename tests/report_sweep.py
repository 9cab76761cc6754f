"""A sweep's folder as a sweep leaves it, drawn from a formula: for what a real one would be too small for."""

from __future__ import annotations

import json
import math
import random
from pathlib import Path
from typing import Any

from rdistill.sweeps.study.records import TrialRecord

WEIGHT, HIDDEN, PAIR = "distill.losses.logits.weight", "distill.losses.hidden.weight", "distill.losses.hidden.pair"
KIND = "distill.losses.hidden.type"
FEATURES = ["backbone.layer3", "backbone.layer4", "decode_head.bottleneck"]
SPACE = {
    WEIGHT: {"type": "loguniform", "low": 1.0, "high": 100.0},
    HIDDEN: {"type": "loguniform", "low": 1.0, "high": 100.0},
    PAIR: {"type": "pairs", "pairs": "all"},
    KIND: {"type": "choice", "values": ["CWD", "AT"]},
}
CONFIG = {
    "train_cfg": {"type": "IterBasedTrainLoop", "max_iters": 1000, "val_interval": 50},
    "train_dataloader": {"batch_size": 4},
    "val_dataloader": {"dataset": {"type": "PaddleSegDataset", "data_root": "data/optic", "ann_file": "val_list.txt"}},
    "distill": {
        "teachers": [{"config": "teacher.py", "checkpoint": "work_dirs/teacher/best.pth"}],
        "features": {"student": FEATURES, "teacher": FEATURES},
        "losses": {"logits": {"type": "KL"}, "hidden": {"type": "CWD", "pair": [1, 1]}},
    },
}


def a_record(
    name: str, seed: int = 0, *, classes: tuple[str, ...] = ("background", "optic disc"), **more: Any
) -> TrialRecord:
    """A trial of 1,000 iterations, validated every 50, its losses kept 200 times."""
    rng = random.Random(f"{name}/{seed}")
    alone = name.startswith("b")
    values = (
        {}
        if alone
        else {
            WEIGHT: 10 ** rng.uniform(0, 2),
            HIDDEN: 10 ** rng.uniform(0, 2),
            PAIR: [rng.randrange(3), rng.randrange(3)],
            KIND: rng.choice(["CWD", "AT"]),
        }
    )
    gain = (
        0.0
        if alone
        else 8 * math.exp(-((math.log10(values[WEIGHT]) - 1.2) ** 2)) + (values[PAIR][0] == values[PAIR][1])
    )
    top = 70 + gain + rng.gauss(0, 1)
    stopped = not alone and top < 74 and rng.random() < 0.7
    last = 300 if stopped else 1000
    history = []
    for step in range(50, last + 1, 50):
        score = 49 + (top - 49) * (1 - math.exp(-step / 250)) + rng.gauss(0, 0.5)
        ious = {class_name: score + (8 if index == 0 else -8) for index, class_name in enumerate(classes)}
        history.append({"iter": step, "seconds": step * 0.05, "mIoU": score, "aAcc": 95.0, "IoU": ious})
    losses = []
    for step in range(5, last + 1, 5):
        fall = math.exp(-step / 300) + 0.1
        entry = {"iter": step, "decode.loss_ce": 0.4 * fall * rng.uniform(0.9, 1.1), "lr": 0.01}
        if not alone:
            for loss, size, key in (("logits", 0.05, WEIGHT), ("hidden", 0.002, HIDDEN)):
                entry[f"raw/{loss}"] = size * fall * rng.uniform(0.9, 1.1)
                entry[f"distill.loss_{loss}"] = entry[f"raw/{loss}"] * values[key]
        entry["loss"] = sum(value for key, value in entry.items() if "loss" in key)
        losses.append(entry)
    status = "stopped" if stopped else "finished"
    common = {"status": status, "history": history, "losses": losses, "teacher_mIoU": 84.1, "effective": dict(values)}
    return TrialRecord(name, values, seed, **{**common, **more})


def a_sweep(folder: Path, trials: int, *, spec: dict[str, Any] | None = None) -> Path:
    """A finished sweep's folder: ``study.json`` and the baseline's and the trials' records."""
    sweep = {"config": "c.py", "space": SPACE, "search": {"type": "optuna", "num_trials": trials, "seed": 0}, "seed": 0}
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "study.json").write_text(json.dumps({"sweep": {**sweep, **(spec or {})}, "config": CONFIG}))
    for name in ["baseline", *[f"t{number:04d}" for number in range(1, trials + 1)]]:
        a_record(name).save(folder / "trials" / name)
    return folder


def a_summary(folder: Path) -> dict[str, Any]:
    """What a sweep that confirmed two configurations writes at its end, also to ``summary.json``."""

    def one(name: str, mean: float, gap: tuple[float, float, float] | None, values: dict[str, Any]) -> dict[str, Any]:
        difference = None
        if gap:
            difference = {
                "mean": gap[0],
                "low": gap[1],
                "high": gap[2],
                "p": 0.01,
                "p_adjusted": 0.02,
                "above_zero": gap[1] > 0,
            }
        ious = {"background": {"mean": mean + 10, "sd": 0.2}, "optic disc": {"mean": mean - 10, "sd": 1.5}}
        for entry in ious.values():
            entry["difference"] = difference
        return {
            "id": name,
            "values": values,
            "n": 3,
            "mean": mean,
            "sd": 0.8,
            "scores": {"1": mean - 1, "2": mean, "3": mean + 1},
            "difference": difference,
            "IoU": ious,
            "share_of_teacher": mean / 84.1 * 100,
            "one_class_runs": 0,
        }

    summary = {
        "status": "finished",
        "verdict": "t0001 is better than the student alone: +4.10 mIoU (95 % interval 2.20 to 6.00, 3 seeds).",
        "teacher": {"mIoU": 84.1, "IoU": {"background": 98.0, "optic disc": 70.2}},
        "confirmed": {
            "seeds": [1, 2, 3],
            "baseline": one("baseline", 73.0, None, {}),
            "configurations": [
                one("t0001", 77.1, (4.1, 2.2, 6.0), {WEIGHT: 12.3}),
                one("t0002", 73.5, (0.5, -1.0, 2.0), {WEIGHT: 4.0}),
            ],
        },
        "cost": {"wall_seconds": 1900.0, "trial_seconds": 4500.0, "share_saved_by_stopping": 0.25},
        "environment": {
            "rdistill": "0.1.0",
            "torch": "2.13.0",
            "cpu": "2 cores",
            "command": ["rdistill", "sweep", "a b.yaml"],
        },
        "warnings": ["the search ended at the border of distill.losses.logits.weight"],
    }
    (folder / "summary.json").write_text(json.dumps(summary))
    return summary

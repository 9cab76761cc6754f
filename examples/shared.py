"""What the examples share: images, a teacher that learned from them, and a small sweep. Each is made once."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import rdistill

WORK = Path("work_dirs/examples")
CONFIGS = Path("examples/configs")  # short files upon those in configs/
TEACHER, STUDENT, DISTILL = CONFIGS / "teacher.py", CONFIGS / "student.py", CONFIGS / "distill.py"
SHORT = {"size": 64, "iters": 240, "batch_size": 8, "val_interval": 60}  # a minute, not hours


def fresh(name: str) -> Path:
    """A place for a run. What an earlier one of the example left there goes, since no run overwrites another."""
    folder = WORK / name
    shutil.rmtree(folder, ignore_errors=True)
    return folder


def images() -> Path:
    """A folder with drawn photographs and masks: img_dir/{train,val} and ann_dir/{train,val}."""
    folder = WORK / "data"
    if not folder.exists():
        words = ["--num-train", "60", "--num-val", "12", "--size", "96"]
        subprocess.run([sys.executable, "-m", "rdistill", "data", "synthetic", str(folder), *words], check=True)
    return folder


def teacher() -> Path:
    """The checkpoint of a trained teacher."""
    checkpoint = WORK / "teacher" / "best.pth"
    if not checkpoint.exists():
        rdistill.train(TEACHER, WORK / "teacher", data_root=images(), **SHORT)
    return checkpoint


def sweep() -> Path:
    """The folder of a sweep: four weights of the KL loss, and the student alone."""
    folder = WORK / "sweep"
    if not (folder / "best.pth").exists():
        study = {
            "config": str(DISTILL),
            "space": {"distill.losses.logits.weight": {"type": "choice", "values": [0.1, 0.3, 1.0, 3.0]}},
            "search": {"type": "grid", "seed": 0},
            "headroom": "off",
        }
        begun = (folder / "study.json").exists()  # and was interrupted
        rdistill.sweep(study, folder, resume=begun, data_root=images(), teacher_checkpoint=teacher(), **SHORT)
    return folder

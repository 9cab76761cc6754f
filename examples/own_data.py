"""Your own folder of images and masks, from `rdistill init` to a scored student.

Run it: python examples/own_data.py [FOLDER]

Without a folder it makes one such as people have: photographs and masks side by side, masks of 0 and 255, no split into
training and validation. docs/init.md has the layouts that `init` recognises.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import cv2
import shared

import rdistill

OUT = shared.fresh("own-data")


def a_folder() -> Path:
    """Photographs and masks of 0 and 255, by the same names."""
    source, folder = shared.images(), shared.WORK / "my-photographs"
    for name in ("photos", "masks"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    for mask in sorted((source / "ann_dir" / "train").glob("*.png")):
        photograph = next((source / "img_dir" / "train").glob(f"{mask.stem}.*"))
        cv2.imwrite(str(folder / "photos" / photograph.name), cv2.imread(str(photograph)))
        classes = cv2.imread(str(mask), cv2.IMREAD_UNCHANGED)
        cv2.imwrite(str(folder / "masks" / mask.name), 255 * (classes == 1).astype("uint8"))
    return folder


folder = Path(sys.argv[1]) if len(sys.argv) > 1 else a_folder()

# Looks at the folder, writes base.py, student.py, teacher.py, distill.py and sweep.yaml, and says what it decided.
init = ["init", "--data", folder, "--student", "fpn_r18-w12", "--teacher", "fpn_r18-w12", "--size", "64"]
subprocess.run([sys.executable, "-m", "rdistill", *init, "--out", OUT], check=True)

short = {"iters": 120, "val_interval": 60, "batch_size": 8}
rdistill.train(OUT / "teacher.py", OUT / "teacher", **short)
student = rdistill.train(OUT / "distill.py", OUT / "student", teacher_checkpoint=OUT / "teacher" / "best.pth", **short)
print(f"student {student['mIoU']:.1f} mIoU, teacher {student['teacher_mIoU']:.1f}")

# The student is plain mmseg: a config and a checkpoint, which `mmseg.apis.init_model` loads without rdistill.
scores = rdistill.evaluate(OUT / "student" / "student.py", OUT / "student" / "student.pth")
print({name: value and round(value, 1) for name, value in scores["IoU"].items()})

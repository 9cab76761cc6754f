"""Seconds a trial-iteration: students in a cohort against the same student alone, in steady state.

python -m benchmarks.cohort [--pair slim|full] [--students 8] [--iterations 10] [--pairs 5] [--data-root DIR]

Both run the whole of a training iteration: data, teacher, student, losses, optimizer, hooks. They are timed in turn,
``--pairs`` times, after a warm-up. What is printed is Markdown for RESULTS.md.
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import sys
import tempfile
import time
import warnings
from pathlib import Path

import torch
from mmengine.config import Config

from rdistill.config import Shortcuts, load_config, read_config_file, with_overrides
from rdistill.data.synthetic import generate
from rdistill.lockstep import Lane, Lockstep
from rdistill.segmentor import build_segmentor
from rdistill.training import train

REPO = Path(__file__).parents[1]
CONFIGS = {
    "slim": ("deeplabv3plus_r50-r18-slim_optic-disc-128", "deeplabv3plus_r50-slim_optic-disc-128"),
    "full": ("deeplabv3plus_r50-r18_optic-disc", "deeplabv3plus_r50-d8_optic-disc"),
}


def students(cfg: Config, count: int, folder: Path) -> Lockstep:
    """Some students of different weights in lockstep, after two iterations of warm-up."""
    lockstep = Lockstep()
    for number in range(count):
        one = with_overrides(cfg, {"distill.losses.logits.weight": 1.0 + number})
        work_dir = folder / f"{count}-{number}"

        def run(lane: Lane, one: Config = one, work_dir: Path = work_dir) -> None:
            train(one, work_dir, teacher_metrics=[{}], lane=lane, check=False)

        lockstep.join(str(number), run)
    for _ in range(2):
        lockstep.step()
    return lockstep


def seconds(lockstep: Lockstep, iterations: int) -> float:
    """Of one trial-iteration."""
    since = time.perf_counter()
    for _ in range(iterations):
        lockstep.step()
    return (time.perf_counter() - since) / iterations / len(lockstep.lanes)


def main() -> None:
    """Times, and prints a table."""
    warnings.filterwarnings("ignore")  # mmseg's and mmengine's own
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pair", choices=CONFIGS, default="slim")
    parser.add_argument("--students", type=int, default=8)
    parser.add_argument("--iterations", type=int, default=10)
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--data-root", type=Path)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if asked.data_root is None:
            generate(folder / "data", num_train=32, num_val=4, size=128)
        distill, teacher = CONFIGS[asked.pair]
        weights = build_segmentor(read_config_file(REPO / "configs" / "teacher" / f"{teacher}.py").model).state_dict()
        torch.save({"state_dict": weights}, folder / "teacher.pth")
        shortcuts = Shortcuts(
            data_root=str(asked.data_root or folder / "data"), size="128", iters=10**6, batch_size=4,
            val_interval=10**6, teacher_checkpoint=str(folder / "teacher.pth"),
        )  # fmt: skip
        cfg = load_config(REPO / "configs" / "distill" / f"{distill}.py", {}, shortcuts)
        cohort, alone = students(cfg, asked.students, folder), students(cfg, 1, folder)
        # In turn, so that what else the machine does falls on both.
        timed = [(seconds(cohort, asked.iterations), seconds(alone, asked.iterations)) for _ in range(asked.pairs)]
    ratios = sorted(ours / theirs for ours, theirs in timed)
    info = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    cpu = next((line.split(":")[1].strip() for line in info if line.startswith("model name")), platform.machine())
    command = " ".join(["python -m benchmarks.cohort", *sys.argv[1:]])
    print(f"`{command}` on {os.cpu_count()} cores of {cpu},")
    print(f"Python {platform.python_version()}, torch {torch.__version__}, {torch.get_num_threads()} threads\n")
    print("| pair | students | cohort, s | alone, s | ratio, median | min | max |\n|---|---|---|---|---|---|---|")
    medians = [statistics.median(column) for column in zip(*timed, strict=True)]
    print(
        f"| {asked.pair} | {asked.students} | {medians[0]:.3f} | {medians[1]:.3f} | "
        f"{statistics.median(ratios):.2f} | {ratios[0]:.2f} | {ratios[-1]:.2f} |"
    )
    sys.stdout.flush()
    os._exit(0)  # the students' threads wait for a next batch that will not come


if __name__ == "__main__":
    main()

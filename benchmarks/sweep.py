"""Seconds of a whole sweep, from the start of the process to `results.csv`: cohorts, against a process for each trial.

python -m benchmarks.sweep [--pair slim|r50-fast-scnn|...] [--iterations 100] [--trials 8] [--pairs 5]

The two sweep files differ only in `cohort`: `auto`, or `off`, with which Ray Tune runs each trial in its own process
(which it reuses for the next trial, its fastest way), as many at a time as there are cores. On two cores a pair of
sweeps takes about 4 minutes for slim, 12 for r50-fast-scnn.
"""

from __future__ import annotations

import csv
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import yaml

from benchmarks.turns import (
    REPO,
    distill_config,
    in_turn,
    parser_of,
    print_table,
    untrained_teacher,
    workbench,
)


def sweep_file(folder: Path, pair: str, trials: int, cohort: str) -> Path:
    file = folder / f"{cohort}.yaml"
    content = {
        "config": str(distill_config(pair)),
        "space": {"distill.losses.logits.weight": {"type": "loguniform", "low": 1.0, "high": 100.0}},
        "search": {"type": "random", "num_trials": trials, "seed": 0},
        "set": {"distill.cache": "off"},  # it would soon know the few images here, and leave no teacher to share
        "cohort": {"size": cohort},
    }
    file.write_text(yaml.safe_dump(content))
    return file


def sweep_options(folder: Path, pair: str, iterations: int) -> list[object]:
    """The options of the command: small images, and a single validation at the end."""
    return [
        "--data-root", folder / "data", "--size", 128, "--batch-size", 4, "--iters", iterations,
        "--val-interval", iterations, "--teacher-checkpoint", untrained_teacher(pair, folder),
    ]  # fmt: skip


def sweep(file: Path, work_dir: Path, options: list[object], trials: int, show: bool) -> float:
    """Seconds until the sweep has written its table."""
    out = None if show else subprocess.DEVNULL
    started = time.time()
    subprocess.run(
        [sys.executable, "-m", "rdistill", "sweep", *map(str, [file, "--work-dir", work_dir, *options])],
        cwd=REPO, check=True, stdout=out,
        env={**os.environ, "PYTHONPATH": f"{REPO}:{os.environ.get('PYTHONPATH', '')}", "TMPDIR": str(file.parent)},
    )  # fmt: skip
    table = work_dir / "results.csv"
    with open(table, newline="") as rows:
        statuses = [row["status"] for row in csv.DictReader(rows)]
    assert statuses == ["finished"] * (trials + 1), statuses
    seconds = table.stat().st_mtime - started
    shutil.rmtree(work_dir)
    return seconds


def main() -> None:
    """Times, and prints a table."""
    parser = parser_of(__doc__, "slim")
    parser.add_argument("--iterations", type=int, default=100)
    parser.add_argument("--trials", type=int, default=8)
    parser.add_argument("--show", action="store_true", help="also show what the sweeps print")
    args = parser.parse_args()
    with workbench() as folder:
        options = sweep_options(folder, args.pair, args.iterations)
        files = {cohort: sweep_file(folder, args.pair, args.trials, cohort) for cohort in ("auto", "off")}
        timings = in_turn(
            lambda: sweep(files["auto"], folder / "auto", options, args.trials, args.show),
            lambda: sweep(files["off"], folder / "off", options, args.trials, args.show),
            args.pairs,
        )
        facts = dict(pair=args.pair, trials=args.trials, iterations=args.iterations)
        print_table("whole sweep", ("cohorts", "one a process"), timings, **facts)


if __name__ == "__main__":
    main()

"""Seconds from the start of the process to the end of the first iteration: `rdistill train` and a bare mmengine script.

python -m benchmarks.startup [--pair slim|...] [--pairs 5] [--with-teacher]

The same student and data, without a teacher, because the bare script has none. `--with-teacher` times the distilled run
instead, and so shows what loading and scoring the teacher adds. About 3 minutes.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from benchmarks.turns import (
    PAIRS,
    REPO,
    distill_config,
    in_turn,
    parser_of,
    print_table,
    timed,
    untrained_teacher,
    workbench,
)

_ENDS = "custom_imports = dict(imports=['benchmarks.first_iteration'], allow_failed_imports=False)\n"
_ENDS += "custom_hooks = [dict(type='EndAtFirstIteration')]\n"


def config_of(base: Path, folder: Path) -> Path:
    """A config that trains ``base`` on the images in ``folder`` and ends the process after the first iteration."""
    file = folder / f"{base.stem}.py"
    data = f"dict(dataset=dict(data_root={str(folder / 'data')!r}))"
    loaders = "".join(f"{name}_dataloader = {data}\n" for name in ("train", "val", "test"))
    file.write_text(f"_base_ = [{str(base)!r}]\n{loaders}{_ENDS}")
    return file


def start(command: list[object], work_dir: Path, clock: str) -> float:
    """Seconds from the start of the process until its first iteration is done."""

    def run() -> None:
        subprocess.run(
            [sys.executable, "-m", *map(str, command)], cwd=REPO, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            env={**os.environ, "PYTHONPATH": f"{REPO}:{os.environ.get('PYTHONPATH', '')}", "PYTHONWARNINGS": "ignore"},
        )  # fmt: skip

    work_dir.mkdir()
    seconds = timed(run, clock)
    assert (work_dir / "first").exists(), f"{command} ended before its first iteration"
    return seconds


def main() -> None:
    """Times, and prints a table."""
    parser = parser_of(__doc__, "slim")
    parser.add_argument("--with-teacher", action="store_true")
    args = parser.parse_args()
    with workbench() as folder:
        student = Path(distill_config(args.pair).read_text().split("_base_ = ['../student/")[1].split("'")[0])
        plain = config_of(REPO / "configs" / "student" / student, folder)
        config = config_of(distill_config(args.pair), folder) if args.with_teacher else plain
        more: list[object] = []
        if args.with_teacher:
            more = ["--teacher-checkpoint", untrained_teacher(args.pair, folder)]
        count = iter(range(1000))

        def rdistill() -> float:
            work_dir = folder / f"rdistill-{next(count)}"
            return start(["rdistill", "train", config, "--work-dir", work_dir, *more], work_dir, args.clock)

        def bare() -> float:
            work_dir = folder / f"bare-{next(count)}"
            return start(["benchmarks.bare", plain, work_dir], work_dir, args.clock)

        rdistill(), bare()  # fills the disk's caches
        timings = in_turn(rdistill, bare, args.pairs)
        student_name = PAIRS[args.pair][0] if args.with_teacher else student.stem
        print_table("start-up / bare script", ("rdistill", "bare"), timings, config=student_name)


if __name__ == "__main__":
    main()

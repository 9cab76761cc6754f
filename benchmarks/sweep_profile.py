"""Which processes of a sweep use processor time, and when, from its start to its end.

python -m benchmarks.sweep_profile [--pair slim|r50-fast-scnn|...] [--cohort auto|off] [--trials 8]

Reads /proc (Linux only). The columns are processor seconds in each interval: of the driver; of Ray's own processes and
of workers that are starting; of trials and of workers that will become trials or cohorts; of cohorts.
"""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from pathlib import Path

from benchmarks.sweep import sweep_file, sweep_options
from benchmarks.turns import REPO, parser_of, print_machine, workbench

KINDS = ("driver", "ray", "trials", "cohorts")
TICKS = os.sysconf("SC_CLK_TCK")  # a second


def kind_of(command: str) -> str | None:
    if command.startswith("ray::Cohort"):
        return "cohorts"
    if command.startswith("ray::") and not command.startswith(("ray::Dashboard", "ray::RuntimeEnv")):
        return "trials"
    if "-m rdistill" in command:
        return "driver"
    return "ray" if "/ray/" in command or command.startswith("ray::") else None


def spent() -> dict[tuple[str, str], float]:
    """(process id, kind) -> its processor seconds so far."""
    seconds = {}
    for process in Path("/proc").glob("[0-9]*"):
        try:
            command = (process / "cmdline").read_text().replace("\0", " ")
            fields = (process / "stat").read_text().rpartition(")")[2].split()
        except OSError:  # it has ended
            continue
        if kind := kind_of(command):
            seconds[process.name, kind] = (int(fields[11]) + int(fields[12])) / TICKS
    return seconds


def watch(over: threading.Event, every: float) -> list[tuple[float, dict[str, float]]]:
    """Rows of seconds since the start, and the processor seconds of each kind of process since the last row."""
    rows, before, since = [], spent(), time.monotonic()
    while not over.wait(every):
        now = spent()
        row = dict.fromkeys(KINDS, 0.0)
        for (process, kind), seconds in now.items():
            # A worker changes its name when it becomes a trial or a cohort; its processor time continues.
            earlier = max((before[process, kind] for kind in KINDS if (process, kind) in before), default=0.0)
            row[kind] += seconds - earlier
        rows.append((time.monotonic() - since, row))
        before = now
    return rows


def main() -> None:
    """Runs one sweep, and prints a table."""
    parser = parser_of(__doc__, "slim")
    parser.add_argument("--iterations", type=int, default=100)
    parser.add_argument("--trials", type=int, default=8)
    parser.add_argument("--cohort", choices=("auto", "off"), default="auto")
    parser.add_argument("--every", type=float, default=1.0, help="seconds between two rows")
    args = parser.parse_args()
    over = threading.Event()
    rows: list[tuple[float, dict[str, float]]] = []
    with workbench() as folder:
        options = sweep_options(folder, args.pair, args.iterations)
        file = sweep_file(folder, args.pair, args.trials, args.cohort)
        watching = threading.Thread(target=lambda: rows.extend(watch(over, args.every)))
        watching.start()
        try:
            subprocess.run(
                [sys.executable, "-m", "rdistill", "sweep", *map(str, [file, "--work-dir", folder / "out", *options])],
                cwd=REPO, check=True, env={**os.environ, "TMPDIR": str(folder)},
            )  # fmt: skip
        finally:
            over.set()
            watching.join()
    print_machine()
    for cells in (("seconds", *KINDS), ("---",) * (len(KINDS) + 1)):
        print(f"| {' | '.join(cells)} |")
    for until, row in rows:
        print(f"| {until:.1f} | {' | '.join(f'{row[kind]:.1f}' for kind in KINDS)} |")


if __name__ == "__main__":
    main()

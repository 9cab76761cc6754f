"""Seconds of a distillation run with a cache of teacher outputs, against the same run without a cache.

python -m benchmarks.teacher_cache [--pair r50-r18|slim|...] [--epochs 5] [--images 267] [--pairs 1]

The optic-disc recipe at 128 pixels and 4 images a step, on as many images as the real set has. The only augmentation is
a flip, so that each image has two views, and none is known in the first epoch. The two runs alternate step by step, and
the sums over all steps are compared. On two cores a pair takes about 10 minutes for r50-r18, 1 for slim.
"""

from __future__ import annotations

import time
from pathlib import Path

from mmengine.config import Config

from benchmarks.turns import SteppedRun, endless_run, parser_of, print_table, timed, workbench
from rdistill.config.load import with_overrides
from rdistill.data.synthetic import generate

BATCH = 4


def both(cfg: Config, folder: Path, iterations: int, clock: str) -> tuple[float, float]:
    """Seconds of all steps with and without a cache, from the second on, because the first includes the set-up."""
    caches: dict[str, object] = {"with": {"mode": "on", "dir": str(folder / "kept")}, "without": "off"}
    runs = [SteppedRun(with_overrides(cfg, {"distill.cache": caches[name]}), folder / name) for name in caches]
    spent = [0.0, 0.0]
    for iteration in range(1, iterations):
        for which in (0, 1) if iteration % 2 else (1, 0):
            spent[which] += timed(runs[which].step, clock)
    return spent[0], spent[1]


def main() -> None:
    """Times, and prints a table."""
    parser = parser_of(__doc__, "r50-r18", pairs=1)
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--images", type=int, default=267)
    args = parser.parse_args()
    iterations = args.epochs * args.images // BATCH
    with workbench() as folder:
        generate(folder / "many", num_train=args.images, num_val=4, size=128)
        cfg = endless_run(args.pair, folder, folder / "many")
        timings = [both(cfg, folder / f"{time.time_ns()}", iterations, args.clock) for _ in range(args.pairs)]
        facts = dict(pair=args.pair, epochs=args.epochs, images=args.images)
        print_table("run with / without the teacher's cache", ("with", "without"), timings, **facts)


if __name__ == "__main__":
    main()

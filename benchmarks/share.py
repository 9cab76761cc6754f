"""Seconds of a training step in which loss weights are measured (`weight: {share: ...}`), against a plain step.

python -m benchmarks.share [--pair slim|r50-r18|...] [--on logits|features|both] [--iterations 5] [--pairs 5]

Two runs of the same config: in the first, the weights are measured in every step; in the second, they are numbers. By
default a run measures them in 8 steps only. About 1 minute for the slim pair, 3 for a full pair.
"""

from __future__ import annotations

from functools import partial
from typing import Any

from benchmarks.turns import SteppedRun, endless_run, in_turn, parser_of, print_table, timed, workbench
from rdistill.config.load import with_overrides

WARM_UP = 2  # iterations
LOSSES: dict[str, dict[str, dict[str, Any]]] = {
    "logits": {"logits": {"type": "KL"}},
    "features": {"hidden": {"type": "CWD", "pair": (1, 1)}},
    "both": {"logits": {"type": "KL"}, "hidden": {"type": "CWD", "pair": (1, 1)}},
}
EVERY_STEP = {"share": {"value": 0.5, "batches": 1, "every": 1}}


def main() -> None:
    """Times, and prints a table."""
    parser = parser_of(__doc__, "slim")
    parser.add_argument("--on", choices=LOSSES, default="both", help="what the losses compare")
    parser.add_argument("--iterations", type=int, default=5, help="iterations of one timing")
    args = parser.parse_args()
    with workbench() as folder:
        cfg = endless_run(args.pair, folder)
        runs = []
        for name, weight in (("measured", EVERY_STEP), ("plain", 1.0)):
            losses = {loss: {**options, "weight": weight} for loss, options in LOSSES[args.on].items()}
            changed = with_overrides(cfg, {"distill.losses": losses, "distill.teachers.0.forward": "plain"})
            runs.append(SteppedRun(changed, folder / name))
            runs[-1].step(WARM_UP)
        measured, plain = (partial(timed, partial(run.step, args.iterations), args.clock) for run in runs)
        timings = in_turn(lambda: measured() / args.iterations, lambda: plain() / args.iterations, args.pairs)
        print_table("step with weights measured / plain", ("measured", "plain"), timings, pair=args.pair, on=args.on)


if __name__ == "__main__":
    main()

"""Seconds for each iteration of a trial: students in a cohort, against the same student alone, after the start.

python -m benchmarks.cohort [--pair r50-r18|r50-fast-scnn|r101-r18|slim] [--students 8] [--iterations 2] [--pairs 5]

Both run whole training iterations: data, teacher, student, losses, optimizer, hooks; the student alone is a plain
`rdistill train`. They are timed in alternation, `--pairs` times, after a warm-up: `--iterations` of the cohort, then as
many iterations alone as the cohort's students had together, at most 8. About 5 minutes for a full pair, 1 for the slim
one.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

from mmengine.config import Config

from benchmarks.turns import SteppedRun, endless_run, in_turn, parser_of, print_table, timed, workbench
from rdistill.config.load import with_overrides
from rdistill.training.lockstep import Lane, Lockstep
from rdistill.training.run import train

WARM_UP = 2  # iterations


def cohort_of(cfg: Config, count: int, folder: Path) -> Lockstep:
    """Students with different loss weights in lockstep."""
    lockstep = Lockstep()
    for number in range(count):
        student_cfg = with_overrides(cfg, {"distill.losses.logits.weight": 1.0 + number})

        def run(lane: Lane, student_cfg: Config = student_cfg, work_dir: Path = folder / f"student-{number}") -> None:
            train(student_cfg, work_dir, teacher_metrics=[{}], lane=lane, check=False)

        lockstep.join(str(number), run)
    return lockstep


def steps(lockstep: Lockstep, iterations: int) -> None:
    for _ in range(iterations):
        assert lockstep.step()


def print_limit(cohort: Lockstep) -> None:
    """Prints the lowest possible ratio: that of a cohort with no other work than its students and one teacher."""
    timings, count = [lane.timing for lane in cohort.lanes], len(cohort.lanes)
    student, teacher = (sum(getattr(timing, name) for timing in timings) for name in ("own", "teacher_alone"))
    limit = (student + teacher / count) / (student + teacher)
    share = teacher / (student + teacher)
    print(f"\nThe teacher takes {share:.0%} of a step alone here: the ratio cannot be below {limit:.2f}.")


def main() -> None:
    """Times, and prints a table."""
    parser = parser_of(__doc__, "r50-r18")
    parser.add_argument("--students", type=int, default=8)
    parser.add_argument("--iterations", type=int, default=2)
    parser.add_argument(
        "--forward", choices=("auto", "plain"), default="auto", help="how the teacher computes, on both sides"
    )
    args = parser.parse_args()
    with workbench() as folder:
        cfg = with_overrides(endless_run(args.pair, folder), {"distill.teachers.0.forward": args.forward})
        cohort = cohort_of(cfg, args.students, folder)
        steps(cohort, WARM_UP)
        alone = SteppedRun(cfg, folder / "alone")
        alone.step(WARM_UP)
        count, few = args.iterations, min(8, args.iterations * args.students)
        timings = in_turn(
            lambda: timed(partial(steps, cohort, count), args.clock) / count / args.students,
            lambda: timed(partial(alone.step, few), args.clock) / few,
            args.pairs,
        )
        assert len(cohort.lanes) == args.students, "a student left"
        print_table(
            "cohort / alone",
            ("cohort", "alone"),
            timings,
            pair=args.pair,
            forward=args.forward,
            students=args.students,
        )
        print_limit(cohort)
        for lane in cohort.lanes:
            lane.stopped = True
        while cohort.step():
            pass


if __name__ == "__main__":
    main()

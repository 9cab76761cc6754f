"""Equal cost: the number of iterations that the student alone trains in the seconds of a distilled student.

An iteration of a distilled student also runs the teacher and computes losses on its outputs. In a comparison at equal
iterations, the student alone therefore has less time. For a comparison at equal cost, the seconds of both are measured
on the same seeds, devices and cohorts, and the student alone gets as many iterations as fit into the distilled
student's seconds. Its schedules are stretched to that number.

This module needs neither torch nor Ray.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from rdistill.core.files import read_json, write_json
from rdistill.sweeps.findings.confirm import Selection
from rdistill.sweeps.study.records import CONFIRMED, TrialRecord
from rdistill.sweeps.study.seconds import SECONDS, Seconds, sum_seconds, training_seconds

EQUAL_COST_FILE = "equal_cost.json"  # a file in the work dir: configuration -> EqualCost


@dataclass(frozen=True)
class EqualCost:
    """The cost of a configuration and that of the student alone.

    Attributes:
        iterations: iterations that the student alone trains in the seconds of a distilled run.
        distilled: kind of seconds (``real``, ``alone``) -> mean seconds of a distilled run.
        student_alone: kind of seconds -> mean seconds of the student alone in the same number of iterations.
        runs: number of distilled runs that were measured.
    """

    iterations: int
    distilled: dict[str, float]
    student_alone: dict[str, float]
    runs: int


def equal_costs(records: Sequence[TrialRecord], selection: Selection) -> dict[str, EqualCost]:
    """Configuration -> equal cost; configurations without a finished run are left out.

    Seconds are summed over the seeds that both sides have, since other load on the machine changes the seconds of a
    single run. If there are no baselines at equal iterations, the baseline of the search is measured instead.
    """
    done = [record for record in records if record.status == "finished" and training_seconds(record) is not None]
    runs = {(record.of, record.seed): record for record in done if record.phase == CONFIRMED}
    searched = [record for record in done if record.id == selection.baseline]
    costs = {}
    for name in selection.configurations:
        distilled_runs = {seed: record for (of, seed), record in runs.items() if of == name}
        alone_runs = {
            seed: record for (of, seed), record in runs.items() if of == selection.baseline and seed in distilled_runs
        }
        distilled = _sum(distilled_runs[seed] for seed in (alone_runs or distilled_runs))
        alone = _sum(alone_runs.values() if alone_runs else searched)
        if distilled is None or alone is None:
            continue
        count = len(alone_runs or distilled_runs)
        length = distilled.steps / count  # iterations of a distilled run
        if alone.per_step(selection.seconds) <= 0:
            continue
        fit = distilled.total(selection.seconds) / count / alone.per_step(selection.seconds)
        costs[name] = EqualCost(
            max(1, round(fit)),
            {kind: round(distilled.total(kind) / count, 3) for kind in SECONDS},
            {kind: round(alone.per_step(kind) * length, 3) for kind in SECONDS},
            count,
        )
    return costs


def load_equal_costs(work_dir: Path) -> dict[str, EqualCost]:
    """The equal costs that were measured before; empty if none were.

    A resume uses them, since runs by a new measurement would differ in length from those that are trained already.
    """
    file = work_dir / EQUAL_COST_FILE
    return {name: EqualCost(**entry) for name, entry in read_json(file).items()} if file.is_file() else {}


def save_equal_costs(work_dir: Path, costs: dict[str, EqualCost]) -> None:
    write_json(work_dir / EQUAL_COST_FILE, {name: asdict(cost) for name, cost in costs.items()})


def seconds_of(records: Iterable[TrialRecord]) -> dict[str, float | None]:
    """Kind of seconds -> mean training seconds of some runs; None if none were measured."""
    trained = [seconds for record in records if (seconds := training_seconds(record)) is not None]
    return {kind: sum(each.total(kind) for each in trained) / len(trained) if trained else None for kind in SECONDS}


def _sum(records: Iterable[TrialRecord]) -> Seconds | None:
    return sum_seconds(seconds for record in records if (seconds := training_seconds(record)) is not None)

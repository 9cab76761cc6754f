"""How long the student alone has to train to cost as much as a distilled one.

A distilled student's iteration also runs the teacher and computes losses on its outputs. Compared at equal iterations,
the student alone has therefore had less time; in that time it might have trained on. Here its seconds and the
distilled student's are put side by side, as both were measured on the same seeds, devices and cohorts, and the student
alone gets as many iterations as fit into the distilled student's seconds. Its schedules are stretched to them.

Needs neither torch nor ray.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from rdistill.core.files import read_json, write_json
from rdistill.sweeps.findings.confirm import Selection
from rdistill.sweeps.study.records import CONFIRMED, TrialRecord
from rdistill.sweeps.study.seconds import SECONDS, Seconds, together, training_seconds

EQUAL_COST_FILE = "equal_cost.json"  # the work dir's file of what was measured, and the iterations that follow


@dataclass(frozen=True)
class EqualCost:
    """A configuration's cost beside that of the student alone.

    Attributes:
        iterations: of the student alone, in the seconds of a distilled run.
        distilled: kind of seconds (``real``, ``alone``) -> of a distilled run, the mean over seeds.
        student_alone: kind -> of a run of the student alone of equal iterations.
        runs: distilled runs that were measured.
    """

    iterations: int
    distilled: dict[str, float]
    student_alone: dict[str, float]
    runs: int


def equal_costs(records: Sequence[TrialRecord], selection: Selection) -> dict[str, EqualCost]:
    """By configuration; without those of which no run has finished.

    Seconds are added up over the seeds that both sides have, since those of a single run depend on what else the
    machine did. Without baselines of equal iterations the student alone is the search's own run.
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
        if alone.each(selection.seconds) <= 0:
            continue
        fit = distilled.of(selection.seconds) / count / alone.each(selection.seconds)
        costs[name] = EqualCost(
            max(1, round(fit)),
            {kind: round(distilled.of(kind) / count, 3) for kind in SECONDS},
            {kind: round(alone.each(kind) * length, 3) for kind in SECONDS},
            count,
        )
    return costs


def load_equal_costs(work_dir: Path) -> dict[str, EqualCost]:
    """What was measured before; empty before that. A resume keeps to it, or its runs would differ in length."""
    file = work_dir / EQUAL_COST_FILE
    return {name: EqualCost(**entry) for name, entry in read_json(file).items()} if file.is_file() else {}


def save_equal_costs(work_dir: Path, costs: dict[str, EqualCost]) -> None:
    write_json(work_dir / EQUAL_COST_FILE, {name: asdict(cost) for name, cost in costs.items()})


def seconds_of(records: Iterable[TrialRecord]) -> dict[str, float | None]:
    """Kind of seconds -> mean of some runs' training; None where none was measured."""
    trained = [seconds for record in records if (seconds := training_seconds(record)) is not None]
    return {kind: sum(each.of(kind) for each in trained) / len(trained) if trained else None for kind in SECONDS}


def _sum(records: Iterable[TrialRecord]) -> Seconds | None:
    return together(seconds for record in records if (seconds := training_seconds(record)) is not None)

"""What a sweep has cost, and what its cohorts saved. Needs neither torch nor ray."""

from __future__ import annotations

from collections.abc import Iterable

from rdistill.sweeps.study.records import TrialRecord

COST = "cost.json"  # a file in the sweep's work dir


def sweep_cost(records: Iterable[TrialRecord]) -> dict[str, float]:
    """Seconds of all trials in cohorts, summed up; empty where no trial was in one.

    Returns:
        ``own_seconds``: of the students' own steps, validations and files. ``teacher_seconds`` and ``data_seconds``:
        what was computed, once for all. ``teacher_alone_seconds`` and ``data_alone_seconds``: what the same trials
        would have computed, each alone. ``saved``: the share of the whole that was not needed, 0 to 1. The rest is of
        the training steps among it, see :mod:`rdistill.sweeps.study.seconds`.
    """
    costs = [record.cost for record in records if "own_seconds" in record.cost]
    names = dict.fromkeys(name for cost in costs for name in cost)  # an older version wrote fewer
    total = {name: round(sum(cost.get(name, 0.0) for cost in costs), 2) for name in names}
    if not total:
        return {}
    spent = total["own_seconds"] + total["teacher_seconds"] + total["data_seconds"]
    alone = total["own_seconds"] + total["teacher_alone_seconds"] + total["data_alone_seconds"]
    return {**total, "saved": round(1 - spent / alone, 4) if alone else 0.0}

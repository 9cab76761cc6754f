"""The cost of a sweep, and the part that its cohorts saved. This module needs neither torch nor Ray."""

from __future__ import annotations

from collections.abc import Iterable

from rdistill.sweeps.study.records import TrialRecord

COST = "cost.json"  # a file in the sweep's work dir


def sweep_cost(records: Iterable[TrialRecord]) -> dict[str, float]:
    """The sum of the seconds of all trials in cohorts; empty if no trial was in a cohort.

    Returns:
        ``own_seconds``: seconds of the students' own steps, validations and files. ``teacher_seconds`` and
        ``data_seconds``: seconds of the shared teacher and of loading shared batches. ``teacher_alone_seconds`` and
        ``data_alone_seconds``: the seconds that these would have taken if each trial had trained alone. ``saved``: the
        fraction of all seconds alone that the cohorts saved, 0 to 1. All other keys are about training steps alone; see
        :mod:`rdistill.sweeps.study.seconds`.
    """
    costs = [record.cost for record in records if "own_seconds" in record.cost]
    names = dict.fromkeys(name for cost in costs for name in cost)  # an older version wrote fewer
    total = {name: round(sum(cost.get(name, 0.0) for cost in costs), 2) for name in names}
    if not total:
        return {}
    spent = total["own_seconds"] + total["teacher_seconds"] + total["data_seconds"]
    alone = total["own_seconds"] + total["teacher_alone_seconds"] + total["data_alone_seconds"]
    return {**total, "saved": round(1 - spent / alone, 4) if alone else 0.0}

"""What a sweep has cost and what its cohorts saved, by hand."""

from __future__ import annotations

from rdistill.sweeps.study.cohort_savings import sweep_cost
from rdistill.sweeps.study.records import TrialRecord


def record(name: str, **seconds: float) -> TrialRecord:
    return TrialRecord(name, {}, 0, cost={f"{key}_seconds": value for key, value in seconds.items()})


def test_sums_and_the_share_that_was_saved() -> None:
    """Two students of 10 s each; the teacher's 20 s and the data's 2 s were computed once for both."""
    half = dict(own=10.0, teacher=10.0, data=1.0, teacher_alone=20.0, data_alone=2.0)
    cost = sweep_cost([record("a", **half), record("b", **half), TrialRecord("alone", {}, 0)])
    assert cost["own_seconds"] == 20.0 and cost["teacher_seconds"] == 20.0 and cost["teacher_alone_seconds"] == 40.0
    assert cost["saved"] == round(1 - (20 + 20 + 2) / (20 + 40 + 4), 4)


def test_without_cohorts_there_is_nothing() -> None:
    assert sweep_cost([TrialRecord("a", {}, 0)]) == {} == sweep_cost([])
    nothing = dict(own=0.0, teacher=0.0, data=0.0, teacher_alone=0.0, data_alone=0.0)
    assert sweep_cost([record("a", **nothing)])["saved"] == 0.0

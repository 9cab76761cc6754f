"""What a trial's training took, real and alone, from what its record holds."""

from __future__ import annotations

import pytest

from rdistill.sweeps.study.cohort_savings import sweep_cost
from rdistill.sweeps.study.records import CONFIRMED, EQUAL_COST, TrialRecord, gains, gains_at_equal_cost
from rdistill.sweeps.study.seconds import Seconds, sum_seconds, training_seconds

IN_A_COHORT = {
    "own_seconds": 99.0, "steps": 100, "steps_seconds": 10.0, "teacher_seconds": 2.0, "teacher_alone_seconds": 8.0,
    "steps_data_seconds": 1.0, "steps_data_alone_seconds": 3.0,
}  # fmt: skip


def record(cost: dict[str, float], iterations: int = 100, name: str = "t0001", **more: object) -> TrialRecord:
    history = [{"iter": iterations, "seconds": 40.0, "mIoU": 50.0}] if iterations else []
    return TrialRecord(name, {}, 1, history=history, cost=cost, status="finished", **more)  # type: ignore[arg-type]


def test_a_student_in_a_cohort_took_its_own_steps_and_its_shares() -> None:
    found = training_seconds(record(IN_A_COHORT))
    assert found == Seconds(10.0 + 2.0 + 1.0, 10.0 + 8.0 + 3.0, 100)
    assert (found.per_step("real"), found.per_step("alone")) == (0.13, 0.21)


def test_what_was_trained_again_after_a_kill_does_not_count() -> None:
    """150 steps were measured, 100 iterations are the training."""
    twice = {name: 1.5 * value for name, value in IN_A_COHORT.items()}
    found = training_seconds(record(twice))
    assert found is not None and (found.real, found.alone, found.steps) == (
        pytest.approx(13.0), pytest.approx(21.0), 100,
    )  # fmt: skip


def test_remembered_outputs_would_have_to_be_computed_alone() -> None:
    cost = {"steps": 100, "steps_seconds": 9.0, "steps_data_seconds": 1.0, "steps_data_alone_seconds": 1.0}
    assert training_seconds(record({**cost, "cache_saved_seconds": 5.0})) == Seconds(10.0, 15.0, 100)


def test_a_record_of_an_older_version_has_its_time_on_the_wall() -> None:
    assert training_seconds(record({})) == Seconds(40.0, 40.0, 100)
    assert training_seconds(record({"own_seconds": 3.0})) == Seconds(40.0, 40.0, 100)
    assert training_seconds(record(IN_A_COHORT, iterations=0)) is None


def test_runs_are_added_up() -> None:
    assert sum_seconds([Seconds(1.0, 2.0, 3), Seconds(10.0, 20.0, 30)]) == Seconds(11.0, 22.0, 33)
    assert sum_seconds([]) is None


def test_what_cohorts_saved_leaves_out_who_was_in_none_and_takes_records_of_two_versions() -> None:
    older = {name: IN_A_COHORT[name] for name in ("own_seconds", "teacher_seconds", "teacher_alone_seconds")}
    older.update(data_seconds=1.0, data_alone_seconds=3.0)
    newer = {**IN_A_COHORT, "data_seconds": 1.0, "data_alone_seconds": 3.0}
    cost = sweep_cost([record(older), record(newer), record({"steps": 5, "steps_seconds": 1.0})])
    assert (cost["own_seconds"], cost["steps_seconds"], cost["teacher_seconds"]) == (198.0, 10.0, 4.0)
    assert cost["saved"] == pytest.approx(1 - (198 + 4 + 2) / (198 + 16 + 6), abs=1e-4)


def test_a_baseline_of_equal_cost_is_the_rival_of_its_own_configuration_only() -> None:
    def run(name: str, score: float, phase: str, of: str, rival: str = "") -> TrialRecord:
        history = [{"iter": 5, "seconds": 1.0, "mIoU": score}]
        return TrialRecord(name, {}, 1, phase=phase, of=of, rival=rival, history=history, status="finished")

    runs = [
        run("baseline-s1", 50.0, CONFIRMED, "baseline"),
        run("t0001-s1", 52.0, CONFIRMED, "t0001"),
        run("t0002-s1", 53.0, CONFIRMED, "t0002"),
        run("baseline-as-t0001-s1", 55.0, EQUAL_COST, "baseline", "t0001"),
    ]
    assert gains(runs) == {
        "baseline-s1": None, "t0001-s1": 2.0, "t0002-s1": 3.0, "baseline-as-t0001-s1": None,
    }  # fmt: skip
    assert gains_at_equal_cost(runs) == {"t0001-s1": -3.0}
    assert runs[3].is_baseline and not runs[3].searched

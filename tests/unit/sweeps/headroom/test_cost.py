"""What trainings take, and what a headroom may cost."""

from __future__ import annotations

from typing import Any

import pytest

from rdistill.core.errors import UserError
from rdistill.sweeps.headroom.arms import total_iterations
from rdistill.sweeps.headroom.cost import (
    Rates,
    StepSeconds,
    affordable_iterations,
    confirmation_hours_per_seed,
    confirmation_time,
    planned_cost,
    students_in_sweep,
)
from rdistill.sweeps.study.spec import SweepSpec, parse_sweep

STEP = StepSeconds(teacher=0.4, student=0.2, alone=0.15)
RATES = Rates(start=2.0, alone_step=0.1, distilled_step=0.15, validation=3.0, teacher=0.4, data=0.05)


def test_rates_are_means_of_what_was_measured() -> None:
    cost = {"start": 1.0, "step": 0.1, "validation": 2.0, "teacher": 0.0, "data": 0.02}
    records = [
        {"arm": "alone", "cost": cost},
        {"arm": "longer", "cost": {**cost, "step": 9.0, "start": 3.0}},
        {"arm": "distilled", "cost": {**cost, "step": 0.3, "teacher": 0.4}},
        {"arm": "half", "cost": {}},
        {"arm": "hard", "status": "failed"},
    ]
    found = Rates.of(records)
    assert (found.alone_step, found.distilled_step, found.teacher) == (0.1, 0.3, 0.4)
    assert found.start == pytest.approx(5 / 3)


def test_seconds_of_a_training() -> None:
    assert RATES.seconds(100, 4, distilled=False) == pytest.approx(2 + 100 * 0.15 + 4 * 3)
    assert RATES.seconds(100, 4, distilled=True) == pytest.approx(2 + 100 * (0.15 + 0.4 + 0.05) + 4 * 3)
    assert RATES.seconds(100, 4, distilled=True, cohort=4) == pytest.approx(2 + 100 * (0.15 + 0.45 / 4) + 4 * 3)


def test_the_hours_of_a_sweep() -> None:
    found = planned_cost(RATES, 1000, 250, distilled=10, alone=2, cohort=5, at_once=2, of="this")
    seconds = 10 * RATES.seconds(1000, 4, distilled=True, cohort=5) + 2 * RATES.seconds(
        1000, 4, distilled=False, cohort=5
    )
    assert found["sweep_hours"] == pytest.approx(seconds / 2 / 3600, abs=1e-3)
    assert found["seconds_alone"] == pytest.approx(RATES.seconds(1000, 4, distilled=False))


def test_students_of_a_sweep_by_kind() -> None:
    sweep = {
        "config": "a.py",
        "space": {"distill.losses.a.weight": {"type": "loguniform", "low": 1, "high": 2}},
        "search": {"num_trials": 10},
        "confirm": {"top": 2, "seeds": [1, 2, 3]},
    }
    # Each configuration has a baseline of equal cost beside it.
    assert students_in_sweep(parse_sweep(sweep, "test"), (0, 0)) == (10 + 2 * 3, 1 + 3 + 2 * 3)
    iterations = {**sweep, "baseline": {"cost": "iterations"}}
    assert students_in_sweep(parse_sweep(iterations, "test"), (0, 0)) == (10 + 2 * 3, 1 + 3)
    del sweep["confirm"]
    assert students_in_sweep(parse_sweep(sweep, "test"), (0, 0)) == (10, 1)


def confirming(**confirm: Any) -> SweepSpec:
    sweep = {"config": "a.py", "space": {"distill.losses.a.weight": {"type": "choice", "values": [1, 2]}}}
    return parse_sweep({**sweep, "search": {"type": "grid"}, "confirm": {"top": 2, **confirm}}, "test")


def test_the_hours_of_a_confirmation() -> None:
    """A seed, of steps of 0.4 s for the teacher and 0.2 s for the student, two at a time: two distilled students with
    one teacher 0.8, the baseline, which has no distillation losses, 0.15, and baselines of equal cost 0.8; 1,000
    iterations."""
    spec = confirming(seeds=[1, 2, 3])
    assert confirmation_hours_per_seed(spec, 1000, STEP, 2) == pytest.approx(1000 * 1.75 / 2 / 3600)
    at_equal_cost_alone = spec.model_copy(update={"baseline": spec.baseline.model_copy(update={"cost": "seconds"})})
    assert confirmation_hours_per_seed(at_equal_cost_alone, 1000, STEP, 2) == pytest.approx(1000 * 1.6 / 2 / 3600)
    without_cohorts = spec.model_copy(update={"cohort": spec.cohort.model_copy(update={"size": "off"})})
    assert confirmation_hours_per_seed(without_cohorts, 1000, STEP, 2) == pytest.approx(1000 * 2.55 / 2 / 3600)
    assert confirmation_time(spec, 1000, STEP, 2).startswith("3 seeds take about 44 min, by the measured step; loading")
    auto = confirming(seeds="auto", min=4, max=16)
    assert confirmation_time(auto, 1000, STEP, 2).startswith("4 to 16 seeds take about 58 min to 3.9 h, by")


def test_more_seeds_than_there_is_time_for_are_refused() -> None:
    """A quarter of an hour each."""
    step = StepSeconds(0.4, 0.2, 0.2)
    with pytest.raises(UserError, match=r"confirm.max: 16 seeds take about 4 hours .* confirm.hours, 3; 12 seeds fit"):
        confirmation_time(confirming(seeds="auto", hours=3), 1000, step, 2)
    with pytest.raises(UserError, match=r"confirm.seeds: 5 .* about 1.2 hours .* confirm.hours, 1; 4 seeds fit"):
        confirmation_time(confirming(seeds=[1, 2, 3, 4, 5], hours=1), 1000, step, 2)
    assert confirmation_time(confirming(seeds="auto", hours=4), 1000, step, 2)


def test_iterations_of_all_arms() -> None:
    """Alone, twice as long, half the labels, hard labels, distilled: six lengths a seed; a teacher runs for two."""
    assert total_iterations(100, 3) == {"student": 1800, "teacher": 300}


def test_what_nobody_asked_for_takes_a_tenth_of_the_sweep_at_most() -> None:
    # 40 students of 10,000 steps of 1 s, one at a time; two seeds of six lengths: 12 s for each iteration of length.
    # At most a quarter of a trial, and at least a tenth.
    no_teacher = StepSeconds(teacher=0.0, student=1.0, alone=1.0)
    assert affordable_iterations(10_000, 2, no_teacher, students=40, cohort=1, at_once=1) == 2500
    assert affordable_iterations(10_000, 2, no_teacher, students=20, cohort=1, at_once=1) == int(0.1 * 20 * 10_000 / 12)
    assert affordable_iterations(10_000, 2, no_teacher, students=40, cohort=1, at_once=4) is None


def test_a_tiny_sweep_is_not_held_up() -> None:
    equal = StepSeconds(teacher=0.1, student=0.1, alone=0.1)
    assert affordable_iterations(300, 2, equal, students=15, cohort=9, at_once=1) is None
    assert affordable_iterations(300, 2, equal, students=1000, cohort=9, at_once=1) is None  # fewer than 100 iterations

"""A search that ends in time for its confirmation, by what is planned and then by what trials took."""

from __future__ import annotations

import pickle
import time
from collections.abc import Callable
from typing import Any

import pytest

from rdistill.core.errors import UserError
from rdistill.sweeps.search.budget import OVERHEAD, Clock, plan_budget
from rdistill.sweeps.study.spec import SweepSpec
from rdistill.sweeps.trial.step_profile import StepProfile

STEP = StepProfile(0, 0, {1: (0.3, 0.1)})  # seconds of the teacher, and of the student
RANGE = {"type": "uniform", "low": 0.0, "high": 1.0}


Plan = Callable[..., tuple[Clock | None, int, str]]


def sweep(**more: Any) -> SweepSpec:
    return SweepSpec.model_validate({"config": "a.py", "space": {"w": RANGE}, **more})


def clock(limit_s: float, *, after: int = 2, used_s: float = 0.0) -> Clock:
    """Of trainings of 10 iterations, planned at a second each."""
    return Clock(limit_s, 10, after, 1.0, used_s)


@pytest.fixture
def plan() -> Plan:
    """`plan_budget` of a sweep of single trials, ten iterations each, on no GPU, where nothing is said otherwise."""
    usual: dict[str, Any] = dict(iterations=10, features=(0, 0), gpus=0.0, at_once=1, cohort=1, used_s=0.0)
    return lambda spec, **changed: plan_budget(spec, STEP, **{**usual, **changed})


def test_a_trial_fits_with_what_comes_after_it() -> None:
    assert clock(31.0).fits_another() and not clock(29.0).fits_another()
    assert not clock(31.0, used_s=2.0).fits_another()


def test_trials_that_run_are_counted_to_their_end() -> None:
    counted = clock(45.0)
    counted.begins("a")
    assert counted.fits_another()  # ten for each of the two, and twenty for the confirmation
    counted.begins("b")
    assert not counted.fits_another()
    counted.validated("a", 6)
    assert counted.fits_another()


def test_once_trials_are_over_what_they_took_counts() -> None:
    counted = clock(31.0)
    counted.begins("a")
    counted.validated("a", 10)
    counted.ends("a")
    counted.since -= 20.0  # it took twenty seconds, twice as long as was planned
    assert counted.seconds_an_iteration() == pytest.approx(2.0, rel=0.01) and not counted.fits_another()
    quick = clock(31.0)
    quick.begins("a")
    quick.validated("a", 10)
    quick.ends("a")
    assert quick.seconds_an_iteration() < 0.1 and quick.fits_another()


def test_a_resume_goes_on_with_what_was_used() -> None:
    before = clock(31.0, used_s=7.0)
    before.since -= 5.0
    after = pickle.loads(pickle.dumps(before))
    assert after.used() == pytest.approx(12.0, abs=1.0) and after.since <= time.monotonic()


def test_what_is_planned(plan: Plan) -> None:
    spec = sweep(budget={"hours": 1.0}, confirm={"top": 1, "seeds": [1, 2]}, baseline={"cost": "iterations"})
    planned, most, line = plan(spec, iterations=1000, at_once=2, cohort=3)
    assert planned is not None and planned.iteration_s == pytest.approx(OVERHEAD * 0.2 / 2)
    # An hour has 27 trainings: one is the baseline's, and four are the confirmation's.
    assert planned.runs_after == 4 and most == 2 * 22
    assert line.startswith("budget    1 hours: about 22 trials of 130 s each by the measured step, 1 before and 4 runs")


def test_hours_of_gpus_are_divided_among_them(plan: Plan) -> None:
    spec = sweep(budget={"gpu_hours": 2.0})
    planned, _, _ = plan(spec, gpus=4.0, at_once=4)
    assert planned is not None and planned.limit_s == 1800.0
    with pytest.raises(UserError, match=r"budget.gpu_hours: the sweep works on no GPU; use budget.hours"):
        plan(spec, at_once=4)


def test_a_budget_that_holds_no_trial(plan: Plan) -> None:
    spec = sweep(budget={"hours": 0.001})
    with pytest.raises(UserError, match=r"budget.hours: 0.001 do not hold one trial, 1 baseline and 0 runs of the"):
        plan(spec, iterations=1000)
    resumed, most, _ = plan(spec, iterations=1000, used_s=9.0)
    assert resumed is not None and not resumed.fits_another() and most >= 1


def test_trainings_in_all(plan: Plan) -> None:
    confirm = {"top": 2, "seeds": [1, 2, 3]}  # each seed has the baseline, two configurations and their equals in cost
    spec = sweep(budget={"trials": 30}, confirm=confirm)
    assert spec.problems() == [] and spec.num_trials((0, 0)) == 14 and spec.num_students((0, 0)) == 30
    spec = sweep(budget={"trials": 30}, confirm=confirm, baseline={"search": {"lr": RANGE}})
    assert (spec.num_trials((0, 0)), spec.num_baselines((0, 0)), spec.num_students((0, 0))) == (7, 8, 30)
    assert plan(spec) == (None, 7, "")


@pytest.mark.parametrize(
    ("more", "problem"),
    [
        ({"budget": {}}, "budget: must have one of hours, gpu_hours and trials, got none"),
        (
            {"budget": {"hours": 1, "trials": 9}},
            "budget: must have one of hours, gpu_hours and trials, got hours, trials",
        ),
        (
            {"budget": {"trials": 9}, "confirm": {"top": 2, "seeds": [1, 2, 3]}},
            "budget.trials: 9 leave no trial beside the baselines and the confirmation; raise it to 17 or more",
        ),
        (
            {"budget": {"hours": 1}, "baseline": {"search": {"lr": RANGE}}},
            "baseline.num_trials: is required with a budget of hours: what is left of it is the search's",
        ),
    ],
)
def test_mistakes(more: dict[str, Any], problem: str) -> None:
    assert sweep(**more).problems() == [problem]

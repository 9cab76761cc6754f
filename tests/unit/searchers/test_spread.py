"""A search that begins evenly spread: every value of every key has its turn, whatever runs at a time."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import optuna
import pytest
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

from rdistill.searchers.own import BEFORE_STEPS, auto, good_trials
from rdistill.searchers.spread import SpreadThenLearn, middle_point, step_from, value_at

SPACE: dict[str, BaseDistribution] = {
    "weight": FloatDistribution(0.01, 100.0, log=True),
    "kind": CategoricalDistribution(["a", "b"]),
    "count": IntDistribution(1, 4),
}


def suggested(sampler: optuna.samplers.BaseSampler, count: int, at_once: int) -> list[dict[str, Any]]:
    """What is suggested where the score of a trial is its weight."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study = optuna.create_study(direction="maximize", sampler=sampler)
    params: list[dict[str, Any]] = []
    while len(params) < count:
        trials = [study.ask(SPACE) for _ in range(at_once)]
        params += [trial.params for trial in trials]
        for trial in trials:
            study.tell(trial, trial.params["weight"])
    return params


def learner() -> optuna.samplers.BaseSampler:
    return optuna.samplers.TPESampler(seed=0, n_startup_trials=1)


@pytest.mark.parametrize("at_once", [1, 4])
def test_the_first_trials_halve_every_range(at_once: int) -> None:
    first = suggested(SpreadThenLearn(SPACE, learner(), 4, seed=3), 4, at_once)
    assert sorted(values["kind"] for values in first) == ["a", "a", "b", "b"]
    assert sorted(values["count"] for values in first) == [1, 2, 3, 4]
    quarters = sorted(int(math.log10(values["weight"]) + 2) for values in first)
    assert quarters == [0, 1, 2, 3]


def test_then_it_learns() -> None:
    """Where only the weight counts, later trials lie higher than an even spread."""
    later = suggested(SpreadThenLearn(SPACE, learner(), 4, seed=3), 24, 1)[12:]
    assert sum(values["weight"] > 1.0 for values in later) >= 10


def test_trials_that_run_at_a_time_before_any_score_are_spread_too() -> None:
    first = suggested(SpreadThenLearn(SPACE, learner(), 2, seed=0), 8, 8)
    assert sorted(values["count"] for values in first) == [1, 1, 2, 2, 3, 3, 4, 4]


def test_the_same_seed_spreads_alike_and_another_does_not() -> None:
    one, same, other = (suggested(SpreadThenLearn(SPACE, learner(), 4, seed=seed), 4, 1) for seed in (3, 3, 4))
    assert one == same != other


@pytest.mark.parametrize(
    ("distribution", "places", "values"),
    [
        (CategoricalDistribution(["a", "b", "c"]), (0.0, 0.34, 0.99999), ["a", "b", "c"]),
        (FloatDistribution(1.0, 100.0, log=True), (0.0, 0.5, 1.0), [1.0, 10.0, 100.0]),
        (FloatDistribution(0.0, 1.0, step=0.25), (0.0, 0.5, 0.9999), [0.0, 0.5, 1.0]),
        (IntDistribution(2, 8, step=3), (0.0, 0.5, 0.9999), [2, 5, 8]),
        (IntDistribution(1, 100, log=True), (0.0, 0.9999), [1, 100]),
    ],
)
def test_places_of_a_range(distribution: BaseDistribution, places: tuple[float, ...], values: list[Any]) -> None:
    assert [value_at(distribution, place) for place in places] == pytest.approx(values)


def test_a_third_of_few_trials_is_good_and_a_tenth_of_many() -> None:
    assert [good_trials(number) for number in (1, 3, 4, 8, 24, 80, 100, 1000)] == [1, 1, 2, 3, 8, 8, 10, 25]


def test_auto_begins_in_the_middle_and_steps_from_the_best() -> None:
    """Two trials, then one for each key that changes this key of the best so far alone, choices first; then a model."""
    for seed in range(4):
        values = suggested(auto(SPACE, seed=seed, num_objectives=1, conditional=False), 12, 1)
        assert values[:BEFORE_STEPS] == [middle_point(SPACE), SpreadThenLearn(SPACE, learner(), 2, seed).point(1)]
        assert middle_point(SPACE) == {"weight": pytest.approx(1.0), "kind": "a", "count": 3}
        changed = []
        for number in range(BEFORE_STEPS, BEFORE_STEPS + len(SPACE)):
            best = max(values[:number], key=lambda each: each["weight"])
            changed += [key for key in SPACE if values[number][key] != best[key]]
        assert changed[0] == "kind" and sorted(changed) == sorted(SPACE)
        assert all(each["weight"] > 0.1 for each in values[BEFORE_STEPS + len(SPACE) :])  # the weight alone counts


def test_what_the_user_begins_with_comes_before_the_middle() -> None:
    """Keys that a start leaves out are in their middle too; a start is where the steps begin, if it is the best."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study = optuna.create_study(direction="maximize", sampler=auto(SPACE, seed=1, num_objectives=1, conditional=False))
    study.enqueue_trial({"weight": 90.0, "kind": "b"})
    values = []
    for _ in range(5):
        trial = study.ask(SPACE)
        values.append(trial.params)
        study.tell(trial, trial.params["weight"])
    assert values[0] == {"weight": 90.0, "kind": "b", "count": 3} and values[1] == {**middle_point(SPACE), "kind": "b"}
    assert sum(values[3][key] != values[0][key] for key in SPACE) == 1


@pytest.mark.parametrize(
    ("distribution", "value", "expected"),
    [
        (CategoricalDistribution(["a", "b"]), "a", {"b"}),
        (CategoricalDistribution(["a"]), "a", {"a"}),
        (FloatDistribution(1.0, 16.0, log=True), 4.0, {2.0, 8.0}),
        (FloatDistribution(1.0, 16.0, log=True), 1.0, {2.0}),
        (FloatDistribution(0.0, 8.0), 7.0, {5.0}),
        (FloatDistribution(0.0, 1.0, step=0.25), 0.5, {0.25, 0.75}),
        (IntDistribution(0, 8), 4, {2, 6}),
        (IntDistribution(1, 4), 4, {3}),
        (IntDistribution(1, 64, log=True), 8, {2, 27}),
        (FloatDistribution(2.0, 2.0), 2.0, {2.0}),
    ],
)
def test_a_step_is_a_quarter_of_the_range_within_it(
    distribution: BaseDistribution, value: Any, expected: set[Any]
) -> None:
    steps = {step_from(distribution, value, np.random.default_rng(seed)) for seed in range(20)}
    assert sorted(steps) == pytest.approx(sorted(expected))


def test_several_objectives_have_no_best_trial_to_step_from() -> None:
    study = optuna.create_study(
        directions=["maximize", "minimize"], sampler=auto(SPACE, seed=0, num_objectives=2, conditional=False)
    )
    for number in range(5):
        study.tell(study.ask(SPACE), [number, number])
    assert len({tuple(trial.params.items()) for trial in study.trials}) == 5


def test_auto_learns_where_keys_are_left_out_of_trials() -> None:
    sampler = auto(SPACE, seed=0, num_objectives=1, conditional=True)
    assert len({tuple(values.items()) for values in suggested(sampler, 8, 2)}) == 8

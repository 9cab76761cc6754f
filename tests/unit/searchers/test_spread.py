"""A search that begins evenly spread: every value of every key has its turn, whatever runs at a time."""

from __future__ import annotations

import math
from typing import Any

import optuna
import pytest
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

from rdistill.searchers.own import FIRST, auto, good_trials
from rdistill.searchers.spread import SpreadThenLearn, at

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
    assert [at(distribution, place) for place in places] == pytest.approx(values)


def test_a_third_of_few_trials_is_good_and_a_tenth_of_many() -> None:
    assert [good_trials(number) for number in (1, 3, 4, 8, 24, 80, 100, 1000)] == [1, 1, 2, 3, 8, 8, 10, 25]


def test_auto_learns_after_three_trials() -> None:
    """Where only the weight counts, what follows lies above the middle of its range more often than by chance."""
    later = []
    for seed in range(8):
        sampler = auto(SPACE, seed=seed, num_objectives=1, conditional=False)
        values = suggested(sampler, 8, 1)
        spread = SpreadThenLearn(SPACE, learner(), FIRST, seed)
        assert values[:FIRST] == [spread.point(number) for number in range(FIRST)]
        later += [each["weight"] for each in values[FIRST:]]
    assert sum(weight > 1.0 for weight in later) > 0.75 * len(later)


def test_auto_learns_where_keys_are_left_out_of_trials() -> None:
    sampler = auto(SPACE, seed=0, num_objectives=1, conditional=True)
    assert len({tuple(values.items()) for values in suggested(sampler, 8, 2)}) == 8

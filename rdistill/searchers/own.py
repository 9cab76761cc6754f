"""rdistill's own searchers, declared in the same way as those of users."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from rdistill.registration.lazy import lazily
from rdistill.searchers.registry import register

if TYPE_CHECKING:
    import optuna
    from optuna.distributions import BaseDistribution
    from optuna.samplers import BaseSampler
else:
    lazily(globals(), optuna="optuna")


MAX_NUMERIC_KEYS = 8  # a Gaussian process is used for at most this many keys
FIRST = 3  # trials before a search learns, including the user's starts
BEFORE_STEPS = 2  # trials before a search steps from the best trial, including the user's starts
MAX_GOOD = 25  # the largest number of good trials, the same as in Optuna
MIN_GOOD_CAP = 8  # this many trials may be good in short searches


@register("optuna")
def tpe(space: Mapping[str, BaseDistribution], *, seed: int) -> BaseSampler:
    """TPE with Optuna's defaults."""
    return optuna.samplers.TPESampler(seed=seed)


@register("auto")
def auto(space: Mapping[str, BaseDistribution], *, seed: int, num_objectives: int, conditional: bool) -> BaseSampler:
    """The searcher that learns most from few trials, by the measurements in docs/search.md."""
    from rdistill.searchers.spread import SpreadThenLearn, StepsThenLearn

    numeric = not any(isinstance(each, optuna.distributions.CategoricalDistribution) for each in space.values())
    learner: BaseSampler
    if numeric and not conditional and num_objectives == 1 and len(space) <= MAX_NUMERIC_KEYS:
        learner = optuna.samplers.GPSampler(seed=seed, n_startup_trials=1, warn_independent_sampling=False)
    else:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)  # it is about `group`
            # This one is about `gamma`. Optuna 6 will remove it, which is why setup.py limits Optuna's version.
            warnings.simplefilter("ignore", FutureWarning)
            learner = optuna.samplers.TPESampler(
                seed=seed, n_startup_trials=1, multivariate=True, group=conditional, constant_liar=True,
                gamma=good_trials,
            )  # fmt: skip
        if num_objectives == 1:  # several objectives have no single best trial to step from
            learner = StepsThenLearn(space, learner, BEFORE_STEPS, seed)
            return SpreadThenLearn(space, learner, BEFORE_STEPS, seed, from_the_middle=True)
    return SpreadThenLearn(space, learner, FIRST, seed)


def good_trials(trials: int) -> int:
    """The number of trials that TPE treats as good: a third of them in short searches, later a tenth as in Optuna.

    A tenth of ten trials would be a single one, which does not show which of its values are good.
    """
    return max(min(MIN_GOOD_CAP, -(-trials // 3)), min(MAX_GOOD, -(-trials // 10)))


@register("random", learns=False)
def random(space: Mapping[str, BaseDistribution], *, seed: int) -> BaseSampler:
    """Random search."""
    return optuna.samplers.RandomSampler(seed=seed)


@register("grid", grid=True, learns=False)
def grid(space: Mapping[str, BaseDistribution], *, seed: int) -> BaseSampler:
    """Grid search: every point once, in an order that depends on the seed."""
    return optuna.samplers.GridSampler({key: _values(dimension) for key, dimension in space.items()}, seed=seed)


def _values(distribution: BaseDistribution) -> list[Any]:
    if isinstance(distribution, optuna.distributions.CategoricalDistribution):
        return list(distribution.choices)
    assert isinstance(distribution, optuna.distributions.IntDistribution)
    return list(range(distribution.low, distribution.high + 1))

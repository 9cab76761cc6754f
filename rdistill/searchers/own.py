"""rdistill's own searchers, declared as any other's are."""

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


MOST_NUMERIC_KEYS = 8  # a Gaussian process is taken for no more than these
FIRST = 3  # trials before a search learns, those that the user begins with included
BEFORE_STEPS = 2  # trials before a search steps from the best, those included too
MOST_GOOD = 25  # Optuna's own
FEW_GOOD = 8  # trials that TPE calls good, at most, until a tenth of all is more


@register("optuna")
def tpe(space: Mapping[str, BaseDistribution], *, seed: int) -> BaseSampler:
    """TPE: where good configurations are dense and bad ones are not."""
    return optuna.samplers.TPESampler(seed=seed)


@register("auto")
def auto(space: Mapping[str, BaseDistribution], *, seed: int, num_objectives: int, conditional: bool) -> BaseSampler:
    """What learns most within few trials, by the measurement in docs/search.md."""
    from rdistill.searchers.spread import SpreadThenLearn, StepsThenLearn

    numeric = not any(isinstance(each, optuna.distributions.CategoricalDistribution) for each in space.values())
    learner: BaseSampler
    if numeric and not conditional and num_objectives == 1 and len(space) <= MOST_NUMERIC_KEYS:
        learner = optuna.samplers.GPSampler(seed=seed, n_startup_trials=1, warn_independent_sampling=False)
    else:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)  # Optuna warns of `group`
            # ... and of `gamma`, which Optuna 6 will take away: hence the ceiling in setup.py.
            warnings.simplefilter("ignore", FutureWarning)
            learner = optuna.samplers.TPESampler(
                seed=seed, n_startup_trials=1, multivariate=True, group=conditional, constant_liar=True,
                gamma=good_trials,
            )  # fmt: skip
        if num_objectives == 1:  # several have no best trial to step from
            learner = StepsThenLearn(space, learner, BEFORE_STEPS, seed)
            return SpreadThenLearn(space, learner, BEFORE_STEPS, seed, from_the_middle=True)
    return SpreadThenLearn(space, learner, FIRST, seed)


def good_trials(trials: int) -> int:
    """How many of the trials TPE calls good: a third of few. Optuna's own tenth is one trial of ten, and
    a single trial does not say which of its values made it good."""
    return max(min(FEW_GOOD, -(-trials // 3)), min(MOST_GOOD, -(-trials // 10)))


@register("random", learns=False)
def random(space: Mapping[str, BaseDistribution], *, seed: int) -> BaseSampler:
    """Each configuration by chance alone."""
    return optuna.samplers.RandomSampler(seed=seed)


@register("grid", grid=True, learns=False)
def grid(space: Mapping[str, BaseDistribution], *, seed: int) -> BaseSampler:
    """Every point once, in an order that the seed decides."""
    return optuna.samplers.GridSampler({key: _values(dimension) for key, dimension in space.items()}, seed=seed)


def _values(distribution: BaseDistribution) -> list[Any]:
    if isinstance(distribution, optuna.distributions.CategoricalDistribution):
        return list(distribution.choices)
    assert isinstance(distribution, optuna.distributions.IntDistribution)
    return list(range(distribution.low, distribution.high + 1))

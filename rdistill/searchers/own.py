"""rdistill's own searchers, declared as any other's are."""

from __future__ import annotations

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


@register("optuna")
def tpe(space: Mapping[str, BaseDistribution], *, seed: int) -> BaseSampler:
    """TPE: where good configurations are dense and bad ones are not."""
    return optuna.samplers.TPESampler(seed=seed)


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

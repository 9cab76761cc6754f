"""A search space in Optuna's form: distributions, and the conditions under which a key is part of a configuration."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

from rdistill.schemas.mappings import Params

MAX_POINTS = 10_000  # the largest number of points that are listed when the sampler only repeats itself


@contextmanager
def quiet_optuna(level: int = optuna.logging.ERROR) -> Iterator[None]:
    """A context in which Optuna logs nothing below ``level``; by default it logs every new study and sampler."""
    verbosity = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(level)
    try:
        yield
    finally:
        optuna.logging.set_verbosity(verbosity)


@dataclass(frozen=True)
class Evaluated:
    """A trial of an earlier sweep, or of an earlier start of this sweep."""

    params: Mapping[str, Any]  # the configuration in Optuna's form
    values: tuple[float, ...]  # the score of each objective, in their order
    id: str  # shown to users: the name of its sweep and its own id


@dataclass(frozen=True)
class SearchSpace:
    """The space that a search chooses from.

    Attributes:
        distributions: config key -> distribution; the choices of a list are JSON texts.
        conditions: key -> parent key -> those values of the parent, as JSON texts, with which the key applies. All
            conditions of a key must hold.
    """

    distributions: Mapping[str, BaseDistribution]
    conditions: Mapping[str, Mapping[str, frozenset[str]]] = field(default_factory=dict)

    def in_order(self) -> list[str]:
        """The keys, each after its parents."""
        placed: list[str] = []
        while len(placed) < len(self.distributions):
            ready = [key for key in self.distributions if key not in placed and self.parents(key) <= set(placed)]
            if not ready:
                break
            placed.append(ready[0])
        return placed

    def cycle(self) -> str:
        """A key that depends on itself through other keys; an empty text if there is none."""
        return next(iter(self.distributions.keys() - set(self.in_order())), "")

    def parents(self, key: str) -> set[str]:
        """The keys that a key's conditions are about."""
        return set(self.conditions.get(key, ()))

    def holds(self, key: str, params: Mapping[str, Any]) -> bool:
        """Whether all conditions of a key hold with the parameters that are chosen already."""
        return all(params.get(parent) in values for parent, values in self.conditions.get(key, {}).items())

    def ask(self, trial: optuna.Trial) -> Params:
        """The parameters that Optuna suggests for a trial."""
        params: Params = {}
        for key in self.in_order():
            if self.holds(key, params):
                params[key] = _suggested(trial, key, self.distributions[key])
        return params

    def points(self) -> Iterator[Params]:
        """The configurations of a space without ranges, up to ``MAX_POINTS``; none if there is a range."""
        keys = self.in_order()
        values = [values_of(self.distributions[key]) for key in keys]
        if any(listed is None for listed in values):
            return
        seen = set()
        for point in itertools.islice(itertools.product(*(listed or [] for listed in values)), MAX_POINTS):
            params: Params = {}
            for key, value in zip(keys, point, strict=True):
                if self.holds(key, params):
                    params[key] = value
            if (name := tuple(params.items())) not in seen:
                seen.add(name)
                yield params

    @property
    def is_numeric(self) -> bool:
        """Whether every key is a number and part of every configuration."""
        numeric = (FloatDistribution, IntDistribution)
        return not self.conditions and all(isinstance(each, numeric) for each in self.distributions.values())


def values_of(distribution: BaseDistribution) -> list[Any] | None:
    """All values of a distribution; None for a range without steps."""
    if isinstance(distribution, CategoricalDistribution):
        return list(distribution.choices)
    if isinstance(distribution, IntDistribution):
        return list(range(distribution.low, distribution.high + 1, distribution.step))
    assert isinstance(distribution, FloatDistribution)
    if distribution.step is None:
        return None
    number = round((distribution.high - distribution.low) / distribution.step) + 1
    return [min(distribution.high, distribution.low + distribution.step * index) for index in range(number)]


def _suggested(trial: optuna.Trial, key: str, distribution: BaseDistribution) -> Any:
    if isinstance(distribution, CategoricalDistribution):
        return trial.suggest_categorical(key, distribution.choices)
    assert isinstance(distribution, (FloatDistribution, IntDistribution))
    suggest = trial.suggest_int if isinstance(distribution, IntDistribution) else trial.suggest_float
    step = {} if distribution.log else {"step": distribution.step}
    return suggest(key, distribution.low, distribution.high, log=distribution.log, **step)  # type: ignore[operator]

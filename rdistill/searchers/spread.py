"""A search of few trials: evenly spread at first, then in steps from the best, and only then by a model."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.samplers import BaseSampler
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState
from scipy.stats import qmc

from rdistill.schemas.mappings import Params

MOST_POINTS = 2**14  # the start has no more: a sequence is computed from its beginning
STEP = 0.25  # part of a range; a fifth to a third of it come to the same in the searches of docs/search.md
FIXED = "fixed_params"  # Optuna's own mark of a trial whose values, or some of them, were written out


class _Before(BaseSampler):
    """Chooses some trials itself; what comes after them another sampler chooses.

    Args:
        space: config key -> distribution; with what not every trial has.
        then: the other sampler.
        seed: of what this one chooses.
    """

    def __init__(self, space: Mapping[str, BaseDistribution], then: BaseSampler, seed: int) -> None:
        self._space, self._then, self._seed = dict(space), then, seed

    def _chooses(self, study: Study) -> bool:
        """Whether the trial that begins is one of its own."""
        raise NotImplementedError

    def _chosen(self, study: Study, trial: FrozenTrial) -> Params:
        """A configuration, with a value for every key."""
        raise NotImplementedError

    def reseed_rng(self) -> None:
        self._then.reseed_rng()

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        return self._space if self._chooses(study) else self._then.infer_relative_search_space(study, trial)

    def sample_relative(self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]) -> Params:
        if search_space is self._space or (search_space == self._space and self._chooses(study)):
            return self._chosen(study, trial)
        return self._then.sample_relative(study, trial, search_space)

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        return self._then.sample_independent(study, trial, param_name, param_distribution)

    def before_trial(self, study: Study, trial: FrozenTrial) -> None:
        self._then.before_trial(study, trial)

    def after_trial(self, study: Study, trial: FrozenTrial, state: TrialState, values: Any) -> None:
        self._then.after_trial(study, trial, state, values)


class SpreadThenLearn(_Before):
    """Quasi-random at first (Sobol, scrambled: Owen, J. Complexity 1998), then what another sampler chooses.

    Optuna's own QMCSampler leaves categories to chance, and so the first of several trials that begin at a time.

    Args:
        space: config key -> distribution; with what not every trial has.
        learner: chooses once ``first`` trials have begun and one has a score.
        first: trials of the start, those that the user begins with included.
        seed: of the start.
        from_the_middle: whether the first trial that the user has not written out is the middle of every range, with
            the choices of the first that is.
    """

    def __init__(
        self,
        space: Mapping[str, BaseDistribution],
        learner: BaseSampler,
        first: int,
        seed: int,
        from_the_middle: bool = False,
    ) -> None:
        super().__init__(space, learner, seed)
        self._first, self._from_the_middle = first, from_the_middle

    def _chooses(self, study: Study) -> bool:
        begun = _begun(study)
        scored = sum(trial.state == TrialState.COMPLETE for trial in begun)
        return len(begun) - 1 < self._first or not scored  # this trial is among them

    def _chosen(self, study: Study, trial: FrozenTrial) -> Params:
        others = [each for each in _begun(study) if each.number != trial.number]
        if self._from_the_middle and all(FIXED in each.system_attrs for each in others):
            return middle(self._space, others[0].params if others else {})
        return self.point(trial.number)

    def point(self, number: int) -> Params:
        """The configuration of a number in the sequence."""
        sequence = qmc.Sobol(max(1, len(self._space)), scramble=True, seed=self._seed)
        if number % MOST_POINTS:  # scipy cannot go forward by none
            sequence.fast_forward(number % MOST_POINTS)
        places = sequence.random(1)[0]
        return {
            key: at(distribution, place)
            for (key, distribution), place in zip(self._space.items(), places, strict=False)
        }


class StepsThenLearn(_Before):
    """Single steps from the best trial so far, one key after the other, choices before ranges; then another sampler.

    A few trials do not show a model what is good in six ranges at a time. Near a configuration that is good already,
    one step in five is better still: direct search (Hooke and Jeeves, J. ACM 1961), from a start that is known, as in
    FLAML's CFO (Wu, Wang and Huang, AAAI 2021).

    Args:
        space: config key -> distribution; with what not every trial has.
        learner: chooses once each key has had its step.
        first: trials before the first step.
        seed: of the order of the keys, and of the directions.
    """

    def __init__(self, space: Mapping[str, BaseDistribution], learner: BaseSampler, first: int, seed: int) -> None:
        super().__init__(space, learner, seed)
        self._first = first
        order = [str(key) for key in np.random.default_rng(seed).permutation(list(self._space))]
        # Where in its range a number is good depends on the choices, such as the loss whose weight it is.
        self._order = sorted(order, key=lambda key: not isinstance(self._space[key], CategoricalDistribution))

    def _chooses(self, study: Study) -> bool:
        return len(_begun(study)) - 1 < self._first + len(self._order)

    def _chosen(self, study: Study, trial: FrozenTrial) -> Params:
        params = {
            **middle(self._space),
            **study.best_trial.params,
        }  # a key that the best one lacks begins in the middle
        key = self._order[(trial.number - self._first) % len(self._order)]
        random = np.random.default_rng([self._seed, trial.number])
        params[key] = stepped(self._space[key], params[key], random)
        return params


def _begun(study: Study) -> list[FrozenTrial]:
    """The trials that run or have a score; the one that begins is among them."""
    return study.get_trials(deepcopy=False, states=(TrialState.COMPLETE, TrialState.RUNNING))


def middle(space: Mapping[str, BaseDistribution], like: Params | None = None) -> Params:
    """The middle of every range, and of every choice the one that ``like`` has, or else the first."""
    return {
        key: (like or {}).get(key, distribution.choices[0])
        if isinstance(distribution, CategoricalDistribution)
        else at(distribution, 0.5)
        for key, distribution in space.items()
    }


def stepped(distribution: BaseDistribution, value: Any, random: np.random.Generator) -> Any:
    """Another value: a quarter of the range up or down, within it; of a choice, any other one."""
    if isinstance(distribution, CategoricalDistribution):
        others = [choice for choice in distribution.choices if choice != value]
        return others[int(random.integers(len(others)))] if others else value
    place = place_of(distribution, value)
    step = STEP if random.integers(2) else -STEP
    return at(distribution, place + step if 0.0 <= place + step <= 1.0 else place - step)


def place_of(distribution: BaseDistribution, value: float) -> float:
    """Where a value lies in its range, from 0 to 1; on a logarithmic scale where the range has one."""
    assert isinstance(distribution, (FloatDistribution, IntDistribution))
    low, high, step = distribution.low, distribution.high, distribution.step
    if low == high:
        return 0.5
    if step is not None and not distribution.log:  # the middle of what leads to it
        return (round((value - low) / step) + 0.5) / (round((high - low) / step) + 1)
    if isinstance(distribution, IntDistribution):
        low, high = low - 0.5, high + 0.5
    part = math.log(value / low) / math.log(high / low) if distribution.log else (value - low) / (high - low)
    return min(1.0, max(0.0, part))


def at(distribution: BaseDistribution, place: float) -> Any:
    """The value at a place from 0 to 1 of a distribution's range, each value as likely as by chance."""
    if isinstance(distribution, CategoricalDistribution):
        return distribution.choices[min(int(place * len(distribution.choices)), len(distribution.choices) - 1)]
    assert isinstance(distribution, (FloatDistribution, IntDistribution))
    low, high, step = distribution.low, distribution.high, distribution.step
    whole = isinstance(distribution, IntDistribution)
    if step is not None and not distribution.log:
        number = round((high - low) / step) + 1
        value = low + step * min(int(place * number), number - 1)
        return int(value) if whole else min(value, high)
    if whole:  # each whole number has half a step on either side of it on a logarithmic scale
        low, high = low - 0.5, high + 0.5
    value = low * (high / low) ** place if distribution.log else low + (high - low) * place
    return min(max(round(value), distribution.low), distribution.high) if whole else float(min(max(value, low), high))

"""Samplers for searches of few trials: evenly spread points first, then steps from the best trial, then a model."""

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

MAX_POINTS = 2**14  # the sequence repeats after this many points, since each point is computed from its start
STEP = 0.25  # a fraction of the range; in the searches of docs/search.md, 0.2 to 0.33 make no difference
FIXED = "fixed_params"  # Optuna's system attribute of a trial with values that were enqueued


class _ThenLearn(BaseSampler):
    """Chooses the configurations of the first trials itself, and leaves all others to another sampler.

    Args:
        space: config key -> distribution, including keys that are left out of some trials.
        then: the other sampler.
        seed: the seed of this sampler's own choices.
    """

    def __init__(self, space: Mapping[str, BaseDistribution], then: BaseSampler, seed: int) -> None:
        self._space, self._then, self._seed = dict(space), then, seed

    def _is_own_trial(self, study: Study) -> bool:
        """Whether this sampler, and not the other one, chooses the trial that starts."""
        raise NotImplementedError

    def _own_params(self, study: Study, trial: FrozenTrial) -> Params:
        """A configuration with a value for every key."""
        raise NotImplementedError

    def reseed_rng(self) -> None:
        self._then.reseed_rng()

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        return self._space if self._is_own_trial(study) else self._then.infer_relative_search_space(study, trial)

    def sample_relative(self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]) -> Params:
        if search_space is self._space or (search_space == self._space and self._is_own_trial(study)):
            return self._own_params(study, trial)
        return self._then.sample_relative(study, trial, search_space)

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        return self._then.sample_independent(study, trial, param_name, param_distribution)

    def before_trial(self, study: Study, trial: FrozenTrial) -> None:
        self._then.before_trial(study, trial)

    def after_trial(self, study: Study, trial: FrozenTrial, state: TrialState, values: Any) -> None:
        self._then.after_trial(study, trial, state, values)


class SpreadThenLearn(_ThenLearn):
    """Quasi-random points first (scrambled Sobol: Owen, J. Complexity 1998), then the choices of another sampler.

    Optuna's QMCSampler draws categories at random, and also the first of several trials that start at a time.

    Args:
        space: config key -> distribution, including keys that are left out of some trials.
        learner: the other sampler, which chooses once ``first`` trials have started and one has a score.
        first: number of first trials, including the user's starts.
        seed: the seed of the sequence.
        from_the_middle: whether the first trial after the user's starts is the middle of every range, with the choices
            of the first start.
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

    def _is_own_trial(self, study: Study) -> bool:
        begun = _begun(study)
        scored = sum(trial.state == TrialState.COMPLETE for trial in begun)
        return len(begun) - 1 < self._first or not scored  # the trial that starts is one of `begun`

    def _own_params(self, study: Study, trial: FrozenTrial) -> Params:
        others = [each for each in _begun(study) if each.number != trial.number]
        if self._from_the_middle and all(FIXED in each.system_attrs for each in others):
            return middle_point(self._space, others[0].params if others else {})
        return self.point(trial.number)

    def point(self, number: int) -> Params:
        """The configuration at a position in the sequence."""
        sequence = qmc.Sobol(max(1, len(self._space)), scramble=True, seed=self._seed)
        if number % MAX_POINTS:  # scipy's fast_forward does not accept 0
            sequence.fast_forward(number % MAX_POINTS)
        places = sequence.random(1)[0]
        return {
            key: value_at(distribution, place)
            for (key, distribution), place in zip(self._space.items(), places, strict=False)
        }


class StepsThenLearn(_ThenLearn):
    """Steps of one key each from the best trial so far, choices before ranges; then the choices of another sampler.

    A few trials are not enough for a model of six ranges. Near a good configuration, about one step in five improves
    it: this is direct search (Hooke and Jeeves, J. ACM 1961) from a known start, as in FLAML's CFO (Wu, Wang and Huang,
    AAAI 2021).

    Args:
        space: config key -> distribution, including keys that are left out of some trials.
        learner: the other sampler, which chooses after one step of each key.
        first: number of trials before the first step.
        seed: the seed of the order of the keys and of the directions.
    """

    def __init__(self, space: Mapping[str, BaseDistribution], learner: BaseSampler, first: int, seed: int) -> None:
        super().__init__(space, learner, seed)
        self._first = first
        order = [str(key) for key in np.random.default_rng(seed).permutation(list(self._space))]
        # The best value of a number depends on the choices, such as the loss whose weight it is: choices come first.
        self._order = sorted(order, key=lambda key: not isinstance(self._space[key], CategoricalDistribution))

    def _is_own_trial(self, study: Study) -> bool:
        return len(_begun(study)) - 1 < self._first + len(self._order)

    def _own_params(self, study: Study, trial: FrozenTrial) -> Params:
        params = {
            **middle_point(self._space),
            **study.best_trial.params,
        }  # a key that is left out of the best trial starts at the middle of its range
        key = self._order[(trial.number - self._first) % len(self._order)]
        random = np.random.default_rng([self._seed, trial.number])
        params[key] = step_from(self._space[key], params[key], random)
        return params


def _begun(study: Study) -> list[FrozenTrial]:
    """The trials that run or have a score, including the trial that starts."""
    return study.get_trials(deepcopy=False, states=(TrialState.COMPLETE, TrialState.RUNNING))


def middle_point(space: Mapping[str, BaseDistribution], like: Params | None = None) -> Params:
    """The middle of every range, and for every choice the value in ``like``, or else the first one."""
    return {
        key: (like or {}).get(key, distribution.choices[0])
        if isinstance(distribution, CategoricalDistribution)
        else value_at(distribution, 0.5)
        for key, distribution in space.items()
    }


def step_from(distribution: BaseDistribution, value: Any, random: np.random.Generator) -> Any:
    """A value a quarter of the range above or below ``value``, within the range; for a choice, any other value."""
    if isinstance(distribution, CategoricalDistribution):
        others = [choice for choice in distribution.choices if choice != value]
        return others[int(random.integers(len(others)))] if others else value
    place = relative_position(distribution, value)
    step = STEP if random.integers(2) else -STEP
    return value_at(distribution, place + step if 0.0 <= place + step <= 1.0 else place - step)


def relative_position(distribution: BaseDistribution, value: float) -> float:
    """The position of a value in its range, from 0 to 1; on a logarithmic scale if the range has one."""
    assert isinstance(distribution, (FloatDistribution, IntDistribution))
    low, high, step = distribution.low, distribution.high, distribution.step
    if low == high:
        return 0.5
    if step is not None and not distribution.log:  # the middle of the positions for which `value_at` gives this value
        return (round((value - low) / step) + 0.5) / (round((high - low) / step) + 1)
    if isinstance(distribution, IntDistribution):
        low, high = low - 0.5, high + 0.5
    part = math.log(value / low) / math.log(high / low) if distribution.log else (value - low) / (high - low)
    return min(1.0, max(0.0, part))


def value_at(distribution: BaseDistribution, place: float) -> Any:
    """The value at a position from 0 to 1; a uniform position gives each value its probability in the distribution."""
    if isinstance(distribution, CategoricalDistribution):
        return distribution.choices[min(int(place * len(distribution.choices)), len(distribution.choices) - 1)]
    assert isinstance(distribution, (FloatDistribution, IntDistribution))
    low, high, step = distribution.low, distribution.high, distribution.step
    whole = isinstance(distribution, IntDistribution)
    if step is not None and not distribution.log:
        number = round((high - low) / step) + 1
        value = low + step * min(int(place * number), number - 1)
        return int(value) if whole else min(value, high)
    if whole:  # each integer stands for the interval of half a unit on either side
        low, high = low - 0.5, high + 0.5
    value = low * (high / low) ** place if distribution.log else low + (high - low) * place
    return min(max(round(value), distribution.low), distribution.high) if whole else float(min(max(value, low), high))

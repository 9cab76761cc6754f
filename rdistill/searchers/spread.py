"""A search of few trials: it begins evenly spread instead of by chance, and learns after a quarter of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.samplers import BaseSampler
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState
from scipy.stats import qmc

from rdistill.schemas.mappings import Params

MOST_POINTS = 2**14  # the start has no more: a sequence is computed from its beginning


class SpreadThenLearn(BaseSampler):
    """Quasi-random at first (Sobol, scrambled: Owen, J. Complexity 1998), then what another sampler chooses.

    Optuna's own QMCSampler leaves categories to chance, and so the first of several trials that begin at a time.

    Args:
        space: config key -> distribution; with what not every trial has.
        learner: chooses once ``first`` trials have begun and one has a score.
        first: trials of the start, those that the user begins with included.
        seed: of the start.
    """

    def __init__(self, space: Mapping[str, BaseDistribution], learner: BaseSampler, first: int, seed: int) -> None:
        self._space, self._learner, self._first, self._seed = dict(space), learner, first, seed

    def reseed_rng(self) -> None:
        self._learner.reseed_rng()

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        return self._space if self._starts(study) else self._learner.infer_relative_search_space(study, trial)

    def sample_relative(self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]) -> Params:
        if search_space is self._space or (search_space == self._space and self._starts(study)):
            return self.point(trial.number)
        return self._learner.sample_relative(study, trial, search_space)

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        return self._learner.sample_independent(study, trial, param_name, param_distribution)

    def before_trial(self, study: Study, trial: FrozenTrial) -> None:
        self._learner.before_trial(study, trial)

    def after_trial(self, study: Study, trial: FrozenTrial, state: TrialState, values: Any) -> None:
        self._learner.after_trial(study, trial, state, values)

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

    def _starts(self, study: Study) -> bool:
        trials = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE, TrialState.RUNNING))
        scored = sum(trial.state == TrialState.COMPLETE for trial in trials)
        return len(trials) - 1 < self._first or not scored  # this trial is among them


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

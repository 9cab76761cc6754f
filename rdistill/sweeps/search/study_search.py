"""One search as a study of Optuna: which suggests configurations and is given the scores of those that have ended.

Ray Tune's own OptunaSearch does the same for a space without conditions. This one also begins with configurations that
the user names, is given what earlier sweeps have found, and suggests nothing twice and nothing impossible.
"""

from __future__ import annotations

import math
import pickle
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import optuna
from optuna.trial import TrialState
from ray.tune.search import Searcher

from rdistill.core.errors import UserError
from rdistill.core.files import write_whole
from rdistill.schemas.mappings import Params, TuneResult
from rdistill.sweeps.study.search_space import Evaluated, SearchSpace, quiet_optuna

ATTEMPTS = 100  # tries for a configuration that is new and possible, before all of a small space are listed
DIRECTIONS = {"max": "maximize", "min": "minimize"}


class StudySearch(Searcher):
    """Suggests the parameters of a trial, as Optuna has them.

    Args:
        space: what there is to choose from.
        sampler: chooses.
        metrics: of Tune's results, and in ``modes`` whether each counts upward (``max``) or downward (``min``).
        starts: are tried first, in order; keys that one leaves out are the sampler's.
        evaluated: trials of earlier sweeps, to learn from; none of them is tried again.
        possible: whether a configuration can be trained at all.
    """

    def __init__(
        self,
        space: SearchSpace,
        sampler: optuna.samplers.BaseSampler,
        metrics: Sequence[str],
        modes: Sequence[str],
        starts: Sequence[Mapping[str, Any]] = (),
        evaluated: Sequence[Evaluated] = (),
        possible: Callable[[Params], bool] | None = None,
    ) -> None:
        super().__init__(metric=list(metrics), mode=list(modes))
        self.space, self.metrics, self.possible = space, list(metrics), possible
        with quiet_optuna():
            self.study = optuna.create_study(sampler=sampler, directions=[DIRECTIONS[mode] for mode in modes])
        self.running: dict[str, optuna.Trial] = {}  # Tune's id of a trial that runs -> Optuna's trial
        self.tried: set[str] = set()
        for trial in evaluated:
            self._learn(trial)
        for params in starts:
            self.try_next(params)

    def take(self, trial_id: str, params: Mapping[str, Any]) -> None:
        """Takes up a trial again that was suggested before: it is neither new nor chosen by the sampler."""
        self.study.enqueue_trial(dict(params))
        with quiet_optuna():
            self.running[trial_id] = self.study.ask()
            self.space.ask(self.running[trial_id])
        self.tried.add(_name(params))

    def remember(self, params: Mapping[str, Any], values: Sequence[float] | None, trial_id: str) -> None:
        """A trial that is over is not tried again; it is learnt from if it has come to scores."""
        if values is not None:
            self._learn(Evaluated(params, tuple(values), trial_id))
        self.tried.add(_name(params))

    def try_next(self, params: Mapping[str, Any]) -> None:
        """Puts a configuration at the end of those that are tried before the sampler chooses."""
        self.study.enqueue_trial(dict(params))

    def _learn(self, trial: Evaluated) -> None:
        names = {key: distribution for key, distribution in self.space.distributions.items() if key in trial.params}
        self.study.add_trial(
            optuna.trial.create_trial(
                params=dict(trial.params), distributions=names, values=list(trial.values), user_attrs={"from": trial.id}
            )
        )
        self.tried.add(_name(trial.params))

    def suggest(self, trial_id: str) -> Params | str:
        for _ in range(ATTEMPTS):
            if (params := self._ask(trial_id)) is not None:
                return params
        for params in self._left():
            self.study.enqueue_trial(params)
            if self._ask(trial_id) is not None:
                return params
        if not self.tried:
            raise UserError(f"space: none of {ATTEMPTS} configurations is possible; look at each with `rdistill check`")
        return str(Searcher.FINISHED)

    def _ask(self, trial_id: str) -> Params | None:
        """The parameters of a new trial; None where they are not to be tried."""
        with quiet_optuna():
            drawn = self.study.ask()
            params = self.space.ask(drawn)
        if _name(params) in self.tried or (self.possible is not None and not self.possible(params)):
            self._tell(drawn, None)
            return None
        self.tried.add(_name(params))
        self.running[trial_id] = drawn
        return params

    def _left(self) -> Iterator[Params]:
        """What a small space still holds, in its own order."""
        for params in self.space.points():
            if _name(params) not in self.tried and (self.possible is None or self.possible(params)):
                yield params

    def on_trial_result(self, trial_id: str, result: TuneResult) -> None:
        """Only how a trial ends counts."""

    def on_trial_complete(self, trial_id: str, result: TuneResult | None = None, error: bool = False) -> None:
        ended = self.running.pop(trial_id, None)
        if ended is None:
            return
        values = [(result or {}).get(metric) for metric in self.metrics]
        scored = not error and all(isinstance(value, int | float) and math.isfinite(value) for value in values)
        self._tell(ended, [float(value) for value in values if value is not None] if scored else None)

    def _tell(self, trial: optuna.Trial, values: Sequence[float] | None) -> None:
        """Ends a trial with its scores, or as failed."""
        try:
            self.study.tell(trial, values, state=None if values is not None else TrialState.FAIL)
        except RuntimeError:
            # A sampler that has nothing left to try (GridSampler, BruteForceSampler) stops the study, for which Optuna
            # has an error outside of its own `optimize`. The trial has ended all the same, and Tune counts the trials.
            if not self.study.trials[trial.number].state.is_finished():
                raise

    def save(self, checkpoint_path: str) -> None:
        write_whole(Path(checkpoint_path), pickle.dumps((self.study, self.running, self.tried)))

    def restore(self, checkpoint_path: str) -> None:
        with open(checkpoint_path, "rb") as file:
            self.study, self.running, self.tried = pickle.load(file)


def _name(params: Mapping[str, Any]) -> str:
    return repr(sorted(params.items()))

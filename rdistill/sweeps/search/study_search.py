"""A searcher for Ray Tune that takes its suggestions from an Optuna study.

Ray Tune's OptunaSearch does the same, but only for spaces without conditions. This searcher also starts with
configurations that the user lists, learns from the trials of earlier sweeps, and never suggests a configuration twice
or one that cannot be trained.
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

ATTEMPTS = 100  # suggestions of the sampler that may be rejected before the points of the space are listed instead
DIRECTIONS = {"max": "maximize", "min": "minimize"}


class StudySearch(Searcher):
    """Suggests the parameters of trials, in the form that Optuna uses.

    Args:
        space: the search space.
        sampler: Optuna's sampler.
        metrics: the keys of Tune's results to optimise.
        modes: ``max`` or ``min`` for each of the metrics.
        starts: configurations that are tried first, in this order; the sampler chooses the keys that one leaves out.
        evaluated: trials of earlier sweeps to learn from; none of them is tried again.
        why_impossible: returns why a configuration cannot be trained, or None if it can.
    """

    def __init__(
        self,
        space: SearchSpace,
        sampler: optuna.samplers.BaseSampler,
        metrics: Sequence[str],
        modes: Sequence[str],
        starts: Sequence[Mapping[str, Any]] = (),
        evaluated: Sequence[Evaluated] = (),
        why_impossible: Callable[[Params], str | None] = lambda params: None,
    ) -> None:
        super().__init__(metric=list(metrics), mode=list(modes))
        self.space, self.metrics, self.why_impossible = space, list(metrics), why_impossible
        self._reason = ""  # why the last impossible configuration is impossible
        with quiet_optuna():
            self.study = optuna.create_study(sampler=sampler, directions=[DIRECTIONS[mode] for mode in modes])
        self.running: dict[str, optuna.Trial] = {}  # Tune's id of a running trial -> Optuna's trial
        self.tried: set[str] = set()
        for trial in evaluated:
            self._add_evaluated(trial)
        for params in starts:
            self.try_next(params)

    def continue_trial(self, trial_id: str, params: Mapping[str, Any]) -> None:
        """Adds a running trial that an earlier start of the sweep suggested; the sampler does not choose it."""
        self.study.enqueue_trial(dict(params))
        with quiet_optuna():
            self.running[trial_id] = self.study.ask()
            self.space.ask(self.running[trial_id])
        self.tried.add(_key(params))

    def add_ended(self, params: Mapping[str, Any], values: Sequence[float] | None, trial_id: str) -> None:
        """Adds a trial that has ended, so that it is not tried again; the sampler learns from it if it has scores."""
        if values is not None:
            self._add_evaluated(Evaluated(params, tuple(values), trial_id))
        self.tried.add(_key(params))

    def try_next(self, params: Mapping[str, Any]) -> None:
        """Appends a configuration to the queue of those that are tried before the sampler chooses."""
        self.study.enqueue_trial(dict(params))

    def _add_evaluated(self, trial: Evaluated) -> None:
        names = {key: distribution for key, distribution in self.space.distributions.items() if key in trial.params}
        self.study.add_trial(
            optuna.trial.create_trial(
                params=dict(trial.params), distributions=names, values=list(trial.values), user_attrs={"from": trial.id}
            )
        )
        self.tried.add(_key(trial.params))

    def suggest(self, trial_id: str) -> Params | str:
        for _ in range(ATTEMPTS):
            if (params := self._sample(trial_id)) is not None:
                return params
        for params in self._untried_points():
            self.study.enqueue_trial(params)
            if self._sample(trial_id) is not None:
                return params
        if not self.tried:
            raise UserError(f"space: none of {ATTEMPTS} configurations can be trained; the last: {self._reason}")
        return str(Searcher.FINISHED)

    def _sample(self, trial_id: str) -> Params | None:
        """The parameters of a new trial from the sampler; None if they were tried before or cannot be trained."""
        with quiet_optuna():
            drawn = self.study.ask()
            params = self.space.ask(drawn)
        if not self._is_new(params):
            self._tell(drawn, None)
            return None
        self.tried.add(_key(params))
        self.running[trial_id] = drawn
        return params

    def _untried_points(self) -> Iterator[Params]:
        """The points of a small space that were not tried yet, in the order of the space."""
        for params in self.space.points():
            if self._is_new(params):
                yield params

    def _is_new(self, params: Params) -> bool:
        """Whether a configuration was not tried yet and can be trained."""
        if _key(params) in self.tried:
            return False
        if (reason := self.why_impossible(params)) is None:
            return True
        self._reason = reason
        return False

    def on_trial_result(self, trial_id: str, result: TuneResult) -> None:
        """Does nothing: the sampler learns only from the last result of a trial."""

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
            # GridSampler and BruteForceSampler stop the study when no point is left. Outside of `study.optimize` that
            # raises an error. The trial has been recorded nevertheless, and Tune itself counts the trials.
            if not self.study.trials[trial.number].state.is_finished():
                raise

    def save(self, checkpoint_path: str) -> None:
        write_whole(Path(checkpoint_path), pickle.dumps((self.study, self.running, self.tried)))

    def restore(self, checkpoint_path: str) -> None:
        with open(checkpoint_path, "rb") as file:
            self.study, self.running, self.tried = pickle.load(file)


def _key(params: Mapping[str, Any]) -> str:
    return repr(sorted(params.items()))

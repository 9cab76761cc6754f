"""The events of a sweep, and the listeners that are notified of them: the console and the trackers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from ray.tune import Callback

from rdistill.schemas.trial import TrialReport
from rdistill.sweeps.study.records import trains_alone
from rdistill.sweeps.trial.faults import MACHINE, cause_of, last_error
from rdistill.sweeps.trial.trial import reason_of


@dataclass(frozen=True)
class TrialInfo:
    """A trial, as its config in Tune describes it."""

    id: str
    phase: str  # baseline, search, confirm or equal-cost
    values: Mapping[str, Any]  # config key -> value
    seed: int = 0
    of: str = ""  # the id of the trial that a confirmation run repeats
    iterations: int | None = None  # length of its training, if it differs from that of the sweep's other trials

    @property
    def is_baseline(self) -> bool:
        """Whether it trains the student alone."""
        return trains_alone(self.id, self.phase, self.of)


class SweepListener(Protocol):
    """Is notified of the events of a sweep's trials.

    :class:`rdistill.training.hooks.RunListener` is its counterpart within one run.
    """

    def trial_started(self, trial: TrialInfo) -> None:
        """A trial starts or goes on; the same trial may start more than once."""

    def trial_validated(self, trial: TrialInfo, result: TrialReport) -> None:
        """A trial was validated; ``result`` has ``iter``, and ``mIoU`` and ``best_mIoU`` in percent."""

    def trial_lost(self, trial: TrialInfo, reason: str) -> None:
        """A trial failed because of the machine or a dead process; Tune restarts it from its last checkpoint."""

    def trial_ended(self, trial: TrialInfo, result: TrialReport, failed: bool) -> None:
        """A trial has ended; ``result`` is its last report, which is empty if there was none."""


_listeners: tuple[SweepListener, ...] = ()  # listeners of the running sweep; Tune runs in this process


@contextmanager
def listening(*listeners: SweepListener) -> Iterator[None]:
    """A context in which :class:`TuneEvents` notifies these listeners."""
    global _listeners
    _listeners = listeners
    try:
        yield
    finally:
        _listeners = ()


class TuneEvents(Callback):
    """Passes Tune's events on to the listeners. Tune pickles its callbacks, so this one has no state."""

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **_: Any) -> None:
        for listener in _listeners:
            listener.trial_started(_trial_info(trial))

    def on_trial_result(self, iteration: int, trials: list[Any], trial: Any, result: TrialReport, **_: Any) -> None:
        for listener in _listeners:
            listener.trial_validated(_trial_info(trial), result)

    def on_trial_recover(self, iteration: int, trials: list[Any], trial: Any, **_: Any) -> None:
        error = last_error(trial)
        # Tune also restarts a trial whose own values were the cause, but that one then fails for good.
        if error is not None and cause_of(error, Path()) == MACHINE:
            for listener in _listeners:
                listener.trial_lost(_trial_info(trial), reason_of(error))

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **_: Any) -> None:
        for listener in _listeners:
            listener.trial_ended(_trial_info(trial), trial.last_result or TrialReport(), False)

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **_: Any) -> None:
        for listener in _listeners:
            listener.trial_ended(_trial_info(trial), trial.last_result or TrialReport(), True)


def _trial_info(trial: Any) -> TrialInfo:
    config = trial.config
    iterations = config.get("iterations")
    return TrialInfo(**{name: config[name] for name in ("id", "phase", "values", "seed", "of")}, iterations=iterations)

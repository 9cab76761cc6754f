"""What happens in a sweep, for those who listen: the console and the trackers."""

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
class TrialSeen:
    """What a trial is, as Tune has it in its config."""

    id: str
    phase: str  # baseline, search, confirm or equal-cost
    values: Mapping[str, Any]  # config key -> value
    seed: int = 0
    of: str = ""  # the id of the trial that a confirmation run repeats
    iterations: int | None = None  # where it trains another number than the sweep's other trials

    @property
    def is_baseline(self) -> bool:
        """Whether it trains the student alone."""
        return trains_alone(self.id, self.phase, self.of)


class SweepListener(Protocol):
    """Is notified of a sweep's trials as they come and go.

    :class:`rdistill.training.hooks.RunListener` is its counterpart within one run.
    """

    def trial_started(self, trial: TrialSeen) -> None:
        """A trial begins, or goes on: the same trial may start more than once."""

    def trial_validated(self, trial: TrialSeen, result: TrialReport) -> None:
        """A trial was validated: ``iter``, ``mIoU`` and ``best_mIoU`` in percent."""

    def trial_lost(self, trial: TrialSeen, reason: str) -> None:
        """A trial's process has died, or its machine failed it: it will be started again from its last checkpoint."""

    def trial_ended(self, trial: TrialSeen, result: TrialReport, failed: bool) -> None:
        """A trial is over; ``result`` is its last, empty where it has none."""


_listeners: tuple[SweepListener, ...] = ()  # those of the sweep at work; Tune runs in this process


@contextmanager
def listening(*listeners: SweepListener) -> Iterator[None]:
    """Passes what :class:`TuneEvents` receives to these listeners, as long as the context lasts."""
    global _listeners
    _listeners = listeners
    try:
        yield
    finally:
        _listeners = ()


class TuneEvents(Callback):
    """Passes Tune's events on. Tune saves and restores it, so it holds nothing itself."""

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **_: Any) -> None:
        for listener in _listeners:
            listener.trial_started(_seen(trial))

    def on_trial_result(self, iteration: int, trials: list[Any], trial: Any, result: TrialReport, **_: Any) -> None:
        for listener in _listeners:
            listener.trial_validated(_seen(trial), result)

    def on_trial_recover(self, iteration: int, trials: list[Any], trial: Any, **_: Any) -> None:
        error = last_error(trial)
        # One that failed of its own is started too, and then gives up: that is its end, and not a loss.
        if error is not None and cause_of(error, Path()) == MACHINE:
            for listener in _listeners:
                listener.trial_lost(_seen(trial), reason_of(error))

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **_: Any) -> None:
        for listener in _listeners:
            listener.trial_ended(_seen(trial), trial.last_result or TrialReport(), False)

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **_: Any) -> None:
        for listener in _listeners:
            listener.trial_ended(_seen(trial), trial.last_result or TrialReport(), True)


def _seen(trial: Any) -> TrialSeen:
    config = trial.config
    iterations = config.get("iterations")
    return TrialSeen(**{name: config[name] for name in ("id", "phase", "values", "seed", "of")}, iterations=iterations)

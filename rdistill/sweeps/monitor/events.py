"""What happens in a sweep, told to those who look on: the console and the trackers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from ray.tune import Callback

from rdistill.sweeps.trial.faults import MACHINE, cause_of, last_error
from rdistill.sweeps.trial.trial import reason_of


@dataclass(frozen=True)
class TrialSeen:
    """What a trial is, as Tune has it in its config."""

    id: str
    phase: str  # baseline, search or confirm
    values: Mapping[str, Any]  # config key -> value
    seed: int = 0
    of: str = ""  # of a confirmation run: the id of the trial that it repeats


class Onlooker(Protocol):
    """Is told of a sweep's trials as they come and go. May be told of one start more than once."""

    def started(self, trial: TrialSeen) -> None:
        """A trial begins, or goes on."""

    def scored(self, trial: TrialSeen, result: Mapping[str, Any]) -> None:
        """A trial was validated: ``iter``, ``mIoU`` and ``best_mIoU`` in percent."""

    def lost(self, trial: TrialSeen, reason: str) -> None:
        """A trial's process has died, or its machine failed it: it will be started again from its last checkpoint."""

    def ended(self, trial: TrialSeen, result: Mapping[str, Any], failed: bool) -> None:
        """A trial is over; ``result`` is its last, empty where it has none."""


_onlookers: tuple[Onlooker, ...] = ()  # of the sweep at work; Tune runs in this process


@contextmanager
def watched_by(*onlookers: Onlooker) -> Iterator[None]:
    """Tells these what :class:`TuneEvents` hears, as long as the context lasts."""
    global _onlookers
    _onlookers = onlookers
    try:
        yield
    finally:
        _onlookers = ()


class TuneEvents(Callback):
    """Passes Tune's events on. Tune saves and restores it, so it holds nothing itself."""

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **_: Any) -> None:
        for onlooker in _onlookers:
            onlooker.started(_seen(trial))

    def on_trial_result(self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **_: Any) -> None:
        for onlooker in _onlookers:
            onlooker.scored(_seen(trial), result)

    def on_trial_recover(self, iteration: int, trials: list[Any], trial: Any, **_: Any) -> None:
        error = last_error(trial)
        # One that failed of its own is started too, and then gives up: that is its end, and not a loss.
        if error is not None and cause_of(error, Path()) == MACHINE:
            for onlooker in _onlookers:
                onlooker.lost(_seen(trial), reason_of(error))

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **_: Any) -> None:
        for onlooker in _onlookers:
            onlooker.ended(_seen(trial), trial.last_result or {}, False)

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **_: Any) -> None:
        for onlooker in _onlookers:
            onlooker.ended(_seen(trial), trial.last_result or {}, True)


def _seen(trial: Any) -> TrialSeen:
    config = trial.config
    return TrialSeen(**{name: config[name] for name in ("id", "phase", "values", "seed", "of")})

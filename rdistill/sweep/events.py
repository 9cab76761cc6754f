"""What happens in a sweep, told to those who look on: the console and the trackers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

from ray.tune import Callback


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

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **_: Any) -> None:
        for onlooker in _onlookers:
            onlooker.ended(_seen(trial), trial.last_result or {}, False)

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **_: Any) -> None:
        for onlooker in _onlookers:
            onlooker.ended(_seen(trial), trial.last_result or {}, True)


def _seen(trial: Any) -> TrialSeen:
    config = trial.config
    return TrialSeen(**{name: config[name] for name in ("id", "phase", "values", "seed", "of")})

"""A sweep on the console: progress while it runs, the leaderboard at its end."""

from __future__ import annotations

import time
from collections.abc import Mapping
from datetime import timedelta
from typing import Any

from ray.tune import Callback
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from rdistill.console import CLASSES_SHOWN
from rdistill.sweep.results import TrialRecord

_shown: SweepConsole | None = None  # the one that TuneEvents tells; Tune runs in this process


class TuneEvents(Callback):
    """Passes Tune's events to the console on show. Tune saves and restores it, so it holds nothing itself."""

    def on_trial_result(self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **_: Any) -> None:
        if _shown is not None:
            _shown.scored(trial.config["id"], result)

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **_: Any) -> None:
        if _shown is not None:
            _shown.finished(trial.config["id"], trial.last_result or {})

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **_: Any) -> None:
        if _shown is not None:
            _shown.failed(trial.config["id"])


class SweepConsole:
    """Shows how many trials are done, how they score, and for how long it will go on.

    Args:
        console: where to; updates in place on a terminal.
        trials: how many there will be, the baseline included.
        iterations: of each.
    """

    def __init__(self, console: Console, trials: int, iterations: int) -> None:
        self.console, self.trials, self.iterations = console, trials, iterations
        self.done = 0
        self.best: tuple[float, str] | None = None
        self._iterations: dict[str, int] = {}
        self._since = time.monotonic()
        self._bar: Progress | None = None

    def __enter__(self) -> SweepConsole:
        global _shown
        _shown = self
        if self.console.is_terminal:
            columns = [TextColumn("trials"), BarColumn(), TextColumn("{task.fields[state]}"), TimeElapsedColumn()]
            self._bar = Progress(*columns, console=self.console, transient=True)
            self._task = self._bar.add_task("", total=self.trials * self.iterations, state="starting")
            self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        global _shown
        _shown = None
        if self._bar is not None:
            self._bar.stop()

    def scored(self, trial_id: str, result: Mapping[str, Any]) -> None:
        self._iterations[trial_id] = result.get("iter", 0)
        score = result.get("best_mIoU")
        if score is not None and (self.best is None or score > self.best[0]):
            self.best = (score, trial_id)
        self._update()

    def finished(self, trial_id: str, result: Mapping[str, Any]) -> None:
        reached = result.get("iter", 0)
        stopped = "" if reached >= self.iterations else f"  stopped at {reached}"
        self._ended(trial_id, f"mIoU {result.get('best_mIoU', float('nan')):.2f}{stopped}")

    def failed(self, trial_id: str) -> None:
        self._ended(trial_id, "failed")

    def _ended(self, trial_id: str, what: str) -> None:
        self.done += 1
        self._iterations[trial_id] = self.iterations
        self.console.print(f"{trial_id:<9} {what}  ({self.done}/{self.trials}, eta {self._eta()})")
        self._update()

    def _eta(self) -> timedelta | str:
        share = sum(self._iterations.values()) / (self.trials * self.iterations)
        elapsed = time.monotonic() - self._since
        return timedelta(seconds=round(elapsed / share - elapsed)) if share else "unknown"

    def _update(self) -> None:
        if self._bar is not None:
            best = f"best {self.best[1]} mIoU {self.best[0]:.2f}" if self.best else "no score yet"
            state = f"{self.done}/{self.trials} done, {best}, eta {self._eta()}"
            self._bar.update(self._task, completed=sum(self._iterations.values()), state=state)


def print_leaderboard(console: Console, order: list[TrialRecord], gains: Mapping[str, float | None]) -> None:
    """Prints all trials, best first, each with its difference to the baseline."""
    keys = sorted({key for record in order for key in record.values})
    classes = list((order[0].best.get("IoU") or {}) if order else {})
    table = Table(title="Leaderboard (best validation of each trial, one seed)", title_justify="left", box=SIMPLE_HEAD)
    table.add_column("trial")
    for key in keys:
        # The last part below the rest: a loss's name over its parameter.
        table.add_column(_short(key, keys).replace(".", "\n"), justify="right", overflow="fold")
    table.add_column("mIoU", justify="right")
    table.add_column("gain", justify="right")
    shown = classes[1:] if len(classes) <= CLASSES_SHOWN else []
    for name in shown:
        table.add_column(name, justify="right")
    table.add_column("note")
    for record in order:
        best, gain = record.best, gains.get(record.id)
        note = record.reason or ("1 class" if record.one_class_only else "")
        table.add_row(
            record.id,
            *(_text(record.effective.get(key, record.values.get(key))) for key in keys),
            _text(best.get("mIoU"), ".2f"),
            "" if gain is None else f"{gain:+.2f}",
            *(_text((best.get("IoU") or {}).get(name), ".2f") for name in shown),
            note if record.status == "finished" else f"{record.status} {note}".strip(),
        )
    console.print(table)
    if any(record.one_class_only for record in order):
        console.print("1 class   never left the state in which everything is one class: such a trial says little")


def _short(key: str, keys: list[str]) -> str:
    """The shortest end of a dotted key that no other key shares."""
    parts = key.split(".")
    for length in range(1, len(parts) + 1):
        end = ".".join(parts[-length:])
        if sum(other == end or other.endswith(f".{end}") for other in keys) == 1:
            return end
    return key


def _text(value: Any, form: str = ".4g") -> str:
    if value is None:
        return ""
    if isinstance(value, Mapping):  # a whole loss: its type, then what else it says
        rest = (f"{key}={_text(item)}" for key, item in value.items() if key != "type")
        return " ".join([str(value.get("type", "")), *rest])
    return format(value, form) if isinstance(value, float) else str(list(value) if isinstance(value, tuple) else value)

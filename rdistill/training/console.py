"""Shows a run on the console: a progress bar on a terminal, a few plain lines elsewhere."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping
from datetime import timedelta
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Column

from rdistill.core.errors import printable
from rdistill.schemas.run import RunFacts, Scores

LINES_PER_RUN = 10  # progress lines of a run whose output is not a terminal
SILENCE_S = 60.0  # a further line is printed after this number of seconds without one
CLASSES_SHOWN = 4  # a validation line shows mIoU alone where there are more classes


class OneLineConsole(Console):
    """A console that prints each text on one line, even if a name in it contains line breaks."""

    def print(self, *objects: Any, **options: Any) -> None:
        super().print(*(printable(text) if isinstance(text, str) else text for text in objects), **options)


def updates_in_place(console: Console) -> bool:
    """Whether a console can overwrite its output: a terminal that knows control codes, or a notebook."""
    return (console.is_terminal and not console.is_dumb_terminal) or console.is_jupyter


def as_clock(seconds: float) -> str:
    """Seconds as text, such as ``0:01:05``."""
    return str(timedelta(seconds=round(seconds)))


class RunConsole:
    """A :class:`rdistill.training.hooks.RunListener` that shows one run.

    Args:
        console: the console to print on; the progress bar needs a terminal.
    """

    def __init__(self, console: Console) -> None:
        self.console = console
        self._bar: Progress | None = None
        self._best = float("-inf")

    def __enter__(self) -> RunConsole:
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.stop()

    def training_started(self, *, first_iteration: int, last_iteration: int, facts: RunFacts) -> None:
        self._first, self._last, self._since = first_iteration, last_iteration, time.monotonic()
        self._line_every = max(1, (last_iteration - first_iteration) // LINES_PER_RUN)
        self._next_line, self._overdue = first_iteration + self._line_every, time.monotonic() + SILENCE_S
        self._best = max(self._best, facts.get("best_mIoU") or float("-inf"))
        if self._bar is not None:  # the training was started again, after a worker was lost
            self._bar.stop()
        if facts.get("images"):
            self.console.print(f"data      {facts['images']}", highlight=False, soft_wrap=True)
        if facts.get("teacher_mIoU") is not None:
            self.console.print(f"teacher   mIoU {facts['teacher_mIoU']:.2f}")
        for line in facts.get("teacher_lines", ()):
            self.console.print(f"teacher   {line}", markup=False, highlight=False, soft_wrap=True)
        if facts.get("student_start"):
            self.console.print(f"student   {facts['student_start']}", highlight=False, soft_wrap=True)
        if first_iteration:
            self.console.print(f"resumed   at iteration {first_iteration}")
        if updates_in_place(self.console):
            columns = [
                TextColumn("training "),
                BarColumn(bar_width=20),
                MofNCompleteColumn(),
                TextColumn("eta"),
                TimeRemainingColumn(),
                # This column takes the rest of the line; losses that do not fit are cut off.
                TextColumn("{task.fields[losses]}", table_column=Column(ratio=1, no_wrap=True, overflow="ellipsis")),
            ]
            self._bar = Progress(*columns, console=self.console, transient=True, expand=True)
            self._task = self._bar.add_task("", total=last_iteration, completed=first_iteration, losses="")
            self._bar.start()

    def stepped(self, iteration: int, values: Mapping[str, float]) -> None:
        losses = "  ".join(f"{name} {value:.4g}" for name, value in _short_names(values).items())
        if self._bar is not None:
            self._bar.update(self._task, completed=iteration, losses=losses)
        elif iteration >= self._next_line or time.monotonic() >= self._overdue:
            self._next_line, self._overdue = iteration + self._line_every, time.monotonic() + SILENCE_S
            rate = (time.monotonic() - self._since) / max(1, iteration - self._first)
            eta = as_clock(rate * (self._last - iteration))
            self.console.print(f"iter {iteration}/{self._last}  eta {eta}  {losses}", highlight=False, soft_wrap=True)

    def validated(self, iteration: int, metrics: Scores) -> None:
        mark = "  best so far" if metrics.get("mIoU", 0.0) > self._best else ""
        self._best = max(self._best, metrics.get("mIoU", 0.0))
        self.console.print(f"validated iter {iteration}  {scores(metrics)}{mark}", highlight=False, soft_wrap=True)

    def warned(self, message: str) -> None:
        self.console.print(f"warning   {message}", markup=False, highlight=False, soft_wrap=True)

    def noted(self, text: str) -> None:
        self.console.print(f"note      {text}", highlight=False, markup=False, soft_wrap=True)


def scores(metrics: Scores) -> str:
    """Scores as text: ``mIoU 84.10  (background 98.91, optic disc 69.29)``; classes only if there are few."""
    text = f"mIoU {metrics.get('mIoU', float('nan')):.2f}"
    classes = metrics.get("IoU") or {}
    if len(classes) <= CLASSES_SHOWN:
        named = ", ".join(
            f"{name} {'none' if value is None else format(value, '.2f')}" for name, value in classes.items()
        )
        text += f"  ({named})" if named else ""
    return text


def _short_names(values: Mapping[str, float]) -> dict[str, float]:
    """The losses by short names for the console: ``decode.loss_ce`` -> ``ce``, ``distill.loss_logits`` -> ``logits``.

    If several heads have a loss of that name, the name of the head stays in it: ``decode.ce``, ``aux_0.ce``.
    """
    losses = {key: _without_loss(key) for key in values if "loss" in key and "/" not in key}  # raw/NAME is no loss
    short = {key: (name.partition(".")[2] or name) if key != "loss" else key for key, name in losses.items()}
    count = Counter(short.values())
    return {short[key] if count[short[key]] == 1 else losses[key]: values[key] for key in losses}


def _without_loss(key: str) -> str:
    """``decode.loss_ce.s0`` -> ``decode.ce.s0``."""
    return ".".join(part.removeprefix("loss_") for part in key.split("."))

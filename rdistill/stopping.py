"""Ctrl-C and SIGTERM: the first asks a run to stop in good order, the second ends it at once."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any


@dataclass
class StopRequest:
    """Whether somebody has asked a run to stop.

    Attributes:
        signum: the signal that asked; None: nobody has.
        heeded: whether a run is where it can stop in good order; elsewhere a signal ends it at once.
    """

    signum: int | None = None
    heeded: bool = False


@dataclass
class Stopped(Exception):
    """A run was asked to stop, and did after a whole iteration, with its checkpoint written."""

    signum: int
    iteration: int
    last_iteration: int
    best: dict[str, Any] = field(default_factory=dict)  # the best validation: iter, metrics; empty before the first

    def __post_init__(self) -> None:
        super().__init__(self.signum, self.iteration, self.last_iteration, self.best)  # for pickle

    def __str__(self) -> str:
        scored = f"mIoU {self.best['metrics']['mIoU']:.2f} at iteration {self.best['iter']}" if self.best else ""
        return f"stopped at iteration {self.iteration} of {self.last_iteration}, which last.pth holds; " + (
            f"best so far, in student.pth: {scored}" if scored else "not validated yet"
        )


@contextmanager
def on_signals() -> Iterator[StopRequest]:
    """Turns SIGINT and SIGTERM into a request for as long as the context lasts. In the main thread only."""
    request = StopRequest()

    def ask(signum: int, frame: Any) -> None:
        if request.signum is None and request.heeded:
            request.signum = signum
        elif signum == signal.SIGINT:
            raise KeyboardInterrupt
        else:
            raise SystemExit(128 + signum)

    before = {signum: signal.signal(signum, ask) for signum in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield request
    finally:
        for signum, handler in before.items():
            signal.signal(signum, handler)

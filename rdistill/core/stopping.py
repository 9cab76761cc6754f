"""Ctrl-C and SIGTERM: the first signal lets a run stop in good order, the second ends it at once."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from rdistill.schemas.run import Validation


@dataclass
class StopRequest:
    """Whether a run is to stop.

    Attributes:
        signum: the signal that came; None before any has.
        heeded: whether a run is where it can stop in good order; elsewhere a signal ends it at once.
    """

    signum: int | None = None
    heeded: bool = False


@dataclass
class Stopped(Exception):
    """A run stopped at a signal: after a whole iteration, with its checkpoint written."""

    signum: int
    iteration: int
    last_iteration: int
    best: Validation = field(default_factory=lambda: Validation())  # empty before the first

    def __post_init__(self) -> None:
        super().__init__(self.signum, self.iteration, self.last_iteration, self.best)  # pickle makes it from these

    def __str__(self) -> str:
        scored = f"mIoU {self.best['metrics']['mIoU']:.2f} at iteration {self.best['iter']}" if self.best else ""
        return f"stopped at iteration {self.iteration} of {self.last_iteration}, which last.pth holds; " + (
            f"best so far, in student.pth: {scored}" if scored else "not validated yet"
        )


@contextmanager
def terminated_like_ctrl_c() -> Iterator[StopRequest]:
    """Lets SIGTERM do what Ctrl-C does for as long as the context lasts, and yields which of them came.

    Ray Tune stops in good order at Ctrl-C alone; at SIGTERM Ray would end the process from within its own code. In the
    main thread only.
    """
    request = StopRequest()

    def pass_on(signum: int, frame: Any) -> None:
        request.signum = request.signum or signum
        at_ctrl_c = signal.getsignal(signal.SIGINT)
        if not callable(at_ctrl_c):
            raise KeyboardInterrupt
        at_ctrl_c(signal.SIGINT, frame)

    before = signal.signal(signal.SIGTERM, pass_on)
    try:
        yield request
    finally:
        signal.signal(signal.SIGTERM, before)


@contextmanager
def sigterm_kept() -> Iterator[None]:
    """Puts the handler of SIGTERM back that was there before: `ray.init` replaces it by its own."""
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        if threading.current_thread() is threading.main_thread() and callable(before):
            signal.signal(signal.SIGTERM, before)


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

"""Handles Ctrl-C and SIGTERM: at the first signal a run stops gracefully, the second signal ends it at once."""

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
        signum: the signal that was received; None if there was none.
        can_stop_gracefully: whether the run checks ``signum`` now and stops by itself; otherwise a signal ends the
            process at once.
    """

    signum: int | None = None
    can_stop_gracefully: bool = False


@dataclass
class Stopped(Exception):
    """A run stopped at a signal, after a complete iteration, with its checkpoint written."""

    signum: int
    iteration: int
    last_iteration: int
    best: Validation = field(default_factory=lambda: Validation())  # empty before the first validation

    def __post_init__(self) -> None:
        super().__init__(self.signum, self.iteration, self.last_iteration, self.best)  # pickle rebuilds it from these

    def __str__(self) -> str:
        scored = f"mIoU {self.best['metrics']['mIoU']:.2f} at iteration {self.best['iter']}" if self.best else ""
        return f"stopped at iteration {self.iteration} of {self.last_iteration}, which last.pth holds; " + (
            f"best so far, in student.pth: {scored}" if scored else "not validated yet"
        )


@contextmanager
def terminated_like_ctrl_c() -> Iterator[StopRequest]:
    """Within the context, SIGTERM does what Ctrl-C does. Yields the request, which notes a SIGTERM in ``signum``.

    Ray Tune stops gracefully at Ctrl-C only; at SIGTERM, Ray's own handler would end the process. For the main thread
    only.
    """
    request = StopRequest()

    def call_ctrl_c_handler(signum: int, frame: Any) -> None:
        request.signum = request.signum or signum
        handler = signal.getsignal(signal.SIGINT)
        if not callable(handler):
            raise KeyboardInterrupt
        handler(signal.SIGINT, frame)

    before = signal.signal(signal.SIGTERM, call_ctrl_c_handler)
    try:
        yield request
    finally:
        signal.signal(signal.SIGTERM, before)


@contextmanager
def sigterm_kept() -> Iterator[None]:
    """Restores the handler of SIGTERM at the end of the context: `ray.init` replaces it by its own."""
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        if threading.current_thread() is threading.main_thread() and callable(before):
            signal.signal(signal.SIGTERM, before)


@contextmanager
def on_signals() -> Iterator[StopRequest]:
    """Within the context, SIGINT and SIGTERM set the yielded request. For the main thread only."""
    request = StopRequest()

    def set_request(signum: int, frame: Any) -> None:
        if request.signum is None and request.can_stop_gracefully:
            request.signum = signum
        elif signum == signal.SIGINT:
            raise KeyboardInterrupt
        else:
            raise SystemExit(128 + signum)

    before = {signum: signal.signal(signum, set_request) for signum in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield request
    finally:
        for signum, handler in before.items():
            signal.signal(signum, handler)

"""The first signal is a request where a run can stop in good order, and ends the process elsewhere."""

from __future__ import annotations

import os
import pickle
import signal

import pytest

from rdistill.core.stopping import Stopped, on_signals, sigterm_kept, terminated_like_ctrl_c


def send(signum: int) -> None:
    os.kill(os.getpid(), signum)


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_a_request_is_kept_where_it_is_heeded(signum: int) -> None:
    before = [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)]
    with on_signals() as request:
        request.can_stop_gracefully = True
        send(signum)
        assert request.signum == signum
        with pytest.raises((KeyboardInterrupt, SystemExit)):  # the second ends it at once
            send(signum)
    assert [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)] == before


def test_elsewhere_it_ends_at_once_with_the_shells_status() -> None:
    with on_signals() as request:
        with pytest.raises(KeyboardInterrupt):
            send(signal.SIGINT)
        with pytest.raises(SystemExit) as caught:
            send(signal.SIGTERM)
        assert caught.value.code == 128 + signal.SIGTERM and request.signum is None


def test_sigterm_does_what_ctrl_c_does() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with terminated_like_ctrl_c() as request:
        with pytest.raises(KeyboardInterrupt):
            send(signal.SIGTERM)
        assert request.signum == signal.SIGTERM
    assert signal.getsignal(signal.SIGTERM) is before


def test_the_handler_before_is_put_back() -> None:
    def own(signum: int, frame: object) -> None: ...

    before = signal.signal(signal.SIGTERM, own)
    try:
        with sigterm_kept():
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
        assert signal.getsignal(signal.SIGTERM) is own
    finally:
        signal.signal(signal.SIGTERM, before)


def test_what_a_stopped_run_says_also_from_another_process() -> None:
    best = {"iter": 40, "metrics": {"mIoU": 61.234}}
    stopped = pickle.loads(pickle.dumps(Stopped(signal.SIGTERM, 50, 100, best)))
    assert str(stopped) == (
        "stopped at iteration 50 of 100, which last.pth holds; best so far, in student.pth: mIoU 61.23 at iteration 40"
    )
    assert str(Stopped(2, 1, 9)).endswith("not validated yet")

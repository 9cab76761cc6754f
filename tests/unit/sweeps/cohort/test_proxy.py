"""A trial of Tune's that follows its student in a cohort, with actors that are plain objects here."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from ray.exceptions import ActorDiedError

from rdistill.sweeps.cohort import proxy
from rdistill.sweeps.cohort.proxy import FAILED, FINISHED, REPORTED, TAKEN_OVER, Events, events_until_end, follow

TRIAL: Any = {"id": "t1", "phase": "search", "of": "", "seed": 0, "values": {}}
Step = tuple[str, Any] | Exception


class Method:
    """A method of an actor: the call returns what Ray would return a reference to."""

    def __init__(self, function: Any) -> None:
        self.remote = function

    def options(self, **_: Any) -> Method:
        return self


class Actors:
    """A cohort and an assigner in one: each call of ``run`` plays the next of some lives, and may end in an error."""

    def __init__(self, *lives: list[Step], deaths_of_ready: int = 0) -> None:
        self.lives, self.calls, self.deaths_of_ready = list(lives), list[tuple[str, Any]](), deaths_of_ready
        self.run = Method(lambda trial: iter(self.lives.pop(0)))
        self.stop, self.release = Method(self._called("stop")), Method(self._called("release"))
        self.assign = Method(lambda trial_id, key: self.calls.append(("assign", trial_id)) or 0)
        self.ready = Method(self._ready)

    def _called(self, name: str) -> Any:
        return lambda *arguments: self.calls.append((name, *arguments))

    def _ready(self) -> Step | None:
        self.calls.append(("ready", None))
        self.deaths_of_ready -= 1
        return ActorDiedError() if self.deaths_of_ready >= 0 else None


@pytest.fixture
def reported(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What Tune is given; a reference is the thing itself, and an error is raised where it is looked up."""
    reports: list[Any] = []

    def get(reference: Any) -> Any:
        if isinstance(reference, Exception):
            raise reference
        return reference

    monkeypatch.setattr(proxy.ray, "get", get)
    monkeypatch.setattr(proxy.tune, "report", reports.append)
    monkeypatch.setattr(proxy.time, "sleep", lambda seconds: None)
    return reports


OVER: Step = (FINISHED, None)


def test_every_report_of_a_student_goes_to_tune(reported: list[Any]) -> None:
    actors = Actors([(REPORTED, {"iter": 1}), (REPORTED, {"iter": 2}), OVER])
    follow(TRIAL, [actors], actors)
    assert reported == [{"iter": 1}, {"iter": 2}]
    assert actors.calls == [("assign", "t1"), ("stop", "t1"), ("release", "t1")]  # its slot is free again


def test_a_cohort_that_dies_is_awaited_and_followed_again(reported: list[Any]) -> None:
    actors = Actors([(REPORTED, {"iter": 1}), ActorDiedError()], [(REPORTED, {"iter": 2}), OVER], deaths_of_ready=2)
    follow(TRIAL, [actors], actors)
    assert reported == [{"iter": 1}, {"iter": 2}]
    assert [name for name, _ in actors.calls] == ["assign", "ready", "ready", "ready", "stop", "release"]


def test_a_cohort_that_dies_each_time_fails_the_trial(reported: list[Any]) -> None:
    actors = Actors(*([ActorDiedError()] for _ in range(proxy.ATTEMPTS)))
    with pytest.raises(ActorDiedError):
        follow(TRIAL, [actors], actors)
    assert not actors.lives and actors.calls[-2:] == [("stop", "t1"), ("release", "t1")]


def test_a_cohort_that_does_not_come_back_in_time(reported: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    seconds: Iterator[float] = iter([0.0, proxy.RESTART_TIMEOUT_S, proxy.RESTART_TIMEOUT_S + 1.0])
    monkeypatch.setattr(proxy.time, "monotonic", lambda: next(seconds))
    actors = Actors([ActorDiedError()], deaths_of_ready=9)
    with pytest.raises(ActorDiedError):
        follow(TRIAL, [actors], actors)
    assert [name for name, _ in actors.calls] == ["assign", "ready", "ready", "stop", "release"]


def test_a_student_that_fails_says_why(reported: list[Any]) -> None:
    actors = Actors([(FAILED, "DivergedError: iteration 2")])
    with pytest.raises(RuntimeError, match=r"^DivergedError: iteration 2$"):
        follow(TRIAL, [actors], actors)
    assert reported == [] and actors.calls[-1] == ("release", "t1")


def test_the_last_event_says_how_it_ended() -> None:
    for last in (OVER, (FAILED, "why"), TAKEN_OVER):
        events = Events()
        for event in ((REPORTED, 1), (REPORTED, 2), last, (REPORTED, "of another student")):
            events.put(event)
        assert list(events_until_end(events)) == [(REPORTED, 1), (REPORTED, 2), last]

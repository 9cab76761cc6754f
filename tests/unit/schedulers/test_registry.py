"""A scheduler is one declaration: what it takes by name, what is refused, and whose fault a failure is."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from ray.tune import schedulers

from rdistill.core.errors import UserError
from rdistill.registration.parameters import Number, Whole
from rdistill.schedulers import SCHEDULERS, register


@pytest.fixture(autouse=True)
def as_before(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """What a test registers is gone after it."""
    monkeypatch.setattr(SCHEDULERS, "_entries", dict(SCHEDULERS._entries))
    monkeypatch.setattr(SCHEDULERS, "_sources", dict(SCHEDULERS._sources))
    yield


def build(name: str, **params: Any) -> schedulers.TrialScheduler:
    return SCHEDULERS[name].build(params, iterations=100, val_interval=20)


def test_a_scheduler_gets_what_it_takes_by_name() -> None:
    @register("Median", params={"least": Whole(at_least=1)})
    def median(*, val_interval: int, least: int = 3, share: float = 0.5) -> schedulers.TrialScheduler:
        got.append((val_interval, least, share))
        return schedulers.MedianStoppingRule(time_attr="iter", grace_period=val_interval)

    got: list[Any] = []
    assert SCHEDULERS["Median"].params == {"least": Whole(3, at_least=1), "share": Number(0.5)}
    assert isinstance(build("Median", least=2), schedulers.MedianStoppingRule)
    assert got == [(20, 2, 0.5)] and SCHEDULERS["Median"].stops


def test_what_fails_or_cannot_be_run_is_said_in_a_line() -> None:
    @register("Failing")
    def failing() -> Any:
        raise ValueError("no\nway")

    @register("Wrong")
    def wrong() -> Any:
        return None

    @register("Pausing")
    def pausing() -> Any:
        return schedulers.HyperBandScheduler(time_attr="iter", max_t=9)

    for name, line in (
        ("Failing", r"^scheduler 'Failing': ValueError: no way \(test_registry.py, line \d+\)$"),
        ("Wrong", r"^scheduler 'Wrong': must return a trial scheduler of Ray Tune, got builtins.NoneType$"),
        ("Pausing", r"^scheduler 'Pausing': HyperBandScheduler pauses or changes trials, and a trial of a sweep can"),
    ):
        with pytest.raises(UserError, match=line):
            build(name)


def test_declarations_that_are_refused() -> None:
    def typed(*, type: str = "a") -> Any: ...
    def mine(*, share: float = 0.5) -> Any: ...

    with pytest.raises(UserError, match=r"^scheduler 'Mine' of .*: type is a key of the sweep file already; call the"):
        register("Mine")(typed)
    with pytest.raises(UserError, match=r"share has the default 1.0 in the declaration and 0.5 in the function"):
        register("Mine", params={"share": Number(1.0)})(mine)
    with pytest.raises(
        UserError, match=r"^scheduler 'asha' of .* is rdistill's own already; register it under another"
    ):
        register("asha")(mine)

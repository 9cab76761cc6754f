"""A searcher is one declaration: what it takes by name, what is refused, and whose fault a failure is."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import optuna
import pytest
from optuna.distributions import FloatDistribution

from rdistill.core.errors import UserError
from rdistill.registration.parameters import Choice, Number, Switch
from rdistill.searchers import SEARCHERS, register
from rdistill.searchers.registry import TAKEN, SearchSize
from rdistill.sweeps.study.spec import BaselineSpec, Search

SPACE = {"a": FloatDistribution(0.0, 1.0)}


@pytest.fixture(autouse=True)
def as_before(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """What a test registers is gone after it."""
    monkeypatch.setattr(SEARCHERS, "_entries", dict(SEARCHERS._entries))
    monkeypatch.setattr(SEARCHERS, "_sources", dict(SEARCHERS._sources))
    yield


def test_a_searcher_gets_what_it_takes_by_name() -> None:
    @register("Mine", params={"kind": Choice(values=("sobol", "halton"))})
    def mine(
        space: Any, *, seed: int, at_once: int, num_trials: int, kind: str = "sobol", scramble: bool = True
    ) -> Any:
        got.append((space, seed, at_once, num_trials, kind, scramble))
        return optuna.samplers.RandomSampler(seed=seed)

    got: list[Any] = []
    info = SEARCHERS["Mine"]
    assert (info.grid, info.learns) == (False, True)
    assert info.params == {"kind": Choice("sobol", ("sobol", "halton")), "scramble": Switch(True)}
    info.build(SPACE, 3, {"kind": "halton"}, SearchSize(8, 2, 4))
    assert got == [(SPACE, 3, 4, 8, "halton", True)]


def test_what_fails_in_a_user_s_function_names_it_and_the_line() -> None:
    @register("Failing")
    def failing(space: Any, *, seed: int) -> Any:
        return {}["no such key"]

    @register("Wrong")
    def wrong(space: Any, *, seed: int) -> Any:
        return "sobol"

    with pytest.raises(
        UserError, match=r"^searcher 'Failing': KeyError: 'no such key' \(test_registry.py, line \d+\)$"
    ):
        SEARCHERS["Failing"].build(SPACE, 0, {}, SearchSize(1))
    with pytest.raises(UserError, match=r"^searcher 'Wrong': must return a sampler of Optuna, got builtins.str$"):
        SEARCHERS["Wrong"].build(SPACE, 0, {}, SearchSize(1))


def test_declarations_that_are_refused() -> None:
    def unseeded(space: Any) -> Any: ...
    def without_space(*, seed: int) -> Any: ...
    def whose(space: Any, *, seed: int, cost: float = 1.0) -> Any: ...
    def bounded(space: Any, *, seed: int) -> Any: ...

    seeded = r"must take the space and, by name, a seed, as in `def searcher\(space, \*, seed\)`$"
    for function in (unseeded, without_space):
        with pytest.raises(UserError, match=seeded):
            register("Mine")(function)
    with pytest.raises(UserError, match=r"cost is a key of the sweep file already; call the parameter otherwise$"):
        register("Mine")(whose)
    with pytest.raises(UserError, match=r"^searcher 'Mine' of .*: alpha is declared, but is no keyword-only parameter"):
        register("Mine", params={"alpha": Number()})(bounded)
    with pytest.raises(UserError, match=r"^searcher 'grid' of .* is rdistill's own already; register it under another"):
        register("grid")(bounded)


def test_no_parameter_may_be_called_like_a_key_of_the_sweep_file() -> None:
    assert {*Search.model_fields, *BaselineSpec.model_fields} <= set(TAKEN)

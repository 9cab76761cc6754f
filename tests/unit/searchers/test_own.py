"""rdistill's own searchers: seeded, and declared as what they are."""

from __future__ import annotations

import warnings
from typing import Any

import optuna
import pytest
from conftest import modules_after
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

from rdistill.searchers import SEARCHERS
from rdistill.searchers.registry import SearchSize

SPACE: dict[str, BaseDistribution] = {"a": IntDistribution(1, 3), "b": CategoricalDistribution(["x", "y"])}


def suggested(name: str, space: dict[str, BaseDistribution], count: int, seed: int = 0) -> list[dict[str, Any]]:
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study = optuna.create_study(sampler=SEARCHERS[name].build(space, seed, {}, SearchSize(count)))
    points = []
    for number in range(count):
        trial = study.ask(space)
        points.append(trial.params)
        if number < count - 1:  # a grid stops at its last point the loop that Tune runs in place of Optuna's
            study.tell(trial, float(number))
    return points


def test_what_they_are() -> None:
    own = {name: info for name, info in SEARCHERS.registered().items() if SEARCHERS.is_own(name)}
    assert {name: (info.grid, info.learns) for name, info in own.items()} == {
        "auto": (False, True), "optuna": (False, True), "random": (False, False), "grid": (True, False),
    }  # fmt: skip


@pytest.mark.parametrize("name", ["optuna", "random", "grid"])
def test_the_seed_decides(name: str) -> None:
    space = SPACE if name == "grid" else {"c": FloatDistribution(0.0, 1.0)}
    assert suggested(name, space, 4) == suggested(name, space, 4) != suggested(name, space, 4, seed=1)


def test_a_grid_visits_every_point_once() -> None:
    points = {(point["a"], point["b"]) for point in suggested("grid", SPACE, 6)}
    assert points == {(a, b) for a in (1, 2, 3) for b in ("x", "y")}


@pytest.mark.parametrize("name", ["auto", "optuna", "random", "grid"])
def test_nothing_of_optuna_s_own_warnings_reaches_the_console(name: str) -> None:
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        suggested(name, SPACE, 6)
    assert [str(each.message) for each in seen] == []


def test_declarations_are_read_without_optuna() -> None:
    assert not modules_after("import rdistill.searchers, rdistill.schedulers") & {"optuna", "ray", "torch", "mmengine"}

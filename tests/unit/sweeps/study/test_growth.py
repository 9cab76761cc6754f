"""What a sweep may be given more of when it is resumed, and what makes it another study."""

from __future__ import annotations

from typing import Any

import pytest

from rdistill.sweeps.study.growth import accept_growth
from rdistill.sweeps.study.spec import SweepSpec

CONTENT: dict[str, Any] = {
    "config": "a.py",
    "space": {
        "w": {"type": "loguniform", "low": 1.0, "high": 100.0},
        "n": {"type": "int", "low": 2, "high": 8, "step": 2},
        "c": {"type": "choice", "values": [1, 2]},
        "x.pair": {"type": "pairs", "pairs": [[0, 0]]},
    },
    "search": {"type": "random", "num_trials": 8, "start": ["defaults"]},
    "baseline": {"search": {"lr": {"type": "uniform", "low": 0.1, "high": 0.2}}, "num_trials": 3},
    "confirm": {"seeds": [1, 2]},
}


def sweep(section: str, **more: Any) -> dict[str, Any]:
    content = {**CONTENT, section: {**CONTENT[section], **more}}
    return SweepSpec.model_validate(content).model_dump(mode="json")


BEGUN = sweep("search")


@pytest.mark.parametrize(
    ("wanted", "searches"),
    [
        (BEGUN, False),
        (sweep("search", num_trials=9), True),
        (sweep("search", start=["defaults", {"w": 3.0}]), True),
        (sweep("space", w={"type": "loguniform", "low": 0.5, "high": 100.0}), True),
        (sweep("space", n={"type": "int", "low": 0, "high": 12, "step": 2}), True),
        (sweep("space", c={"type": "choice", "values": [3, 2, 1]}), True),
        (sweep("space", **{"x.pair": {"type": "pairs", "pairs": [[1, 1], [0, 0]]}}), True),
        (sweep("space", **{"x.pair": {"type": "pairs", "pairs": "all"}}), True),
        (sweep("baseline", num_trials=4), True),
        (sweep("baseline", search={"lr": {"type": "uniform", "low": 0.1, "high": 0.4}}), True),
        (sweep("confirm", seeds=[3, 2, 1]), False),
    ],
)
def test_growth(wanted: dict[str, Any], searches: bool) -> None:
    assert accept_growth(BEGUN, wanted) == (wanted, searches)


@pytest.mark.parametrize(
    "wanted",
    [
        sweep("search", num_trials=7),
        sweep("search", seed=1),
        sweep("search", start=[{"w": 3.0}]),
        sweep("space", w={"type": "loguniform", "low": 2.0, "high": 200.0}),
        sweep("space", w={"type": "uniform", "low": 1.0, "high": 100.0}),
        sweep("space", n={"type": "int", "low": 1, "high": 9, "step": 2}),
        sweep("space", n={"type": "int", "low": 2, "high": 8, "step": 1}),
        sweep("space", c={"type": "choice", "values": [1, 3]}),
        sweep("space", **{"x.pair": {"type": "pairs", "pairs": [[1, 1]]}}),
        sweep("confirm", seeds=[1, 3]),
        sweep("confirm", seeds="auto"),
        sweep("confirm", top=4),
    ],
)
def test_anything_else_is_another_study(wanted: dict[str, Any]) -> None:
    before, searches = accept_growth(BEGUN, wanted)
    assert before == BEGUN and not searches


def automatic(**more: Any) -> dict[str, Any]:
    return SweepSpec.model_validate({**CONTENT, "confirm": {"seeds": "auto", **more}}).model_dump(mode="json")


@pytest.mark.parametrize(
    ("before", "now"),
    [({}, {"max": 20}), ({"max": 8}, {}), ({"max": 8}, {"max": 9, "hours": 3.0}), ({"hours": 2.0}, {})],
)
def test_a_confirmation_that_adds_seeds_may_add_more(before: dict[str, Any], now: dict[str, Any]) -> None:
    assert accept_growth(automatic(**before), automatic(**now)) == (automatic(**now), False)


@pytest.mark.parametrize(
    ("before", "now"), [({}, {"max": 8}), ({"max": 8}, {"max": 7}), ({"min": 4}, {"min": 5}), ({}, {"margin": 0.5})]
)
def test_its_other_limits_stay(before: dict[str, Any], now: dict[str, Any]) -> None:
    assert accept_growth(automatic(**before), automatic(**now)) == (automatic(**before), False)


def test_a_key_more_is_another_study_though_the_rest_has_grown() -> None:
    wanted = sweep("search", num_trials=9)
    wanted["space"]["more"] = {**wanted["space"]["w"]}
    before, _ = accept_growth(BEGUN, wanted)
    assert before != wanted and before["search"]["num_trials"] == 9

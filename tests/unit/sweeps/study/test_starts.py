"""Configurations to try first: written out, the config as it stands."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
from conftest import Tiny

from rdistill.config.load import LoadedConfig
from rdistill.core.errors import UserError
from rdistill.sweeps.study.space import search_space
from rdistill.sweeps.study.spec import SweepSpec
from rdistill.sweeps.study.starts import configured_start, start_points

WEIGHT, PAIR, RATE = "distill.losses.logits.weight", "distill.losses.hidden.pair", "optim_wrapper.optimizer.lr"
SPACE: dict[str, Any] = {
    WEIGHT: {"type": "loguniform", "low": 1.0, "high": 100.0},
    PAIR: {"type": "pairs", "pairs": [[0, 0], [1, 1]]},
}


@pytest.fixture(scope="module")
def base(tiny: Tiny) -> LoadedConfig:
    return LoadedConfig.of(tiny.load("distill"))


def sweep(start: list[Any], space: Mapping[str, Any] = SPACE, **more: Any) -> SweepSpec:
    search = {"type": "random", "num_trials": 9, "start": start, **more.pop("search", {})}
    return SweepSpec.model_validate({"config": "a.py", "space": space, "search": search, **more})


def points(base: LoadedConfig, spec: SweepSpec) -> list[Any]:
    assert spec.problems() == []
    return start_points(spec, base, search_space(spec.space, base))


def test_the_config_as_it_stands_and_by_hand(base: LoadedConfig) -> None:
    spec = sweep(["defaults", {WEIGHT: 7, PAIR: [0, 0]}, {WEIGHT: 8.0}])
    assert points(base, spec) == [
        {WEIGHT: 3.0, PAIR: "[1, 1]"}, {WEIGHT: 7, PAIR: "[0, 0]"}, {WEIGHT: 8.0},
    ]  # fmt: skip


def test_what_the_baselines_search_comes_to_is_known_later(base: LoadedConfig) -> None:
    rate = {RATE: {"type": "loguniform", "low": 0.001, "high": 0.1}}
    assert points(base, sweep(["baseline"], {**SPACE, **rate}, baseline={"search": rate})) == [None]


def test_where_the_config_says_nothing_the_published_weight_counts(base: LoadedConfig) -> None:
    bare = base.with_overrides({"distill.losses.hidden": {"type": "CWD", "pair": (1, 1)}})
    keys = ("weight", "tau", "pair")
    space = {f"distill.losses.hidden.{key}": {"type": "choice", "values": [1]} for key in keys}
    values = configured_start(sweep([], space), bare)
    assert values == {
        "distill.losses.hidden.weight": 50.0, "distill.losses.hidden.tau": 4.0, "distill.losses.hidden.pair": [1, 1],
    }  # fmt: skip


def test_a_loss_that_the_config_leaves_out_has_no_defaults_below_it(base: LoadedConfig) -> None:
    space = {
        "distill.losses.more": {"type": "choice", "values": [None, {"type": "AT", "pair": [0, 0]}]},
        "distill.losses.more.weight": {"type": "loguniform", "low": 1.0, "high": 9.0},
    }
    assert points(base, sweep(["defaults"], space)) == [{"distill.losses.more": "null"}]


@pytest.mark.parametrize(
    ("start", "problem"),
    [
        (
            {WEIGHT: 0.5},
            rf"start\[0\]: {WEIGHT} is 0.5, and the space has 1 to 100; widen the space, or mend it",
        ),
        ({WEIGHT: "7"}, rf"search.start\[0\]: {WEIGHT} is '7', and the space has 1 to 100"),
        ({PAIR: [2, 2]}, rf"search.start\[0\]: {PAIR} is \[2, 2\], and the space has \['\[0, 0\]', '\[1, 1\]'\]"),
    ],
)
def test_a_start_outside_the_space(base: LoadedConfig, start: Any, problem: str) -> None:
    with pytest.raises(UserError, match=problem):
        points(base, sweep([start]))


def test_defaults_outside_the_space_and_twice_the_same(base: LoadedConfig) -> None:
    narrow = {WEIGHT: {"type": "loguniform", "low": 10.0, "high": 100.0}}
    with pytest.raises(UserError, match=rf"start\[0\]: defaults: {WEIGHT} is 3.0, and the space has 10 to 100; widen"):
        points(base, sweep(["defaults"], narrow))
    with pytest.raises(UserError, match=r"search.start\[1\]: is the same configuration as search.start\[0\]; keep one"):
        points(base, sweep(["defaults", {WEIGHT: 3.0, PAIR: [1, 1]}]))


@pytest.mark.parametrize(
    ("more", "problem"),
    [
        ({"start": [{"distill.losses.logits.weigh": 1}]}, "search.start[0]: distill.losses.logits.weigh is no key of"),
        ({"start": ["baseline"]}, "search.start[0]: baseline needs a baseline.search with a key of the space"),
        ({"from_differs": True}, "search.from_differs: there is no search.from that could differ; leave it out"),
        ({"type": "grid", "start": ["defaults"], "num_trials": None}, "search.start: a grid tries every point"),
    ],
)
def test_mistakes_that_the_file_shows(more: dict[str, Any], problem: str) -> None:
    space = {PAIR: SPACE[PAIR]} if more.get("type") == "grid" else SPACE
    (line,) = sweep([], space, search=more).problems()
    assert line.startswith(problem)

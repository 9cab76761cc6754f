"""From the space to suggestions and back to config values; grids and the largest bounds."""

from __future__ import annotations

import itertools
from typing import Any

import optuna
import pytest
from conftest import Tiny
from mmengine.config import Config
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from sweep_space import SPACE, study

from rdistill.config.distill_spec import DistillSpec, distill_spec
from rdistill.config.load import LoadedConfig, with_overrides
from rdistill.config.overrides import lookup
from rdistill.core.errors import UserError
from rdistill.sweeps.study.space import build_sampler, check_space, decode, distributions, feature_counts
from rdistill.sweeps.study.spec import SweepSpec


@pytest.fixture(scope="module")
def base(tiny: Tiny) -> Config:
    return tiny.load("distill")


@pytest.fixture(scope="module")
def distill(base: Config) -> DistillSpec:
    spec = distill_spec(base)
    assert spec is not None
    return spec


def suggestions(spec: SweepSpec, space: dict[str, BaseDistribution], count: int) -> list[dict[str, Any]]:
    """What the sampler suggests, told a score after each."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    optuna_study = optuna.create_study(
        direction="maximize", sampler=build_sampler(spec.search.type, spec.search.seed, space)
    )
    points = []
    for number in range(count):
        trial = optuna_study.ask(space)
        points.append(decode(trial.params, spec.space))
        try:
            optuna_study.tell(trial, float(number % 3))
        except RuntimeError as error:  # how a GridSampler says that it is through, outside of Optuna's own loop
            assert "stop" in str(error) and number == count - 1
    return points


def test_distributions(distill: DistillSpec) -> None:
    space = distributions(study().space, distill)
    assert list(space) == list(SPACE)
    task, weight, batch, pair, rate, dilations = space.values()
    assert task == FloatDistribution(0.25, 1.0) and weight == FloatDistribution(1.0, 100.0, log=True)
    assert batch == IntDistribution(2, 4) and rate == CategoricalDistribution(["0.01", "0.1"])
    assert isinstance(pair, CategoricalDistribution) and len(pair.choices) == 9 == 3 * 3
    assert dilations == CategoricalDistribution(["[1, 2]", "[1, 3, 6]"])
    assert feature_counts(distill) == (3, 3)


def test_suggestions_arrive_in_the_config(base: Config, distill: DistillSpec) -> None:
    """Each value, of the type that the file gave it, as the config then has it."""
    spec = study()
    for values in suggestions(spec, distributions(spec.space, distill), 8):
        assert 0.25 <= values["distill.task_weight"] <= 1.0
        assert 1.0 <= values["distill.losses.logits.weight"] <= 100.0
        assert values["train_dataloader.batch_size"] in (2, 3, 4)
        assert values["distill.losses.hidden.pair"] in [[s, t] for s in range(3) for t in range(3)]
        assert values["optim_wrapper.optimizer.lr"] in (0.01, 0.1)
        assert values["model.decode_head.dilations"] in ([1, 2], [1, 3, 6])
        cfg = with_overrides(base, values)
        assert {key: lookup(cfg._cfg_dict, key) for key in values} == values


@pytest.mark.parametrize("value", [3, 0.5, True, None, "text", [1, [2, "x"]], {"type": "KL", "tau": 2.0}])
def test_choices_of_any_kind_come_back(distill: DistillSpec, value: Any) -> None:
    spec = study({"k": {"type": "choice", "values": [value]}})
    (values,) = suggestions(spec, distributions(spec.space, distill), 1)
    assert values == {"k": value} and type(values["k"]) is type(value)


@pytest.mark.parametrize("kind", ["random", "optuna"])
def test_the_seed_decides(distill: DistillSpec, kind: str) -> None:
    first, again, third = (
        suggestions(spec, distributions(spec.space, distill), 14)  # TPE starts to model after ten
        for spec in (study(kind=kind, seed=3), study(kind=kind, seed=3), study(kind=kind, seed=4))
    )
    assert first == again and first[0] != third[0]
    weights = [values["distill.losses.logits.weight"] for values in first]
    assert len(set(weights)) == len(weights)


def test_a_grid_visits_every_point_once(distill: DistillSpec) -> None:
    space = {
        "distill.losses.hidden.pair": {"type": "pairs", "pairs": "all"},
        "n": {"type": "int", "low": 1, "high": 2},
        "k": {"type": "choice", "values": ["a", [1, 2]]},
    }
    spec = study(space, kind="grid")
    size = spec.num_trials(feature_counts(distill))
    assert size == 9 * 2 * 2
    visited = suggestions(spec, distributions(spec.space, distill), size)
    points = [([*point[0]], *point[1:]) for point in itertools.product(
        itertools.product(range(3), range(3)), (1, 2), ("a", [1, 2])
    )]  # fmt: skip
    assert sorted(map(str, (tuple(values.values()) for values in visited))) == sorted(map(str, points))


@pytest.mark.parametrize(
    ("key", "dimension", "problem"),
    [
        (
            "distill.losses.logit.weight",
            {"type": "uniform", "low": 1, "high": 2},
            "distill.losses.logit.type: is required",
        ),
        (
            "distill.losses.logits.tua",
            {"type": "uniform", "low": 1, "high": 2},
            "distill.losses.logits.tua is not a parameter",
        ),
        (
            "optim_wrapper.optimizr.lr",
            {"type": "uniform", "low": 1, "high": 2},
            "unknown key optim_wrapper.optimizr; did you mean 'optimizer'?",
        ),
        (
            "distill.losses.hidden.pair",
            {"type": "pairs", "pairs": [[0, 3]]},
            "distill.losses.hidden.pair: teacher feature index 3 is not in distill.features.teacher, which has 3 names",
        ),
        (
            "optim_wrapper.optimizer.lr",
            {"type": "choice", "values": [0.1, "high"]},
            "optim_wrapper.optimizer.lr: must be a number, got 'high'",
        ),
        ("distill.losses.logits.weight", {"type": "uniform", "low": -1, "high": 2}, "distill.losses.logits.weight"),
    ],
    ids=lambda value: value if isinstance(value, str) and " " not in value else "",
)
def test_a_space_that_the_config_does_not_take(base: Config, key: str, dimension: Any, problem: str) -> None:
    with pytest.raises(UserError) as caught:
        check_space(study({key: dimension}), LoadedConfig.of(base), "s.yaml")
    assert all(line.startswith(f"s.yaml: space.{key}: ") for line in caught.value.problems)
    assert problem in caught.value.problems[0]


@pytest.mark.parametrize("key", ["+my-note", "+class", "+2nd"])
def test_a_key_that_a_trials_config_cannot_hold(base: Config, key: str) -> None:
    with pytest.raises(UserError) as caught:
        check_space(study({key: {"type": "choice", "values": [1]}}, kind="grid"), LoadedConfig.of(base), "a.yaml")
    (problem,) = caught.value.problems
    assert problem.startswith(f"a.yaml: space.{key}: {key!r}: a key of a config must be a name of Python's")


def test_all_wrong_dimensions_are_named_and_the_base_stays(base: Config) -> None:
    before = base.pretty_text
    check_space(study(), LoadedConfig.of(base), "s.yaml")
    wrong = {"a.b": {"type": "int", "low": 1, "high": 2}, "train_cfg.c": {"type": "choice", "values": [1]}}
    with pytest.raises(UserError) as caught:
        check_space(study({**wrong, **SPACE}), LoadedConfig.of(base), "s.yaml")
    assert [line.split(": ")[1] for line in caught.value.problems] == ["space.a.b", "space.train_cfg.c"]
    assert base.pretty_text == before


@pytest.mark.parametrize(
    ("grid", "num_trials", "problem"),
    [
        (
            {"train_dataloader.batch_size": {"type": "int", "low": 1, "high": 10**9}},
            None,
            "search.type: the grid has 1,000,000,000 points, and at most 10,000 can be listed; take fewer values, or",
        ),
        (
            {key: {"type": "int", "low": 1, "high": 1000} for key in ("train_dataloader.batch_size", "train_cfg.a")},
            5,
            "search.type: the grid has 1,000,000 points, and at most 10,000 can be listed",
        ),
        (
            {"train_dataloader.batch_size": {"type": "int", "low": 1, "high": 3}},
            4,
            "search.num_trials: is 4, but the grid has 3 points; lower it, or leave it out",
        ),
    ],
)
def test_the_size_of_a_grid_is_known_before_it_is_listed(
    base: Config, grid: dict[str, Any], num_trials: int | None, problem: str
) -> None:
    content = {"config": "a.py", "space": grid, "search": {"type": "grid", "num_trials": num_trials}}
    alone = {**content, "space": SPACE, "search": {"num_trials": 1}, "baseline": {**content["search"], "search": grid}}
    for sweep, where in ((content, "search"), (alone, "baseline")):
        with pytest.raises(UserError) as caught:
            check_space(SweepSpec.model_validate(sweep), LoadedConfig.of(base), "s.yaml")
        expected = problem.replace("search.", f"{where}.", 1)
        assert [line.startswith(f"s.yaml: {expected}") for line in caught.value.problems] == [True]


def test_values_that_are_listed_twice() -> None:
    space = {
        "a": {"type": "choice", "values": [1, "1", 1.0, True, {"k": 1, "j": 2}, {"j": 2, "k": 1}]},
        "b.pair": {"type": "pairs", "pairs": [[0, 1], [1, 0], [0, 1]]},
    }
    spec = SweepSpec.model_validate({"config": "a.py", "space": space, "search": {"num_trials": 1}})
    assert spec.problems() == ["space.a: {'j': 2, 'k': 1} is listed 2 times; keep one"]
    spec = SweepSpec.model_validate(
        {"config": "a.py", "space": {"b.pair": space["b.pair"]}, "search": {"type": "grid"}}
    )
    assert spec.problems() == ["space.b.pair: [0, 1] is listed 2 times; keep one"]


def test_optuna_takes_the_largest_bounds_and_seeds() -> None:
    space = {
        "a": {"type": "uniform", "low": -1e30, "high": 1e30},
        "b": {"type": "loguniform", "low": 1e-30, "high": 1e30},
        "c": {"type": "int", "low": -(2**53), "high": 2**53},
    }
    for kind in ("optuna", "random"):
        spec = study(space, kind=kind, seed=2**32 - 1)
        assert len(suggestions(spec, distributions(spec.space, DistillSpec.model_construct()), 15)) == 15

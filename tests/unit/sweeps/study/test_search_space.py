"""Which keys a configuration has: those of a loss that is there, and what the file ties together itself."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import optuna
import pytest
from conftest import Tiny

from rdistill.config.load import LoadedConfig
from rdistill.core.errors import UserError
from rdistill.sweeps.study.search_space import SearchSpace
from rdistill.sweeps.study.space import check_space, prerequisites, search_space, why_impossible
from rdistill.sweeps.study.spec import SweepSpec

HIDDEN, LOGITS = "distill.losses.hidden", "distill.losses.logits"
CWD = {"type": "CWD", "pair": [1, 1]}
AT = {"type": "AT", "pair": [0, 0]}
SPACE: dict[str, Any] = {
    f"{HIDDEN}.tau": {"type": "uniform", "low": 1.0, "high": 4.0, "step": 1.5},
    f"{HIDDEN}.weight": {"type": "loguniform", "low": 1.0, "high": 9.0},
    HIDDEN: {"type": "choice", "values": [None, CWD, AT]},
}


@pytest.fixture(scope="module")
def base(tiny: Tiny) -> LoadedConfig:
    return LoadedConfig.of(tiny.load("distill"))


def sweep(space: Mapping[str, Any], **search: Any) -> SweepSpec:
    content = {"config": "a.py", "space": space, "search": {"type": "random", "num_trials": 9, **search}}
    spec = SweepSpec.model_validate(content)
    assert spec.problems() == []
    return spec


def drawn(space: SearchSpace, count: int) -> list[dict[str, Any]]:
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    return [space.ask(study.ask()) for _ in range(count)]


def test_a_loss_that_is_left_out_has_no_weight_and_not_every_loss_a_temperature(base: LoadedConfig) -> None:
    spec = sweep(SPACE)
    check_space(spec, base, "a.yaml")
    space = search_space(spec.space, base)
    kinds = {
        params[HIDDEN]: sorted(key.rpartition(".")[2] for key in params if key != HIDDEN) for params in drawn(space, 30)
    }
    assert kinds == {
        "null": [], '{"type": "CWD", "pair": [1, 1]}': ["tau", "weight"], '{"type": "AT", "pair": [0, 0]}': ["weight"],
    }  # fmt: skip
    assert all(next(iter(params)) == HIDDEN for params in drawn(space, 5)), "a loss is set before what is below it"
    assert {params.get(f"{HIDDEN}.tau") for params in drawn(space, 30)} == {None, 1.0, 2.5, 4.0}
    assert {why_impossible(params, base, spec.space) for params in drawn(space, 30)} == {None}


def test_what_a_key_is_tried_out_beside(base: LoadedConfig) -> None:
    spec = sweep(SPACE)
    space = search_space(spec.space, base)
    assert prerequisites(f"{HIDDEN}.tau", spec.space, space) == {HIDDEN: CWD}
    assert prerequisites(HIDDEN, spec.space, space) == {}


def test_keys_that_the_file_ties_together(base: LoadedConfig) -> None:
    decides = {"type": "choice", "values": [0.0, 1.0]}
    weight = {"type": "int", "low": 1, "high": 100, "log": True, "when": {"distill.task_weight": [1.0]}}
    spec = sweep({f"{LOGITS}.weight": weight, "distill.task_weight": decides})
    space = search_space(spec.space, base)
    assert all(
        (f"{LOGITS}.weight" in params) == (params["distill.task_weight"] == "1.0") for params in drawn(space, 20)
    )
    # The config's own weight stays in the other half.
    assert len(list(SearchSpace({**space.distributions}, space.conditions).points())) == 101


@pytest.mark.parametrize(
    ("more", "problem"),
    [
        ({"type": "int", "low": 1, "high": 9, "when": {"x": [1]}}, "when: x is no other key of the space; name a key"),
        ({"type": "int", "low": 1, "high": 9, "when": {"n": [1]}}, "when: n is of type int; name a key of type choice"),
        ({"type": "int", "low": 1, "high": 9, "when": {"k": [3]}}, "when: 3 is no value of k"),
        ({"type": "int", "low": 1, "high": 9, "step": 3}, "high: must be low plus a multiple of step, got 9 from 1"),
        (
            {"type": "uniform", "low": 0, "high": 1, "step": 2},
            "high: must be low plus a multiple of step, got 1",
        ),
        ({"type": "int", "low": 1, "high": 9, "step": 2, "log": True}, "step: is for an even scale, got 2 with log"),
        (
            {"type": "int", "low": 0, "high": 9, "log": True},
            "low must be > 0 on a log scale, got 0; raise it",
        ),
    ],
)
def test_mistakes_in_a_dimension(more: dict[str, Any], problem: str) -> None:
    space = {"k": {"type": "choice", "values": [1, 2]}, "n": {"type": "int", "low": 1, "high": 2}, "m": more}
    (line,) = SweepSpec.model_validate({"config": "a.py", "space": space, "search": {"num_trials": 1}}).problems()
    assert line.startswith(f"space.m.{problem}")


def test_a_key_that_no_choice_takes(base: LoadedConfig) -> None:
    space = {HIDDEN: {"type": "choice", "values": [None, AT]}, f"{HIDDEN}.tau": {"type": "int", "low": 1, "high": 2}}
    with pytest.raises(UserError, match=rf"a.yaml: space.{HIDDEN}.tau: none of the values of {HIDDEN} takes it"):
        check_space(sweep(space), base, "a.yaml")


def test_keys_that_depend_on_each_other(base: LoadedConfig) -> None:
    names = ["distill.task_weight", f"{LOGITS}.weight", f"{LOGITS}.tau"]
    space = {
        key: {"type": "choice", "values": [1.0, 2.0], "when": {other: [1.0]}}
        for key, other in zip(names, [*names[1:], names[0]], strict=True)
    }
    with pytest.raises(UserError, match="has a meaning only with some values of itself"):
        check_space(sweep(space), base, "a.yaml")


def test_a_finite_space_has_no_more_trials_than_configurations() -> None:
    step = {"type": "uniform", "low": 0.0, "high": 1.0, "step": 0.5}
    spec = sweep({"a": step, "b": {"type": "int", "low": 1, "high": 5, "step": 4}}, num_trials=50)
    assert spec.num_trials((0, 0)) == 6
    assert sweep({"a": {"type": "uniform", "low": 0.0, "high": 1.0}}, num_trials=50).num_trials((0, 0)) == 50

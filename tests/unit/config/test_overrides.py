"""Dotted keys: read, and set in place; what cannot be set leaves a line and everything else as it was."""

from __future__ import annotations

from typing import Any

import pytest
from mmengine.config import Config

from rdistill._compat.mmengine import config_dict
from rdistill.config.overrides import apply_overrides, lookup, parse_assignments


def config() -> Config:
    return Config(
        {
            "optim_wrapper": {"optimizer": {"lr": 0.01, "betas": (0.9, 0.99)}, "clip_grad": None},
            "param_scheduler": [{"type": "PolyLR", "end": 100}, {"type": "LinearLR", "end": 10}],
            "distill": {"losses": {"logits": {"type": "KL"}}},
            "resume": False,
        }
    )


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("optim_wrapper.optimizer.lr", 0.01), ("param_scheduler.1.end", 10), ("param_scheduler.-2.type", "PolyLR"),
        ("optim_wrapper.optimizer.betas.1", 0.99), ("optim_wrapper.clip_grad", None),
    ],
)  # fmt: skip
def test_what_stands_at_a_key(key: str, value: Any) -> None:
    assert lookup(config_dict(config()), key) == value


@pytest.mark.parametrize(
    "key", ["optim_wrapper.lr", "param_scheduler.2.end", "param_scheduler.²", "resume.x", "nothing"]
)
def test_what_stands_nowhere(key: str) -> None:
    with pytest.raises(KeyError, match=key.split(".")[0]):
        lookup(config_dict(config()), key)


def test_values_are_set_in_place() -> None:
    cfg = config()
    new = {
        "optim_wrapper.optimizer.lr": 1, "param_scheduler.-1.end": 20, "optim_wrapper.optimizer.betas": (0.5, 0.9),
        "optim_wrapper.clip_grad": {"max_norm": 1.0}, "resume": True, "distill.losses.logits.tau": 4.0,
        "+train_cfg": {"max_iters": 5},
    }  # fmt: skip
    assert apply_overrides(cfg, new) == []
    assert {key: lookup(config_dict(cfg), key.lstrip("+")) for key in new} == new
    assert cfg.param_scheduler[0].end == 100 and cfg.optim_wrapper.clip_grad.max_norm == 1.0


@pytest.mark.parametrize(
    ("key", "value", "line"),
    [
        ("optim_wrapper.optimizer.rl", 0.1, "unknown key optim_wrapper.optimizer.rl (write +"),
        ("optim_wraper.optimizer.lr", 0.1, "unknown key optim_wraper; did you mean 'optim_wrapper'? (write +"),
        ("param_scheduler.2.end", 1, "param_scheduler.2: no such index; the list has 2 entries"),
        ("optim_wrapper.optimizer.betas.0", 0.5, "optim_wrapper.optimizer.betas.0: a tuple is set as a whole"),
        ("optim_wrapper.optimizer.lr.x", 1, "optim_wrapper.optimizer.lr.x: optim_wrapper.optimizer.lr is 0.01, which"),
        ("optim_wrapper.optimizer.lr", "fast", "optim_wrapper.optimizer.lr: must be a number, got 'fast'"),
        ("optim_wrapper.optimizer.lr", float("nan"), "optim_wrapper.optimizer.lr: must be a finite number, got nan"),
        ("optim_wrapper.optimizer.lr", True, "optim_wrapper.optimizer.lr: must be a number, got True"),
        ("optim_wrapper.optimizer", 3, "optim_wrapper.optimizer: is a section with keys lr, betas, got 3"),
        ("resume", 1, "resume: must be true or false, got 1"),
        ("a..b", 1, "'a..b' is no key; keys are written as a.b.c"),
    ],
)
def test_what_cannot_be_set_is_one_line_and_changes_nothing(key: str, value: Any, line: str) -> None:
    cfg = config()
    (problem,) = apply_overrides(cfg, {key: value})
    assert problem.startswith(line)
    assert config_dict(cfg).to_dict() == config_dict(config()).to_dict()


def test_assignments_of_a_command_line() -> None:
    values = parse_assignments(["a.b=1e-3", "+c=[1, 2]", "d=None", "e=@reshape_out", "f={x: 1}", "g= a=b "])
    assert values == {"a.b": 0.001, "+c": [1, 2], "d": None, "e": "@reshape_out", "f": {"x": 1}, "g": "a=b"}

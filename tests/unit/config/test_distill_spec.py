"""A loss's weight: a number, or a share by which it is measured; what a config, ``--set`` and a sweep may say of it."""

from __future__ import annotations

from typing import Any

import pytest
from conftest import Tiny
from mmengine.config import Config

from rdistill.config.distill_spec import LossSpec, ShareSpec, distill_spec
from rdistill.config.load import with_overrides
from rdistill.config.schedules import stretch_schedules
from rdistill.core.errors import UserError

KEY = "distill.losses.logits.weight"


def config(weight: Any, **more: Any) -> Config:
    losses = {"logits": {"type": "KL", "weight": weight}}
    return Config({"distill": {"teachers": [{"config": "a.py", "checkpoint": "a.pth"}], "losses": losses}, **more})


def loss(weight: Any) -> LossSpec:
    spec = distill_spec(config(weight))
    assert spec is not None
    return spec.losses["logits"]


def test_a_number_stays_a_number() -> None:
    for weight, expected in ((3, 3.0), (0, 0.0), (2.5, 2.5), (None, 3.0)):
        assert loss(weight).effective_weight == expected and loss(weight).share is None


def test_a_share_in_short_and_in_full() -> None:
    short, full = loss({"share": 0.5}), loss({"share": {"value": 0.5, "batches": 4, "every": 100}})
    assert short.share == ShareSpec(value=0.5, batches=8, every=None) and short.effective_weight is None
    assert full.share == ShareSpec(value=0.5, batches=4, every=100)
    spec = distill_spec(config({"share": 0.5}))
    assert spec is not None and list(spec.shares) == ["logits"]


@pytest.mark.parametrize(
    ("weight", "problem"),
    [
        (-1, f"{KEY}: must be a number of at least 0, got -1"),
        ("much", f"{KEY}: must be a number of at least 0, got 'much'"),
        ({}, f"{KEY}.share: is required"),
        ({"share": 0.5, "batches": 4}, f"unknown key {KEY}.batches; known: share"),
        ({"share": 0}, f"{KEY}.share.value: must be a number above 0, got 0"),
        ({"share": -0.5}, f"{KEY}.share.value: must be a number above 0, got -0.5"),
        ({"share": float("nan")}, f"{KEY}.share.value: must be a finite number, got nan"),
        ({"share": float("inf")}, f"{KEY}.share.value: must be a finite number, got inf"),
        ({"share": True}, f"{KEY}.share.value: must be a number above 0, got True"),
        ({"share": None}, f"{KEY}.share.value: must be a number above 0, got None"),
        ({"share": {"batches": 4}}, f"{KEY}.share.value: is required"),
        ({"share": {"value": 1, "batches": 0}}, f"{KEY}.share.batches: must be a whole number of at least 1, got 0"),
        ({"share": {"value": 1, "evry": 9}}, f"unknown key {KEY}.share.evry; did you mean 'every'?"),
        (
            {"share": {"value": 1, "every": 7}},
            f"{KEY}.share: `every` (7) must be at least `batches` (8), got {{'every': 7, 'value': 1}}",
        ),
    ],
)
def test_a_mistake_is_one_line(weight: Any, problem: str) -> None:
    with pytest.raises(UserError) as caught:
        loss(weight)
    assert caught.value.problems == (problem,)


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"compile": True}, "compile: a compiled step has no gradients between its layers"),
        ({"model_wrapper_cfg": {"type": "MMFullyShardedDataParallel"}}, "model_wrapper_cfg.type: MMFully"),
    ],
)
def test_a_step_in_which_nothing_can_be_measured_is_refused(more: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError, match=words) as caught:
        distill_spec(config({"share": 0.5}, **more))
    assert len(caught.value.problems) == 1 and f"{KEY}.share is measured" in str(caught.value)
    assert distill_spec(config(3.0, **more)) is not None
    assert distill_spec(config({"share": 0.5}, model_wrapper_cfg={"find_unused_parameters": True})) is not None


def test_a_share_of_no_task_is_refused() -> None:
    cfg = config({"share": 0.5})
    cfg.distill.task_weight = 0.0
    with pytest.raises(UserError, match=r"weight\.share: is of the task loss's gradient, which distill\.task_weight=0"):
        distill_spec(cfg)


@pytest.mark.parametrize(
    ("before", "key", "value", "after"),
    [
        (3.0, KEY, {"share": 0.5}, {"share": 0.5}),
        ({"share": 0.5}, KEY, 3.0, 3.0),
        (3.0, f"{KEY}.share", 0.5, {"share": 0.5}),
        ({"share": 0.1}, f"{KEY}.share", 0.5, {"share": 0.5}),
        (3.0, f"{KEY}.share.value", 0.5, {"share": {"value": 0.5}}),
        # What else the config says of a share stays; so does a value in short when another key is set.
        ({"share": {"value": 0.1, "every": 50}}, f"{KEY}.share", 0.5, {"share": {"value": 0.5, "every": 50}}),
        ({"share": 0.1}, f"{KEY}.share.every", 50, {"share": {"value": 0.1, "every": 50}}),
        ({"share": {"value": 0.1, "every": 50}}, f"{KEY}.share", {"value": 0.5}, {"share": {"value": 0.5}}),
    ],
)
def test_a_number_and_a_share_may_take_each_others_place(
    tiny: Tiny, before: Any, key: str, value: Any, after: Any
) -> None:
    cfg = tiny.load("distill", {KEY: before})
    changed = with_overrides(cfg, {key: value})
    actual = changed.distill.losses.logits.weight
    assert (actual.to_dict() if isinstance(actual, dict) else actual) == after
    assert changed.distill.losses.hidden.weight == 50.0


def test_what_is_no_weight_is_still_refused(tiny: Tiny) -> None:
    with pytest.raises(UserError, match=f"{KEY}: must be a number, got 'much'"):
        tiny.load("distill", {KEY: "much"})
    with pytest.raises(UserError, match=f"{KEY}.shar"):
        tiny.load("distill", {f"{KEY}.shar": 0.5})


def test_another_length_measures_as_often(tiny: Tiny) -> None:
    """As the schedule of a weight keeps its place; what is no number is left to its own line."""
    share = {"value": 0.5, "batches": 4, "every": 100}
    iterations = tiny.load("distill").train_cfg.max_iters  # after the fixture's own stretching
    for length, every in ((10 * iterations, 1000), (iterations, 100), (1, 17)):
        cfg = tiny.load("distill", {KEY: {"share": dict(share)}})
        cfg.train_cfg.max_iters = iterations
        assert stretch_schedules(cfg, length) == []
        assert cfg.distill.losses.logits.weight.share.every == every
    wrong = tiny.load("distill")
    wrong.distill.losses.logits.weight = {"share": {"value": 0.5, "batches": "few", "every": "often"}}
    wrong.distill.losses.logits.schedule = {"warmup": "long"}
    assert stretch_schedules(wrong, 12) == []
    with pytest.raises(UserError) as caught:
        distill_spec(wrong)
    assert len(caught.value.problems) == 3

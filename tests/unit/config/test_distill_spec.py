"""The ``distill`` section as a value: a loss's weight, which may be a share; its other fields; contradictions."""

from __future__ import annotations

import math
from typing import Any

import pytest
from conftest import Tiny
from mmengine.config import Config
from pydantic import ValidationError

from rdistill.config.distill_spec import DistillSpec, LossSpec, ScheduleSpec, ShareSpec, TeacherSpec, distill_spec
from rdistill.config.load import with_overrides
from rdistill.config.schedules import stretch_schedules
from rdistill.core.errors import UserError
from rdistill.losses import LOSSES

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
    iterations = tiny.load("distill").train_cfg.max_iters  # the length that the fixture has stretched it to
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


# --- what the other fields of the section mean ----------------------------------------------------------------------

TEACHER = {"config": "t.py", "checkpoint": "t.pth"}


def spec(losses: dict[str, Any], **more: Any) -> DistillSpec:
    features = {"student": ["s0", "s1"], "teacher": ["t0", "t1"]}
    return DistillSpec.model_validate({"teachers": [TEACHER], "features": features, "losses": losses, **more})


# --- a loss ---------------------------------------------------------------------------------------------------------


def test_schedule_factors_by_hand() -> None:
    warm = ScheduleSpec(warmup=4)
    assert [warm.factor(i, 10) for i in (0, 1, 3, 4, 9)] == [0.25, 0.5, 1.0, 1.0, 1.0]
    linear = ScheduleSpec(warmup=2, decay="linear", stop=6)
    assert [linear.factor(i, 10) for i in (0, 1, 2, 4, 5, 6, 9)] == [0.5, 1.0, 1.0, 0.5, 0.25, 0.0, 0.0]
    cosine = ScheduleSpec(decay="cosine")
    assert cosine.factor(0, 10) == 1.0 and math.isclose(cosine.factor(5, 10), 0.5) and cosine.factor(10, 10) < 1e-9
    assert ScheduleSpec(stop=3).factor(2, 10) == 1.0 and ScheduleSpec(stop=3).factor(3, 10) == 0.0


@pytest.mark.parametrize(
    ("pair", "pairs"), [(None, ()), ([1, 0], ((1, 0),)), ([[1, 0]], ((1, 0),)), ([[1, 0], [0, 1]], ((1, 0), (0, 1)))]
)
def test_a_pair_or_several_are_read_alike(pair: Any, pairs: Any) -> None:
    assert LossSpec(type="CWD", pair=pair).pairs == pairs


@pytest.mark.parametrize(("on", "output"), [("logits", 0), ("logits[0]", 0), ("logits[12]", 12)])
def test_which_output_a_loss_compares(on: str, output: int) -> None:
    assert LossSpec(type="KL", on=on).output == output


def test_the_weight_as_it_counts() -> None:
    on_logits, on_features = LossSpec(type="CWD"), LossSpec(type="CWD", pair=(0, 0))  # type: ignore[arg-type]
    info = LOSSES["CWD"]
    assert on_logits.effective_weight == info.default_weight("logits")
    assert on_features.effective_weight == info.default_weight("features")
    assert LossSpec(type="CWD", weight=0).effective_weight == 0


def test_other_keys_are_the_losses_own_parameters() -> None:
    loss = LossSpec.model_validate({"type": "KL", "tau": 4.0, "weight": 1.0, "on": "logits"})
    assert loss.params == {"tau": 4.0}


# --- teachers -------------------------------------------------------------------------------------------------------


def test_a_teacher_has_what_all_share_unless_it_has_its_own() -> None:
    own = {**TEACHER, "features": ["n0"], "cache": "off"}
    section = spec({"own": {"type": "KL"}}, teachers=[TEACHER, own], cache="on")
    first, second = section.teacher(0), section.teacher(1)
    assert (first.features, second.features) == (("t0", "t1"), ("n0",))
    assert first.cache is not None and second.cache is not None
    assert (first.cache.mode, second.cache.mode) == ("on", "off")
    assert section.teachers[0].features is None  # the section itself stays what the config says


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({}, "needs `config`"),
        ({"config": "t.py"}, "needs `checkpoint`"),
        ({"ema_decay": 0.99, "checkpoint": "t.pth"}, "no config or checkpoint beside it"),
        ({"ema_decay": 0.4}, "greater than 0.5"),
    ],
)
def test_a_teacher_is_of_one_kind(section: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        TeacherSpec.model_validate(section)


# --- what fields contradict -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("losses", "more", "problem"),
    [
        ({}, {}, "distill.losses: must have at least 1 entry, got 0"),
        ({"a": {"type": "KL", "on": "features"}}, {}, "distill.losses.a.on: must be 'logits' or 'logits[k]', got"),
        ({"a": {"type": "KL", "teacher": 1}}, {}, "distill.losses.a.teacher: got 1, but the config has 1 teacher"),
        ({"a": {"type": "CWD", "pair": [0, 0], "teacher": "mean"}}, {}, "distill.losses.a.teacher: 'mean' averages"),
        ({"a": {"type": "CWD", "pair": [2, 0]}}, {},
         "distill.losses.a.pair: student feature index 2 is not in distill.features.student, which has 2 names (0"),
        ({"a": {"type": "CWD", "pair": [0, -1]}}, {}, "distill.losses.a.pair: teacher feature index -1 is not in"),
        ({"a": {"type": "CWD", "pair": [[0, 0], [1, 1]]}}, {}, "distill.losses.a.pair: CWD compares one pair; several"),
        ({"a": {"type": "KL", "tua": 1.0}}, {}, "distill.losses.a.tua is not a parameter: KL on logits takes"),
        ({"a": {"type": "KL", "weight": {"share": 1.0}}}, {"task_weight": 0},
         "distill.losses.a.weight.share: is of the task loss's gradient, which distill.task_weight=0 makes zero"),
        ({"a": {"type": "KL"}}, {"labels": "teacher", "teachers": [{"ema_decay": 0.99}]},
         "distill.labels: 'teacher' needs teachers with a checkpoint, and one follows the student"),
    ],
)  # fmt: skip
def test_each_contradiction_is_one_line(losses: dict[str, Any], more: dict[str, Any], problem: str) -> None:
    (line,) = spec(losses, **more).problems()
    assert line.startswith(problem)


def test_the_teachers_labels_need_no_loss() -> None:
    assert spec({}, labels="teacher").problems() == []


def test_all_contradictions_are_found_at_once() -> None:
    section = spec({"a": {"type": "KLL"}, "b": {"type": "CWD", "pair": [9, 9]}})
    assert [line.partition(":")[0] for line in section.problems()] == [
        "distill.losses.a.type", "distill.losses.b.pair", "distill.losses.b.pair",
    ]  # fmt: skip

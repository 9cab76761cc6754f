"""From what a loss says to the names of the features that it compares."""

from __future__ import annotations

from typing import Any

import pytest

from rdistill.config.distill_spec import DistillSpec, ScheduleSpec
from rdistill.core.errors import UserError
from rdistill.distill.routes import Route, features_of, make_route, unique_names

STUDENT_HEADS = ["decode_head", "auxiliary_head"]
TEACHER_HEADS = [["decode_head.1", "decode_head.0"], ["decode_head"]]  # the first teacher's, a cascade; the second's


def spec(loss: dict[str, Any], **more: Any) -> DistillSpec:
    frozen = {"config": "t.py", "checkpoint": "t.pth"}
    section = {
        "teachers": [frozen, {**frozen, "features": ["neck.0", "neck.1", "neck.2"]}],
        "features": {"student": ["s0", "s1"], "teacher": ["t0", "t1"]},
        "losses": {"own": loss},
        **more,
    }
    return DistillSpec.model_validate(section)


def route(loss: dict[str, Any]) -> Route:
    section = spec(loss)
    return make_route("own", section.losses["own"], section, STUDENT_HEADS, TEACHER_HEADS)


def test_logits_are_the_head_that_predicts_of_each_side() -> None:
    """A cascade predicts with its last stage, which stands first among the names."""
    actual = route({"type": "KL", "weight": 2.5})
    assert actual == Route(("decode_head",), ("decode_head.1",), 0, 2.5, None, ScheduleSpec())


def test_further_logits_are_those_of_the_same_place() -> None:
    actual = route({"type": "KL", "on": "logits[1]"})
    assert (actual.student_features, actual.teacher_features) == (("auxiliary_head",), ("decode_head.0",))


def test_a_pair_points_into_the_two_lists() -> None:
    actual = route({"type": "CWD", "pair": [0, 1], "schedule": {"warmup": 3}})
    assert (actual.student_features, actual.teacher_features, actual.pair) == (("s0",), ("t1",), (0, 1))
    assert actual.schedule == ScheduleSpec(warmup=3)


def test_a_teacher_may_have_a_list_of_its_own() -> None:
    actual = route({"type": "CWD", "pair": [1, 2], "teacher": 1})
    assert (actual.student_features, actual.teacher_features, actual.teacher) == (("s1",), ("neck.2",), 1)


def test_a_loss_over_layers_keeps_their_order() -> None:
    actual = route({"type": "DSD", "pair": [[1, 0], [0, 1]]})
    assert (actual.student_features, actual.teacher_features) == (("s1", "s0"), ("t0", "t1"))


def test_the_mean_of_teachers_takes_a_head_of_each() -> None:
    actual = route({"type": "KL", "teacher": "mean"})
    assert (actual.teacher, actual.teacher_features) == (None, ("decode_head.1", "decode_head"))
    assert [features_of(index, actual) for index in (0, 1)] == [("decode_head.1",), ("decode_head",)]


def test_only_its_own_teacher_computes_a_routes_features() -> None:
    actual = route({"type": "CWD", "pair": [1, 2], "teacher": 1})
    assert [features_of(index, actual) for index in (0, 1)] == [(), ("neck.2",)]


@pytest.mark.parametrize(
    ("loss", "message"),
    [
        ({"type": "KL", "on": "logits[2]"}, "the student has 2 outputs: decode_head, auxiliary_head"),
        ({"type": "KL", "on": "logits[1]", "teacher": 1}, "the teacher has 1 outputs: decode_head"),
        ({"type": "KL", "on": "logits[1]", "teacher": "mean"}, "the teacher has 1 outputs: decode_head"),
    ],
)
def test_an_output_that_a_side_does_not_have(loss: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError) as caught:
        route(loss)
    assert caught.value.problems == (f"distill.losses.own.on: {loss['on']!r}, but {message}",)


def test_the_names_of_several_groups_are_each_there_once_in_a_fixed_order() -> None:
    assert unique_names([("s1", "s0"), ("s1",), ()]) == ["s0", "s1"]

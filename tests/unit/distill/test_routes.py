"""From what a loss says to the names of the features that it compares."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from mmseg.models.decode_heads import DDRHead
from torch import Tensor, nn

from rdistill.config.distill_spec import DistillSpec, ScheduleSpec, ShareSpec
from rdistill.core.errors import UserError
from rdistill.distill.routes import (
    Route,
    build_term,
    build_terms,
    channels_of_logits,
    features_of,
    make_route,
    make_routes,
    probe_channels,
    single_or_list,
    unique_names,
    with_class_maps,
)
from rdistill.models.class_map import ClassMap
from rdistill.models.segmentor import Labels

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
    actual = route({"type": "CWD", "pair": [0, 1], "weight": 7.0, "schedule": {"warmup": 3}})
    assert (actual.weight, actual.share) == (7.0, None)
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


@pytest.mark.parametrize(
    ("teacher_heads", "teacher", "which"),
    [
        ([[]], 0, "the teacher"),
        ([["decode_head"], []], 1, "teachers[1]"),
        ([["decode_head"], []], "mean", "teachers[1]"),
    ],
)
def test_a_teacher_without_logits_is_named(teacher_heads: list[list[str]], teacher: Any, which: str) -> None:
    section = spec({"type": "KL", "teacher": teacher})
    with pytest.raises(UserError) as caught:
        make_route("own", section.losses["own"], section, STUDENT_HEADS, teacher_heads)
    assert caught.value.problems == (
        f"distill.losses.own.on: 'logits', but {which} gives features alone, and no logits; give the loss a feature "
        f"`pair`",
    )


def test_a_route_keeps_the_schedule_and_the_share() -> None:
    more = {"weight": {"share": 0.5}, "schedule": {"warmup": 3}}
    for loss in ({"type": "KL", **more}, {"type": "CWD", "pair": [0, 1], **more}):
        actual = route(loss)
        assert (actual.weight, actual.share, actual.schedule) == (None, ShareSpec(value=0.5), ScheduleSpec(warmup=3))


# ---------------------------------------------------------------------------------------------------------
# Models of a head each, some of them with a class map


def model(channels: int, to: Sequence[int | None] | None = None, num_classes: int = 3, masks: bool = True) -> nn.Module:
    made = nn.Module()
    made.decode_head = nn.Conv2d(2, channels, kernel_size=1)
    made.auxiliary_head = nn.Conv2d(2, 7, kernel_size=1)
    made.decode_head.ignore_index = 254
    if to is not None:
        made.class_map = made.decode_head.class_map = ClassMap(to, num_classes, masks=masks)
    return made


ON_LOGITS = Route(("decode_head",), ("decode_head",), 0, 1.0, None, ScheduleSpec())
OF_MEAN = replace(ON_LOGITS, teacher=None, teacher_features=("decode_head",) * 2)


def test_a_route_on_logits_compares_the_classes_that_its_teachers_know() -> None:
    teachers = [model(3), model(4, [0, None, 2, 2]), model(3, [0, 1, None]), model(2, [1, 2])]
    plain, some, masking, other = (with_class_maps("kd", replace(ON_LOGITS, teacher=i), teachers) for i in range(4))
    assert [each.classes for each in (plain, some, masking, other)] == [None, (0, 2), (0, 1), (1, 2)]
    assert [each.masked_by for each in (plain, some, masking, other)] == [(), (1,), (2,), ()]
    assert replace(some, classes=None, masked_by=()) == replace(ON_LOGITS, teacher=1)
    three = [model(3, [0, 1, 2, None]), model(3), model(4, [0, None, 2, None], masks=False)]
    mean = with_class_maps("kd", OF_MEAN, three)
    assert (mean.classes, mean.masked_by) == ((0, 2), (0,))


def test_a_route_between_features_has_no_classes() -> None:
    between = replace(ON_LOGITS, pair=(0, 0))
    assert with_class_maps("kd", between, [model(4, [0, None, 2, 2])]) is between


def test_teachers_with_too_few_classes_in_common_are_refused() -> None:
    with pytest.raises(UserError) as caught:
        with_class_maps("kd", OF_MEAN, [model(2, [0, 1]), model(2, [1, 2])])
    assert caught.value.problems == (
        "distill.losses.kd.teacher: the teachers know 1 of the student's classes in common, and a loss on logits "
        "compares two or more; give each teacher a loss of its own, with teacher=0 and so on",
    )


def test_every_loss_has_a_route_with_its_class_map() -> None:
    losses = {"of_second": {"type": "KL", "teacher": 1}, "between": {"type": "CWD", "pair": [0, 1]}}
    section = spec(losses["of_second"], losses=losses)
    routes = make_routes(section, model(3), [model(3), model(4, [0, None, 2, 2])])
    assert list(routes) == list(losses)
    assert routes["of_second"] == replace(ON_LOGITS, teacher=1, weight=3.0, classes=(0, 2), masked_by=(1,), pair=None)
    assert (routes["between"].pair, routes["between"].classes) == ((0, 1), None)


@pytest.mark.parametrize(
    ("loss", "problem"), [({"on": "logits[4]"}, "on: 'logits[4]', but"), ({"teacher": "mean"}, "teacher: the teachers")]
)
def test_a_loss_without_a_route_is_named(loss: dict[str, Any], problem: str) -> None:
    teachers = [model(2, [0, 1]), model(2, [1, 2])]
    with pytest.raises(UserError, match=rf"^distill\.losses\.own\.{re.escape(problem)}"):
        make_routes(spec({"type": "KL", **loss}), model(3), teachers)


def test_only_the_students_heads_are_in_training() -> None:
    """A head of DDRNet gives the logits of two branches in training, and those of one otherwise."""
    student, teacher = nn.Module(), nn.Module()
    student.decode_head, teacher.decode_head = (DDRHead(in_channels=4, channels=4, num_classes=3) for _ in range(2))
    route = make_routes(spec({"type": "KL"}), student, [teacher])["own"]
    assert (route.student_features, route.teacher_features) == (("decode_head[0]",), ("decode_head",))


def test_the_channels_of_the_logits_that_are_compared() -> None:
    student, teachers = model(3), [model(3), model(4, [0, None, 2, 2])]
    assert channels_of_logits("kd", ON_LOGITS, student, teachers) == (3, 3)
    known = replace(ON_LOGITS, teacher=1, classes=(0, 2))
    assert channels_of_logits("kd", known, student, teachers) == (2, 2)
    auxiliary = replace(ON_LOGITS, student_features=("auxiliary_head",))
    assert channels_of_logits("kd", auxiliary, student, teachers) == (7, 3)
    auxiliary = replace(ON_LOGITS, teacher_features=("auxiliary_head",))
    assert channels_of_logits("kd", auxiliary, student, teachers) == (3, 7)
    # What does not fit is refused by the term, with both numbers.
    assert channels_of_logits("kd", known, model(5), teachers) == (5, 3)
    assert channels_of_logits("kd", OF_MEAN, model(1), [model(1), model(2)]) == (1, 1)
    assert channels_of_logits("kd", OF_MEAN, model(2), [model(2), model(2)]) == (2, 2)


@pytest.mark.parametrize("channels", [(3, 2), (1, 3), (2, 5)])
def test_a_mean_of_other_classes_is_refused(channels: tuple[int, int]) -> None:
    with pytest.raises(UserError) as caught:
        channels_of_logits("kd", OF_MEAN, model(3), [model(number) for number in channels])
    assert caught.value.problems == (
        f"distill.losses.kd.teacher: the mean of the teachers' logits needs teachers of the same classes, got "
        f"{channels[0]}, {channels[1]}; give each teacher a loss of its own, with teacher=0 and so on",
    )


def test_one_tensor_stands_alone() -> None:
    one, other = torch.zeros(1), torch.ones(1)
    assert single_or_list([one]) is one and single_or_list([one, other]) == [one, other]


def test_a_term_is_built_of_the_loss_and_the_labels() -> None:
    loss = spec({"type": "CIRKDMemory", "pair": [0, 1], "pixel_queue_size": 40}).losses["own"]
    term = build_term("own", loss, (4, 6), Labels(5, 254))
    assert not term.on_logits and term.params["pixel_queue_size"] == 40 and term.ignore_index == 254
    assert tuple(term.module.project[0].weight.shape) == (6, 4, 1, 1) and term.module.num_classes == 5
    assert build_term("own", loss, (4, 6), Labels(5, 254), classes=[0, 2]).module.num_classes == 2
    with pytest.raises(UserError, match=r"^distill\.losses\.own: CWD: logits must have as many classes, got a student"):
        build_term("own", spec({"type": "CWD"}).losses["own"], (3, 4), Labels(5, 255))


def test_every_loss_has_a_term() -> None:
    section = spec({}, losses={"logits": {"type": "BPKD"}, "between": {"type": "IFVD", "pair": [0, 1]}})
    routes = {"logits": replace(ON_LOGITS, classes=(0, 2)), "between": replace(ON_LOGITS, pair=(0, 1))}
    terms = build_terms(section, {"logits": (2, 2), "between": (4, 6)}, routes, model(3))
    about = {name: (term.loss_type, term.on_logits, term._label_arguments) for name, term in terms.items()}
    assert about == {
        "logits": ("BPKD", True, {"ignore_index": 254, "num_classes": 2}),
        "between": ("IFVD", False, {"ignore_index": 254, "num_classes": 3}),
    }
    with pytest.raises(UserError, match=r"^distill\.losses\.between: IFVD: the teacher's feature has one channel"):
        build_terms(section, {"logits": (2, 2), "between": (4, 1)}, routes, model(3))


# ---------------------------------------------------------------------------------------------------------
# Models that are run


class Runs(nn.Module):
    """A student of a map of 4 channels, tokens of 5 and a map of 6, and a head for each of two outputs."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 4, kernel_size=1)
        self.patches, self.tokens = nn.Conv2d(4, 5, kernel_size=16, stride=16), nn.Identity()
        self.last = nn.Conv2d(5, 6, kernel_size=1)
        self.decode_head, self.auxiliary_head = nn.Conv2d(6, 2, kernel_size=1), nn.Conv2d(6, 8, kernel_size=1)
        self.sizes: list[tuple[int, ...]] = []

    def extract_feat(self, inputs: Tensor) -> Tensor:
        assert not torch.is_grad_enabled() and self.training
        self.sizes.append(tuple(inputs.shape))
        patches = self.patches.forward(self.first(inputs))
        self.tokens(patches.flatten(2).transpose(1, 2))
        features: Tensor = self.last(patches)
        return features


class GivesMaps:
    """A teacher of a head of two classes whose layers are ``a`` and ``b``."""

    def __init__(self, *channels: int) -> None:
        self.model, self.channels = model(2), channels
        self.sizes: list[tuple[int, ...]] = []

    def __call__(self, inputs: Tensor) -> dict[str, Tensor]:
        self.sizes.append(tuple(inputs.shape))
        return {name: torch.zeros(1, number, 2, 2) for name, number in zip("ab", self.channels, strict=True)}


def between(teacher: int, *pairs: tuple[str, str]) -> Route:
    students, teachers = zip(*pairs, strict=True)
    return replace(ON_LOGITS, student_features=students, teacher_features=teachers, teacher=teacher, pair=(0, 0))


def test_the_channels_that_each_loss_compares() -> None:
    student, teachers = Runs().eval(), [GivesMaps(10, 11), GivesMaps(12, 13)]
    routes = {
        "logits": ON_LOGITS,
        "of_first": between(0, ("first", "b")),
        "of_second": between(1, ("tokens", "a")),
        "layers": between(1, ("last", "a"), ("tokens", "a"), ("auxiliary_head", "b")),
    }
    assert probe_channels(student, teachers, routes, (32, 48)) == {  # type: ignore[arg-type]
        "logits": (2, 2), "of_first": (4, 11), "of_second": (5, 12), "layers": (8, 13)
    }  # fmt: skip
    assert student.sizes == [(1, 3, 32, 48)] and all(teacher.sizes == student.sizes for teacher in teachers)
    assert not student.training


def test_losses_on_logits_alone_run_no_model() -> None:
    student, teacher = Runs(), GivesMaps(10, 11)
    assert probe_channels(student, [teacher], {"kd": ON_LOGITS}, (32, 48)) == {"kd": (2, 2)}  # type: ignore[list-item]
    assert student.sizes == teacher.sizes == []
    with pytest.raises(UserError, match=r"^distill\.losses\.kd\.teacher: the mean of the teachers' logits"):
        routes = {"kd": OF_MEAN}
        probe_channels(student, [teacher, SimpleNamespace(model=model(3))], routes, (32, 48))  # type: ignore[list-item]


def test_an_image_that_the_models_cannot_take_is_named() -> None:
    routes = {"between": between(0, ("first", "a"))}
    with pytest.raises(UserError, match=r"^model, on an image of 8 x 12: cannot be built: RuntimeError: "):
        probe_channels(Runs(), [GivesMaps(10, 11)], routes, (8, 12))  # type: ignore[list-item]


def test_the_names_of_several_groups_are_each_there_once_in_a_fixed_order() -> None:
    assert unique_names([("s1", "s0"), ("s1",), ()]) == ["s0", "s1"]

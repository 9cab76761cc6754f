"""Between which tensors each loss stands: from a loss's ``on`` or ``pair`` to feature names and numbers of channels."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from rdistill.config.distill_spec import DistillSpec, LossSpec, ScheduleSpec, ShareSpec
from rdistill.core.errors import UserError, blaming
from rdistill.distill.teacher import Teacher
from rdistill.losses.modules import Term
from rdistill.models.class_map import known_classes, masking
from rdistill.models.features import FeatureCapture, as_maps
from rdistill.models.segmentor import (
    Labels,
    blank_image,
    labels_of,
    logit_channels,
    logit_names,
    run_heads,
    training_outputs,
)
from rdistill.teachers.classes import FEWEST


@dataclass(frozen=True)
class Route:
    """Between which tensors a loss stands, and how much it counts."""

    student_features: tuple[str, ...]  # one, but for a loss over several layers
    teacher_features: tuple[str, ...]  # equally many; or each teacher's head, for the mean of teachers
    teacher: int | None  # None: the weighted mean of all teachers' logits
    weight: float | None  # None: it is measured, by its share
    pair: Any  # what the config says
    schedule: ScheduleSpec
    share: ShareSpec | None = None
    # the student's classes that the teachers know: a loss on logits compares these alone; None: all
    classes: tuple[int, ...] | None = None
    masked_by: tuple[int, ...] = ()  # teachers whose classes without one of the student's take pixels out of it


def make_routes(spec: DistillSpec, student: nn.Module, teachers: Sequence[nn.Module]) -> dict[str, Route]:
    """The route of each loss, by the loss's name, between those models."""
    student_heads = logit_names(student, training=True)
    teacher_heads = [logit_names(teacher, training=False) for teacher in teachers]
    routes = {name: make_route(name, loss, spec, student_heads, teacher_heads) for name, loss in spec.losses.items()}
    return {name: with_class_maps(name, route, teachers) for name, route in routes.items()}


def with_class_maps(name: str, route: Route, teachers: Sequence[nn.Module]) -> Route:
    """A route with what the class maps of its teachers' models change; one between features as it is.

    Raises:
        UserError: the teachers of a mean have fewer than two of the student's classes in common.
    """
    if route.pair is not None:
        return route
    compared = range(len(teachers)) if route.teacher is None else [route.teacher]
    classes = known_classes(teachers[index] for index in compared)
    if classes is not None and len(classes) < FEWEST:
        raise UserError(
            f"distill.losses.{name}.teacher: the teachers know {len(classes)} of the student's classes in common, and "
            f"a loss on logits compares two or more; give each teacher a loss of its own, with teacher=0 and so on"
        )
    return replace(route, classes=classes, masked_by=tuple(set(masking(teachers)) & set(compared)))


def make_route(
    name: str, loss: LossSpec, spec: DistillSpec, student_heads: list[str], teacher_heads: Sequence[list[str]]
) -> Route:
    """Turns a loss's ``on`` or ``pair`` into the feature names it compares."""
    weight = loss.effective_weight
    teacher = None if loss.teacher == "mean" else loss.teacher
    if loss.pair is not None:
        assert teacher is not None
        names = spec.teacher_features(teacher)
        student_names = tuple(spec.features.student[student] for student, _ in loss.pairs)
        teacher_names = tuple(names[index] for _, index in loss.pairs)
        return Route(student_names, teacher_names, teacher, weight, loss.pair, loss.schedule, loss.share)
    compared = list(teacher_heads) if teacher is None else [teacher_heads[teacher]]
    for side, heads in (("student", student_heads), *(("teacher", heads) for heads in compared)):
        if not heads:
            which = "" if len(teacher_heads) == 1 else f"s[{teacher}]" if teacher is not None else "s"
            raise UserError(
                f"distill.losses.{name}.on: {loss.on!r}, but the teacher{which} gives features alone, and no logits; "
                f"give the loss a feature `pair`"
            )
        if loss.output >= len(heads):
            raise UserError(
                f"distill.losses.{name}.on: {loss.on!r}, but the {side} has {len(heads)} outputs: {', '.join(heads)}"
            )
    teacher_names = tuple(heads[loss.output] for heads in compared)
    return Route((student_heads[loss.output],), teacher_names, teacher, weight, None, loss.schedule, loss.share)


def features_of(teacher: int, route: Route) -> tuple[str, ...]:
    """The features that a route wants from one of the teachers."""
    if route.teacher is None:
        return (route.teacher_features[teacher],)
    return route.teacher_features if route.teacher == teacher else ()


def channels_of_logits(name: str, route: Route, student: nn.Module, teachers: Sequence[nn.Module]) -> tuple[int, int]:
    """Channels of the student's and of the teacher's logits that the loss of that name compares.

    Raises:
        UserError: a mean of teachers of different classes. (One channel and two both tell two classes apart.)
    """
    compared = teachers if route.teacher is None else [teachers[route.teacher]]
    channels = [logit_channels(model, head) for model, head in zip(compared, route.teacher_features, strict=True)]
    if len(set(channels)) > 1 and set(channels) != {1, 2}:
        raise UserError(
            f"distill.losses.{name}.teacher: the mean of the teachers' logits needs teachers of the same classes, got "
            f"{', '.join(map(str, channels))}; give each teacher a loss of its own, with teacher=0 and so on"
        )
    student_channels, teacher_channels = logit_channels(student, route.student_features[0]), min(channels)
    if route.classes is not None and student_channels == teacher_channels:
        return len(route.classes), len(route.classes)
    return student_channels, teacher_channels


@torch.no_grad()
def probe_channels(
    student: nn.Module, teachers: Sequence[Teacher], routes: Mapping[str, Route], size: tuple[int, int]
) -> dict[str, tuple[int, int]]:
    """Name of a loss -> channels of the two tensors it compares; for several layers, of the last."""
    models = [teacher.model for teacher in teachers]
    on_logits = {
        name: channels_of_logits(name, route, student, models) for name, route in routes.items() if route.pair is None
    }
    if len(on_logits) == len(routes):
        return on_logits
    # Features say how many channels they have when they run: once, on a blank image.
    inputs = blank_image(student, size)
    with blaming(f"model, on an image of {size[0]} x {size[1]}"):
        with (
            training_outputs(student),
            FeatureCapture(student, unique_names(route.student_features for route in routes.values())) as capture,
        ):
            run_heads(student, student.extract_feat(inputs), capture.names)
            student_features = {name: as_maps(capture[name], size) for name in capture.names}
        teacher_features = [teacher(inputs) for teacher in teachers]
    pairs = {
        name: (
            student_features[route.student_features[-1]],
            teacher_features[route.teacher or 0][route.teacher_features[-1]],
        )
        for name, route in routes.items()
        if route.pair is not None
    }
    return on_logits | {name: (pair[0].shape[1], pair[1].shape[1]) for name, pair in pairs.items()}


def unique_names(groups: Iterable[Iterable[str]]) -> list[str]:
    """All names of several groups, each once, in a fixed order."""
    return sorted({name for group in groups for name in group})


def single_or_list(tensors: list[Tensor]) -> Tensor | list[Tensor]:
    """A loss over one layer takes a tensor, one over several a list."""
    return tensors[0] if len(tensors) == 1 else tensors


def build_terms(
    spec: DistillSpec, channels: Mapping[str, tuple[int, int]], routes: Mapping[str, Route], student: nn.Module
) -> dict[str, Term]:
    """The term of each loss, by the loss's name; ``channels`` as :func:`probe_channels` gives them."""
    labels = labels_of(student)
    return {
        name: build_term(name, loss, channels[name], labels, routes[name].classes) for name, loss in spec.losses.items()
    }


def build_term(
    name: str, loss: LossSpec, channels: tuple[int, int], labels: Labels, classes: Sequence[int] | None = None
) -> Term:
    """The term of one loss; ``classes``: of the student's those that are compared, None for all."""
    try:
        return Term(
            loss.type,
            student_channels=channels[0],
            teacher_channels=channels[1],
            num_classes=labels.num_classes if classes is None else len(classes),
            ignore_index=labels.ignore_index,
            on_logits=loss.pair is None,
            params=loss.params,
        )
    except ValueError as error:
        raise UserError(f"distill.losses.{name}: {error}") from None

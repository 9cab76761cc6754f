"""Which tensors each loss compares: turns a loss's ``on`` or ``pair`` into feature names and numbers of channels."""

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
from rdistill.models.class_map import known_classes, masking_models
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
from rdistill.teachers.classes import MIN_CLASSES


@dataclass(frozen=True)
class Route:
    """Which tensors a loss compares, and its weight."""

    student_features: tuple[str, ...]  # one name; several for a loss over several layers
    teacher_features: tuple[str, ...]  # equally many names; for the mean of the teachers, the head of each teacher
    teacher: int | None  # index of the teacher; None: the weighted mean of all teachers' logits
    weight: float | None  # None: the weight is measured, see `share`
    pair: Any  # the value in the config
    schedule: ScheduleSpec
    share: ShareSpec | None = None
    # The student's classes that the teachers know: a loss on logits compares only these. None: all classes.
    classes: tuple[int, ...] | None = None
    # Indices of teachers with `unmapped="mask"`: a pixel where one of them predicts a class that the student lacks does
    # not count.
    masked_by: tuple[int, ...] = ()


def make_routes(spec: DistillSpec, student: nn.Module, teachers: Sequence[nn.Module]) -> dict[str, Route]:
    """The route of each loss, by the name of the loss."""
    student_heads = logit_names(student, training=True)
    teacher_heads = [logit_names(teacher, training=False) for teacher in teachers]
    routes = {name: make_route(name, loss, spec, student_heads, teacher_heads) for name, loss in spec.losses.items()}
    return {name: with_class_maps(name, route, teachers) for name, route in routes.items()}


def with_class_maps(name: str, route: Route, teachers: Sequence[nn.Module]) -> Route:
    """Adds the class maps of the teachers to a route on logits; returns a route between features unchanged.

    Raises:
        UserError: the teachers that a loss averages have fewer than two of the student's classes in common.
    """
    if route.pair is not None:
        return route
    compared = range(len(teachers)) if route.teacher is None else [route.teacher]
    classes = known_classes(teachers[index] for index in compared)
    if classes is not None and len(classes) < MIN_CLASSES:
        raise UserError(
            f"distill.losses.{name}.teacher: the teachers know {len(classes)} of the student's classes in common, and "
            f"a loss on logits compares two or more; give each teacher a loss of its own, with teacher=0 and so on"
        )
    return replace(route, classes=classes, masked_by=tuple(set(masking_models(teachers)) & set(compared)))


def make_route(
    name: str, loss: LossSpec, spec: DistillSpec, student_heads: list[str], teacher_heads: Sequence[list[str]]
) -> Route:
    """Turns a loss's ``on`` or ``pair`` into the names of the features that it compares.

    Raises:
        UserError: a teacher without logits, or a head that does not exist.
    """
    weight = loss.effective_weight
    teacher = None if loss.teacher == "mean" else loss.teacher
    if loss.pair is not None:
        assert teacher is not None
        names = spec.teacher_features(teacher)
        student_names = tuple(spec.features.student[student] for student, _ in loss.pairs)
        teacher_names = tuple(names[index] for _, index in loss.pairs)
        return Route(student_names, teacher_names, teacher, weight, loss.pair, loss.schedule, loss.share)
    compared = range(len(teacher_heads)) if teacher is None else [teacher]
    for index in compared:
        if not teacher_heads[index]:
            which = "the teacher" if len(teacher_heads) == 1 else f"teachers[{index}]"
            raise UserError(
                f"distill.losses.{name}.on: {loss.on!r}, but {which} gives features alone, and no logits; "
                f"give the loss a feature `pair`"
            )
    for side, heads in (("student", student_heads), *(("teacher", teacher_heads[index]) for index in compared)):
        if loss.output >= len(heads):
            raise UserError(
                f"distill.losses.{name}.on: {loss.on!r}, but the {side} has {len(heads)} outputs: {', '.join(heads)}"
            )
    teacher_names = tuple(teacher_heads[index][loss.output] for index in compared)
    return Route((student_heads[loss.output],), teacher_names, teacher, weight, None, loss.schedule, loss.share)


def features_of(teacher: int, route: Route) -> tuple[str, ...]:
    """The features of one teacher that a route compares; ``teacher`` is the index of the teacher."""
    if route.teacher is None:
        return (route.teacher_features[teacher],)
    return route.teacher_features if route.teacher == teacher else ()


def channels_of_logits(name: str, route: Route, student: nn.Module, teachers: Sequence[nn.Module]) -> tuple[int, int]:
    """The numbers of channels of the student's and of the teacher's logits that the loss ``name`` compares.

    Raises:
        UserError: the mean of teachers with different classes. (One channel and two channels are both two classes.)
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
    """Name of a loss -> numbers of channels (student, teacher) that it compares; of the last layer if it has several.

    ``size`` is the height and width of the image on which the models are tried.
    """
    models = [teacher.model for teacher in teachers]
    on_logits = {
        name: channels_of_logits(name, route, student, models) for name, route in routes.items() if route.pair is None
    }
    if len(on_logits) == len(routes):
        return on_logits
    # The number of channels of a feature is known only after a forward pass: run one on a blank image.
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
    """All names of several groups, each once, sorted."""
    return sorted({name for group in groups for name in group})


def single_or_list(tensors: list[Tensor]) -> Tensor | list[Tensor]:
    """The only tensor, or the list of several: a loss over one layer takes a tensor, a loss over several a list."""
    return tensors[0] if len(tensors) == 1 else tensors


def build_terms(
    spec: DistillSpec, channels: Mapping[str, tuple[int, int]], routes: Mapping[str, Route], student: nn.Module
) -> dict[str, Term]:
    """The term of each loss, by the name of the loss; ``channels`` comes from :func:`probe_channels`."""
    labels = labels_of(student)
    return {
        name: build_term(name, loss, channels[name], labels, routes[name].classes) for name, loss in spec.losses.items()
    }


def build_term(
    name: str, loss: LossSpec, channels: tuple[int, int], labels: Labels, classes: Sequence[int] | None = None
) -> Term:
    """The term of one loss. ``classes`` are the student's classes that it compares; None means all.

    Raises:
        UserError: the loss's parameters or the numbers of channels do not fit.
    """
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

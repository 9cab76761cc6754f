"""``why`` in ``summary.json``: why a configuration gains, or does not."""

from __future__ import annotations

from typing import TypedDict


class OverTraining(TypedDict):
    """A figure at the first and the last validation of the runs, and over all of them."""

    first: float | None
    last: float | None
    mean: float | None


class LossFigures(TypedDict):
    """One distillation loss over training: raw values, and its gradient beside the task's."""

    first: float | None
    middle: float | None
    last: float | None
    state: str  # 'explodes', 'flat', 'saturated' or 'moves'
    ratio: float | None
    cosine: float | None


class TeacherFigures(TypedDict):
    """Of student and one teacher, means over the runs.

    The first eight have the names of :class:`rdistill.schemas.run.ValidationFigures` and are written out again: there
    each may be missing, where two tell other classes apart, here none may; and a mean over no run is None.
    """

    agreement: float | None
    student_error: float | None
    teacher_error: float | None
    errors_repeated: float | None
    errors_to_learn: float | None
    teacher_confidence: float | None
    teacher_calibration_error: float | None
    teacher_entropy: dict[str, float | None]  # keys are temperatures
    teacher_lead: float | None  # mIoU above the baseline


class WhyFigures(TeacherFigures):
    """Means over the runs of a configuration; what is of one teacher is of the first."""

    teachers: list[TeacherFigures]  # each one's, where there are several; else empty
    gradient_ratio: OverTraining
    gradient_cosine: OverTraining
    losses: dict[str, LossFigures]
    taus: dict[str, float]  # a loss's temperature, of those that have one
    taught_by: dict[str, int]  # and the teacher of each of these, counted from 0; not of one that averages them
    late_rise: float | None  # mIoU, of the last quarter of training


class Reason(TypedDict):
    """A sentence about one figure."""

    about: str
    text: str
    warning: bool  # whether it may be why there is no gain


class Why(TypedDict):
    """Of one configuration."""

    figures: WhyFigures
    sentences: list[Reason]

"""``why`` in ``summary.json``: the diagnosis of each confirmed configuration."""

from __future__ import annotations

from typing import TypedDict


class OverTraining(TypedDict):
    """A figure at the first and the last validation of the runs, and its mean over all validations."""

    first: float | None
    last: float | None
    mean: float | None


class LossFigures(TypedDict):
    """One distillation loss over training: raw values, and its gradient compared with the task's."""

    first: float | None
    middle: float | None
    last: float | None
    state: str  # 'explodes', 'flat', 'saturated' or 'moves'
    ratio: float | None
    cosine: float | None


class TeacherFigures(TypedDict):
    """Figures of the student and one teacher, as means over the runs.

    The first eight keys are those of :class:`rdistill.schemas.run.ValidationFigures`. They are repeated here because
    there each key may be absent, while here every key is present and a mean over no run is None.
    """

    agreement: float | None
    student_error: float | None
    teacher_error: float | None
    errors_repeated: float | None
    errors_to_learn: float | None
    teacher_confidence: float | None
    teacher_calibration_error: float | None
    teacher_entropy: dict[str, float | None]  # keys are temperatures
    teacher_lead: float | None  # mIoU of the teacher minus that of the baseline


class WhyFigures(TeacherFigures):
    """Means over the runs of a configuration; figures about one teacher are those of the first teacher."""

    teachers: list[TeacherFigures]  # the figures of each of several teachers; empty for a single one
    gradient_ratio: OverTraining
    gradient_cosine: OverTraining
    losses: dict[str, LossFigures]
    taus: dict[str, float]  # loss -> temperature, for losses that have one
    taught_by: dict[str, int]  # loss with a temperature -> index of its teacher; absent if it averages teachers
    late_rise: float | None  # gain of mIoU in the last quarter of training


class Reason(TypedDict):
    """A sentence about one figure."""

    about: str
    text: str
    warning: bool  # whether the figure may explain that there is no gain


class Why(TypedDict):
    """The diagnosis of one configuration."""

    figures: WhyFigures
    sentences: list[Reason]

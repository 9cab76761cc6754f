"""One run: its scores, ``metrics.json``, what its checkpoints keep, what its listeners get."""

from __future__ import annotations

from typing import Any, Protocol, TypedDict

from rdistill.schemas.data import DatasetMeta
from rdistill.schemas.mappings import ConfigValues, Weights


class TermFigures(TypedDict):
    """One distillation loss at a validation: of its gradient and the task's, with respect to the student's weights."""

    ratio: float | None  # its length over the task's
    cosine: float | None  # -1 to 1
    raw: float | None  # the loss before its weight


class ValidationFigures(TypedDict, total=False):
    """Of student and teacher on validation images, in percent; see :func:`rdistill.training.diagnosis.on_validation`.

    Empty where the two tell other classes apart. What is a share of nothing is None.
    """

    pixels: int  # labelled ones that were looked at
    agreement: float | None
    student_error: float | None
    teacher_error: float | None
    errors_repeated: float | None
    errors_to_learn: float | None
    teacher_confidence: float | None
    teacher_calibration_error: float | None
    teacher_entropy: dict[str, float]  # temperature -> share of the largest possible entropy, 0 to 1


class GradientFigures(TypedDict, total=False):
    """Of the gradients on training images; see :func:`rdistill.training.diagnosis.on_training`."""

    gradient_task: float | None
    gradient_distill: float | None
    gradient_ratio: float | None
    gradient_cosine: float | None
    terms: dict[str, TermFigures]  # keys are names of losses


class Diagnosis(ValidationFigures, GradientFigures, total=False):
    """One entry of ``diagnosis.json``: a validation of a diagnosed run. The figures are those of the first teacher."""

    teachers: list[ValidationFigures]  # each one's, where there are several

    iter: int
    seconds: float  # that measuring took
    problem: str  # why there are no figures


class Measurement(TypedDict):
    """A loss's weight that was measured, because the config gives it as a share."""

    iter: int  # the last iteration of those that were measured, counted from 1
    batches: int  # how many of them count: those in which both gradients had a length
    weight: float
    task: float  # mean length of the task loss's gradient
    loss: float  # and of this loss's, before its weight


class LossWeightState(TypedDict):
    """What a checkpoint keeps of such a weight; see :mod:`rdistill.distill.loss_weights`."""

    weight: float
    settled: bool  # the first measurement is complete
    seen: int  # batches of the measurement that is going on
    lengths: list[list[float]]  # the task's gradient's and the loss's, in those batches that count
    measured: list[Measurement]


class Trivial(TypedDict, total=False):
    """How far an evaluation is from calling every pixel the same class, in percent."""

    mIoU: float  # the score of calling every pixel the class that is most frequent
    left: float | None  # pixels predicted to be of another class than most, of those that are; None: none are


class IoUScores(TypedDict, total=False):
    """What one evaluation says of the classes, in percent."""

    mIoU: float
    IoU: dict[str, float | None]  # keys are class names; None for a class that occurs nowhere
    trivial: Trivial  # what the model's scores are compared with; IoUMetric alone has it, and the oldest files have not


class Scores(IoUScores, total=False):
    """Of one evaluation, in percent."""

    aAcc: float
    mAcc: float
    diagnosis: Diagnosis  # a diagnosed run's validation has it
    weights: dict[str, float]  # those measured up to this time; keys are names of losses
    by_image: list[float]  # mIoU of each image, in order, where it was requested
    cost: dict[str, float]  # what the run's clock has measured by now, where the run is in another process


class Validation(TypedDict, total=False):
    """One validation of a run, as its checkpoints keep it; empty before the first."""

    iter: int
    metrics: Scores


class CheckpointMeta(TypedDict, total=False):
    """A checkpoint's ``meta``: mmengine's keys, and rdistill's own; a file of others may have none of them."""

    iter: int
    epoch: int
    seed: int
    mIoU: float | None  # the score of the validation that a student is from
    dataset_meta: DatasetMeta
    best: Validation
    last: Validation


class RunCheckpoint(TypedDict, total=False):
    """What ``last.pth`` and ``best.pth`` hold, beside what mmengine's Runner puts there for itself."""

    meta: CheckpointMeta
    state_dict: Weights  # the Distiller's, the student's under ``student.``
    message_hub: dict[str, dict[str, Any]]  # mmengine's; emptied
    workers: list[Any]  # each is a rdistill.training.run_state.WorkerState
    ema_teachers: list[Weights]
    loss_weights: dict[str, LossWeightState]  # keys are names of losses, those whose weight is measured
    tracked_best: float | None  # mIoU


class CacheUse(TypedDict, total=False):
    """How the caches of a run's teachers did; empty without caches."""

    images: int  # that the teachers were to compute
    hit_rate: float  # share of them that were known, 0 to 1
    from_disk: int
    gave_up: bool  # there only if so


class StoreUse(TypedDict, total=False):
    """How the stores of views of a run's teachers did; empty without stores."""

    views: int  # views of each image
    images: int  # that the teachers were to compute
    computed: int  # those of them that they ran on; the others were kept
    damaged: int  # entries that could not be read


class RunMetrics(Scores, total=False):
    """``metrics.json``: the scores of ``student.pth``, which is the best iteration's, and how the run went."""

    iter: int  # the last
    best_iter: int
    last: Scores | None  # those of the last validation
    seed: int
    seconds: float
    teacher_mIoU: float | None
    teachers_mIoU: list[float | None]  # one for each, where there are several
    teacher_cache: CacheUse
    teacher_store: StoreUse
    weights_measured: dict[str, list[Measurement]]  # keys are names of losses


class Clock(Protocol):
    """Measures what a run's training steps take."""

    def seconds(self) -> dict[str, float]:
        """Seconds by name, and the ``steps`` that they are of; see :mod:`rdistill.sweeps.study.seconds`."""


class RunFacts(TypedDict, total=False):
    """What is known of a run before its first iteration; see ``RunListener.started``."""

    effective: ConfigValues  # read back from what was built
    unlabeled: str  # how many images without masks there are, for the user; empty without any
    teacher_lines: tuple[str, ...]  # how teachers are computed, for the user
    teacher_mIoU: float | None
    teachers_mIoU: list[float | None]
    best_mIoU: float | None  # a run that is resumed has it
    clock: Clock  # a run in this process has it, outside of cohorts; one in another sends `cost` with its scores
    student_start: str  # what the student starts from, if not from scratch

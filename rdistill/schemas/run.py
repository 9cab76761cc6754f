"""The types of one run: its scores, ``metrics.json``, the content of its checkpoints, and what its listeners get."""

from __future__ import annotations

from typing import Any, Protocol, TypedDict

from rdistill.schemas.data import DatasetMeta
from rdistill.schemas.mappings import ConfigValues, Weights


class TermFigures(TypedDict):
    """One distillation loss at a validation, with its gradient with respect to the student's weights."""

    ratio: float | None  # norm of its gradient, divided by that of the task's gradient
    cosine: float | None  # cosine of the two gradients, -1 to 1
    raw: float | None  # the loss before its weight


class ValidationFigures(TypedDict, total=False):
    """Figures of student and teacher on validation images, in percent.

    :func:`rdistill.training.diagnosis.on_validation` computes them. The dict is empty if the two have different
    classes. A fraction with a denominator of zero is None.
    """

    pixels: int  # number of labelled pixels
    agreement: float | None
    student_error: float | None
    teacher_error: float | None
    errors_repeated: float | None
    errors_to_learn: float | None
    teacher_confidence: float | None
    teacher_calibration_error: float | None
    teacher_entropy: dict[str, float]  # temperature -> entropy as a fraction of the largest possible, 0 to 1


class GradientFigures(TypedDict, total=False):
    """Figures of the gradients on training images; see :func:`rdistill.training.diagnosis.on_training`."""

    gradient_task: float | None
    gradient_distill: float | None
    gradient_ratio: float | None
    gradient_cosine: float | None
    terms: dict[str, TermFigures]  # keys are names of losses


class Diagnosis(ValidationFigures, GradientFigures, total=False):
    """The diagnosis at one validation, an entry of ``diagnosis.json``. The figures are those of the first teacher."""

    teachers: list[ValidationFigures]  # the figures of each of several teachers

    iter: int
    seconds: float  # seconds that the diagnosis took
    problem: str  # the reason if there are no figures


class Measurement(TypedDict):
    """A measurement of a loss's weight that the config gives as a share."""

    iter: int  # the last iteration of the measurement, counted from 1
    batches: int  # number of batches that count: those in which neither gradient was zero
    weight: float
    task: float  # mean norm of the task loss's gradient
    loss: float  # mean norm of this loss's gradient, before its weight


class LossWeightState(TypedDict):
    """The state of a measured weight in a checkpoint; see :mod:`rdistill.distill.loss_weights`."""

    weight: float
    settled: bool  # whether the first measurement is complete
    seen: int  # batches so far in the current measurement
    lengths: list[list[float]]  # (norm of the task's gradient, norm of the loss's gradient) of batches that count
    measured: list[Measurement]


class Trivial(TypedDict, total=False):
    """The comparison of an evaluation with a model that gives every pixel the same class, in percent."""

    mIoU: float  # score of giving every pixel the most frequent class
    left: float | None  # percent of the other classes' pixels that are predicted as another class; None without any


class IoUScores(TypedDict, total=False):
    """The IoU scores of one evaluation, in percent."""

    mIoU: float
    IoU: dict[str, float | None]  # keys are class names; None for a class that does not occur
    trivial: Trivial  # only rdistill's IoUMetric has it; absent in the oldest files


class Scores(IoUScores, total=False):
    """The scores of one evaluation, in percent."""

    aAcc: float
    mAcc: float
    diagnosis: Diagnosis  # only validations of a diagnosed run have it
    weights: dict[str, float]  # name of a loss -> weight measured up to now
    by_image: list[float]  # mIoU of each image, in order, if it was requested
    cost: dict[str, float]  # seconds that the run's clock has measured up to now, if the run is in another process


class Validation(TypedDict, total=False):
    """One validation of a run in its checkpoints; empty before the first validation."""

    iter: int
    metrics: Scores


class CheckpointMeta(TypedDict, total=False):
    """A checkpoint's ``meta``, with keys of mmengine and of rdistill; files of other programs may have none of them."""

    iter: int
    epoch: int
    seed: int
    mIoU: float | None  # the validation score of the saved student
    dataset_meta: DatasetMeta
    best: Validation
    last: Validation


class RunCheckpoint(TypedDict, total=False):
    """``last.pth`` and ``best.pth``, in addition to the keys that mmengine's Runner writes for itself."""

    meta: CheckpointMeta
    state_dict: Weights  # the Distiller's weights; names of the student's begin with ``student.``
    message_hub: dict[str, dict[str, Any]]  # mmengine's message hub, emptied
    workers: list[Any]  # a rdistill.training.run_state.WorkerState for each worker
    ema_teachers: list[Weights]
    loss_weights: dict[str, LossWeightState]  # name of a loss whose weight is measured -> its state
    tracked_best: float | None  # best mIoU that was sent to a tracker


class CacheUse(TypedDict, total=False):
    """The use of the caches of a run's teachers; empty without caches."""

    images: int  # number of images for which teacher outputs were needed
    hit_rate: float  # fraction of them that were in the cache, 0 to 1
    from_disk: int  # number of outputs that were read from disk
    gave_up: bool  # the cache was switched off; absent otherwise


class StoreUse(TypedDict, total=False):
    """The use of the stores of views of a run's teachers; empty without stores."""

    views: int  # number of views of each image
    images: int  # number of images for which teacher outputs were needed
    computed: int  # number of images on which the teachers ran; all other outputs were in the stores
    damaged: int  # number of entries that could not be read


class RunMetrics(Scores, total=False):
    """``metrics.json``: the scores of ``student.pth``, the student of the best iteration, and facts about the run."""

    iter: int  # the last iteration
    best_iter: int
    last: Scores | None  # scores of the last validation
    seed: int
    seconds: float
    teacher_mIoU: float | None
    teachers_mIoU: list[float | None]  # mIoU of each of several teachers
    teacher_cache: CacheUse
    teacher_store: StoreUse
    weights_measured: dict[str, list[Measurement]]  # keys are names of losses


class Clock(Protocol):
    """Measures the seconds of a run's training steps."""

    def seconds(self) -> dict[str, float]:
        """Name -> seconds, and the number of ``steps`` that took them; see :mod:`rdistill.sweeps.study.seconds`."""


class RunFacts(TypedDict, total=False):
    """Facts about a run before its first iteration; see ``RunListener.training_started``."""

    effective: ConfigValues  # config key -> value read back from the built model and losses
    images: str  # a line for the user about the images of each kind; empty if all of them have masks
    teacher_lines: tuple[str, ...]  # lines for the user that say how the teachers' outputs are computed
    teacher_mIoU: float | None
    teachers_mIoU: list[float | None]
    best_mIoU: float | None  # best mIoU so far of a resumed run
    clock: Clock  # a run in this process outside of cohorts has it; a run elsewhere sends `cost` with its scores
    student_start: str  # the weights that the student starts from, if not from scratch

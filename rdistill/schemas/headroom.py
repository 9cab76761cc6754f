"""``headroom.json``, the result of the short trainings before a sweep, and ``arm.json``, the record of one of them."""

from __future__ import annotations

from typing import Literal, TypedDict

from rdistill.schemas.run import IoUScores

EffectName = Literal["longer", "labels", "hard_labels", "distilled"]
Binds = Literal["teacher", "iterations", "labels", "capacity"]


class ArmRecord(IoUScores, total=False):
    """One short training, with the scores of its best validation."""

    arm: str
    seed: int
    status: str  # 'finished' or 'failed'
    reason: str  # the reason of a failure
    best_iter: int
    cost: dict[str, float]  # seconds; see rdistill.sweeps.headroom.cost.Rates


class ArmScores(TypedDict):
    """The scores of one arm over all seeds, in mIoU (percent)."""

    words: str  # the arm's name in tables
    iterations: int
    scores: dict[str, float]  # keys are seeds
    mean: float | None  # mean over the seeds on which it trained
    sd: float | None
    one_class_seeds: list[int]


class Effect(TypedDict):
    """The effect of a change to the training: differences on the same seeds, in mIoU."""

    n: int
    mean: float
    sd: float | None


class Effects(TypedDict):
    """The effect of each change; None if there are too few scores."""

    longer: Effect | None  # twice as many iterations
    labels: Effect | None  # all labels, compared with half of them
    hard_labels: Effect | None  # the teacher's labels instead of those of the data
    distilled: Effect | None


class Gaps(TypedDict):
    """Teacher minus student alone, in mIoU, after short trainings and after trainings of twice the length."""

    short: float | None
    long: float | None


class SpreadFigures(TypedDict):
    """See :class:`rdistill.sweeps.headroom.power.Spread`."""

    runs: float
    pairs: float
    low: float
    high: float
    freedom: int


class SeedsNeeded(TypedDict):
    """Numbers of paired seeds that show an effect, with the measured spread and with both ends of its interval.

    A number above 1,000 is None.
    """

    seeds: int | None
    low: int | None
    high: int | None


class PlannedCost(TypedDict):
    """The planned cost of a sweep."""

    iterations: int  # iterations of a trial
    seconds_alone: float
    seconds_distilled: float
    trials: int
    baselines: int
    cohort: int  # students that share a teacher
    cohorts: int  # cohorts that train at a time
    sweep_hours: float
    of: str  # the sweep in words


class HeadroomAnswer(TypedDict):
    """The conclusions from the scores."""

    teacher_mIoU: float | None
    arms: dict[str, ArmScores]
    gap: Gaps
    effects: Effects
    binds: Binds | None  # what limits the student; None if unknown
    spread: SpreadFigures | None
    seeds_needed: dict[str, SeedsNeeded] | None  # keys are effects, such as '+2'
    recommendation: str


class FailedTraining(TypedDict):
    """A short training without a score."""

    arm: str
    seed: int
    reason: str


class _Measured(HeadroomAnswer):
    iterations: int  # iterations of a short training
    seeds: list[int]
    failed: list[FailedTraining]
    rates: dict[str, float]  # seconds; fields of rdistill.sweeps.headroom.cost.Rates


class Headroom(_Measured, total=False):
    """``headroom.json``; docs/headroom.md explains it."""

    plan: PlannedCost
    losses: list[str]  # names of the config's losses; absent before a sweep, whose trials choose their losses

"""``headroom.json``: what the short trainings before a sweep say; and ``arm.json``, one of them."""

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
    reason: str  # why it failed
    best_iter: int
    cost: dict[str, float]  # seconds; see rdistill.sweeps.headroom.cost.Rates


class ArmScores(TypedDict):
    """One arm over all seeds; in mIoU, percent."""

    words: str  # what it is, for a table
    iterations: int
    scores: dict[str, float]  # keys are seeds
    mean: float | None  # mean over the seeds on which it trained
    sd: float | None
    one_class_seeds: list[int]


class Effect(TypedDict):
    """What a change to the training brings: differences on the same seeds, in mIoU."""

    n: int
    mean: float
    sd: float | None


class Effects(TypedDict):
    """Each change, against training without it. None: too few scores."""

    longer: Effect | None
    labels: Effect | None  # all of them, against half
    hard_labels: Effect | None  # the teacher's labels in place of the data's
    distilled: Effect | None


class Gaps(TypedDict):
    """Teacher minus student alone, in mIoU, after the short trainings and after those of twice the length."""

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
    """Paired seeds that show an effect, at the spread that was measured and at both ends of its interval.

    None: beyond 1,000.
    """

    seeds: int | None
    low: int | None
    high: int | None


class PlannedCost(TypedDict):
    """What a sweep will take."""

    iterations: int  # how long a trial trains
    seconds_alone: float
    seconds_distilled: float
    trials: int
    baselines: int
    cohort: int  # students that share a teacher
    cohorts: int  # how many work at a time
    sweep_hours: float
    of: str  # which sweep, in words


class HeadroomAnswer(TypedDict):
    """What follows from the scores."""

    teacher_mIoU: float | None
    arms: dict[str, ArmScores]
    gap: Gaps
    effects: Effects
    binds: Binds | None  # None: unknown
    spread: SpreadFigures | None
    seeds_needed: dict[str, SeedsNeeded] | None  # keys are effects, such as '+2'
    recommendation: str


class FailedTraining(TypedDict):
    """A short training without a score."""

    arm: str
    seed: int
    reason: str


class _Measured(HeadroomAnswer):
    iterations: int  # how long each short training is
    seeds: list[int]
    failed: list[FailedTraining]
    rates: dict[str, float]  # seconds; fields of rdistill.sweeps.headroom.cost.Rates


class Headroom(_Measured, total=False):
    """``headroom.json``; docs/headroom.md explains it."""

    plan: PlannedCost
    losses: list[str]  # names of the config's; not before a sweep, whose trials choose theirs

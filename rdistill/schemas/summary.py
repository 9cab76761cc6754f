"""``summary.json``: a sweep's verdict with its evidence, cost and environment. docs/proof-details.md explains it.

Keys may be absent while a sweep runs, or if an older version wrote the file. Scores are mIoU in percent.
"""

from __future__ import annotations

from typing import Literal, TypedDict

from rdistill.schemas.headroom import Headroom
from rdistill.schemas.mappings import ConfigValues
from rdistill.schemas.run import Scores
from rdistill.schemas.why import Why

Answer = Literal["better", "worse", "futile", "open"]


class Spread(TypedDict, total=False):
    """Mean and standard deviation over runs."""

    n: int  # number of runs
    mean: float | None
    sd: float | None  # None for fewer than two runs


class PairedDifference(TypedDict, total=False):
    """The mean difference over the seeds that both sides have, with the interval by Student's t."""

    n: int  # number of pairs
    mean: float
    low: float  # lower end of the 95 % interval
    high: float
    p: float  # p value of no difference, two-sided
    above_zero: bool  # whether the whole interval is above zero


class Difference(PairedDifference, total=False):
    """A difference with a decision; ``low``, ``high`` and ``p`` are over seeds and images, if images were counted."""

    images: int  # number of images that the interval covers besides seeds; 0: over seeds alone
    sign_flip_p: float | None  # exact p value of the sign-flip test; None for too few pairs
    low_seeds: float  # lower end of the interval over seeds alone
    high_seeds: float
    margin: float  # "better" means better by more than this
    binds: str  # the larger source of error, 'seeds' or 'images'
    half_by_images: float  # the images' part of the half width, which more seeds do not reduce
    p_adjusted: float  # p value adjusted for all questions
    answer: Answer  # 'futile': a gain would very probably not be shown by more seeds, or no planned seed is left
    chance: float  # predictive probability, 0 to 1, that more seeds show it better; absent if no seed could follow
    settled: bool  # whether an earlier look has given the final answer


class PairwiseDifference(TypedDict):
    """The difference of two confirmed configurations over the seeds that both have.

    The intervals of all entries hold together with 95 %, so that any of them may be looked at because of its result.
    """

    first: str  # id of the configuration with the higher mean
    second: str
    n: int  # number of pairs of runs
    images: int  # number of images that the interval covers besides seeds; 0: over seeds alone
    mean: float  # first minus second
    low: float  # lower end of the interval
    high: float
    p_adjusted: float  # p value of no difference, times the number of entries; at most 1


class ClassScores(Spread, total=False):
    """IoU of one class over the runs."""

    difference: PairedDifference | None


class InPyTorch(Spread, total=False):
    """Scores in PyTorch of runs whose exported files are confirmed, without runs that never left one class.

    They are shown, but decide nothing.
    """

    difference: PairedDifference | None  # its interval is over seeds alone


class Arm(Spread, total=False):
    """A configuration, or the student alone, over all its seeds."""

    id: str  # id of the trial in the search with this configuration
    label: str
    values: ConfigValues
    scores: dict[str, float]  # keys are seeds
    runs: dict[str, str]  # seed -> trial id
    one_class_runs: int
    never_trained: list[int]  # seeds on which it never left one class
    mean_trained: float | None  # mean without those seeds
    sd_trained: float | None
    IoU: dict[str, ClassScores]
    share_of_teacher: float | None  # percent of the teacher's mIoU
    seconds: dict[str, float | None]  # kind of seconds ('real', 'alone') -> mean seconds of a run's training steps
    difference: Difference | None  # a configuration minus the student alone at equal iterations
    pytorch: InPyTorch  # only if exported files are confirmed
    equal_cost: EqualCostArm  # the student alone at equal cost, for a configuration that has one


class EqualCostArm(Arm, total=False):
    """The student alone at equal cost; its ``difference`` is that of the configuration to it."""

    iterations: int
    distilled: dict[str, float]  # kind of seconds -> mean seconds of a distilled run
    student_alone: dict[str, float]  # kind of seconds -> mean seconds of a student alone at equal iterations


class LookDifference(TypedDict):
    """A difference at the time of a look."""

    n: int
    mean: float
    low: float
    high: float


class LookRecord(TypedDict):
    """One look in ``looks.json``; see :class:`rdistill.sweeps.findings.looks.Look`."""

    seeds: int
    answers: dict[str, Answer]  # keys are questions
    differences: dict[str, LookDifference]
    over: bool


class LooksRecord(TypedDict):
    """All looks of a confirmation that adds seeds until it is decided."""

    seeds: int  # number of seeds at the last look
    first: int  # number of seeds at the first look
    most: int  # largest number of seeds
    replanned: list[
        list[int]
    ]  # a pair for each time that seeds were added: [seeds at the last look, largest number before]
    margin: float
    over: bool
    each: list[LookRecord]


class Evidence(TypedDict, total=False):
    """The scores and differences of a confirmation, on validation data or on the test split."""

    baseline: Arm | None
    configurations: list[Arm]
    pairwise: list[
        PairwiseDifference
    ]  # every two configurations, those of the highest means first; absent for a single one


class Confirmed(Evidence, total=False):
    """The evidence on validation data."""

    of: str  # the form that was scored: 'pytorch', or the exported files 'onnx', 'fp16' or 'int8'
    seeds: list[int]
    seconds: str  # the seconds that count for equal cost, 'real' or 'alone'
    looks: LooksRecord


class Tested(Evidence, total=False):
    """The evidence on the test split."""

    teacher: Scores | None


class Searched(TypedDict, total=False):
    """The result of the search, in which each trial has one seed."""

    trials: int
    baseline_trials: int
    status: dict[str, int]  # status -> number of trials
    best: str | None
    best_label: str | None
    best_mIoU: float | None
    baseline: str | None
    baseline_label: str | None
    baseline_mIoU: float | None
    gain: float | None
    seed: int


class Cost(TypedDict, total=False):
    """The cost of the sweep; iterations are those of students."""

    wall_seconds: float  # sum over all starts of the sweep
    trial_seconds: float
    processes: int  # number of trials, or of cohorts, that run at a time
    iterations: int
    iterations_saved_by_stopping: int
    share_saved_by_stopping: float  # 0 to 1


class Session(TypedDict):
    """One start of the sweep. Times are ISO 8601 with their zone."""

    started: str
    ended: str
    seconds: float


class Machine(TypedDict, total=False):
    """The machine on which the sweep's driver ran."""

    platform: str
    processor: str
    cpus: int | None
    memory_bytes: int


class Seeds(TypedDict, total=False):
    """All seeds of a sweep."""

    training: int
    search: int
    baseline_search: int
    confirm: list[int]


class Environment(TypedDict, total=False):
    """The facts that are needed to repeat the sweep."""

    versions: dict[str, str]  # keys are packages
    machine: Machine
    command: str
    images: dict[str, int]  # keys: training, validation and, if there are any, without_masks
    seeds: Seeds
    started: str
    ended: str | None
    written: str
    sessions: list[Session]


class BestTrial(TypedDict):
    """The winner, in :class:`SweepOutcome`."""

    id: str
    mIoU: float | None
    gain: float | None
    IoU: dict[str, float | None] | None
    values: ConfigValues  # the values that the trial used
    config: str  # best.py
    checkpoint: str  # best.pth


class BaselineTrial(TypedDict):
    """The best baseline, in :class:`SweepOutcome`."""

    id: str
    mIoU: float | None


class SweepOutcome(TypedDict):
    """The output of `rdistill sweep --json`."""

    work_dir: str
    verdict: str | None
    confirmed: Confirmed | None
    best: BestTrial
    baseline: BaselineTrial | None
    teacher_mIoU: float | None
    trials: dict[str, int]  # keys are statuses
    results: str  # results.csv


class Summary(TypedDict, total=False):
    """The content of ``summary.json``."""

    status: str  # 'running', 'finished', 'interrupted' or 'failed'
    verdict: str
    teacher: Scores | None  # scores of the first teacher
    teachers: list[Scores]
    searched: Searched
    confirmed: Confirmed | None
    test: Tested | None
    headroom: Headroom | None
    why: dict[str, Why]  # keys are configurations
    pareto: list[str] | None  # ids of trials, with several objectives
    objectives: list[str]
    cost: Cost
    environment: Environment
    warnings: list[str]

"""``summary.json``: a sweep's answer, how it was come by and what it cost. docs/proof-details.md explains it.

Keys may be absent where an older version wrote the file, or while a sweep runs. Scores are mIoU in percent.
"""

from __future__ import annotations

from typing import Literal, TypedDict

from rdistill.schemas.headroom import Headroom
from rdistill.schemas.mappings import ConfigValues
from rdistill.schemas.run import Scores
from rdistill.schemas.why import Why

Answer = Literal["better", "worse", "futile", "open"]


class Spread(TypedDict, total=False):
    """Of some runs."""

    n: int
    mean: float | None
    sd: float | None  # None for fewer than two


class PairedDifference(TypedDict, total=False):
    """Of the seeds that both sides have, with the interval by Student's t."""

    n: int  # pairs
    mean: float
    low: float  # lower end of the 95 % interval
    high: float
    p: float  # p value of no difference, two-sided
    above_zero: bool  # whether the whole interval is


class Difference(PairedDifference, total=False):
    """One that is decided by; ``low``, ``high`` and ``p`` then are over seeds and images, where images are counted."""

    images: int  # how many the interval is over, beside seeds; 0: over seeds alone
    sign_flip_p: float | None  # exact; None for too few pairs
    low_seeds: float  # lower end of the interval over seeds alone
    high_seeds: float
    margin: float  # how much better it has to be
    binds: str  # 'seeds' or 'images': of which more would help more
    half_by_images: float  # half of the interval that more seeds would not make narrower
    p_adjusted: float  # adjusted for all questions together
    answer: Answer
    settled: bool  # whether a look before has answered it


class ClassScores(Spread, total=False):
    """IoU of one class over the runs."""

    difference: PairedDifference | None


class InPyTorch(Spread, total=False):
    """The same runs in PyTorch, but those that never left one class, where an exported file is what is confirmed.

    Nothing is decided by it.
    """

    difference: PairedDifference | None  # its interval is over seeds alone


class Arm(Spread, total=False):
    """A configuration, or the student alone, over all its seeds."""

    id: str  # the trial whose configuration it is
    label: str
    values: ConfigValues
    scores: dict[str, float]  # keys are seeds
    runs: dict[str, str]  # seed -> trial id
    one_class_runs: int
    never_trained: list[int]  # seeds on which it never left one class
    mean_trained: float | None  # mean without those
    sd_trained: float | None
    IoU: dict[str, ClassScores]
    share_of_teacher: float | None  # percent
    seconds: dict[str, float | None]  # kind ('real', 'alone') -> of a run's training steps, the mean
    difference: Difference | None  # a configuration's to the student alone of equal iterations
    pytorch: InPyTorch  # where an exported file is what is confirmed
    equal_cost: EqualCostArm  # where a configuration has one beside it


class EqualCostArm(Arm, total=False):
    """The student alone that trains for as many seconds as a configuration; its ``difference`` is to that one."""

    iterations: int
    distilled: dict[str, float]  # kind of seconds -> of a distilled run
    student_alone: dict[str, float]  # kind of seconds -> what a run of equal iterations took


class LookDifference(TypedDict):
    """A difference as it was at a look."""

    n: int
    mean: float
    low: float
    high: float


class LookRecord(TypedDict):
    """One look, as ``looks.json`` has it; see :class:`rdistill.sweeps.findings.looks.Look`."""

    seeds: int
    answers: dict[str, Answer]  # keys are questions
    differences: dict[str, LookDifference]
    over: bool


class LooksRecord(TypedDict):
    """All looks of a confirmation that adds seeds until it is decided."""

    seeds: int  # that were looked at
    first: int
    most: int
    replanned: list[list[int]]  # each time that it was given more: seeds that were looked at, and the most then
    margin: float
    over: bool
    each: list[LookRecord]


class Evidence(TypedDict, total=False):
    """What the confirmation's runs prove, on validation data or on the test split."""

    baseline: Arm | None
    configurations: list[Arm]


class Confirmed(Evidence, total=False):
    """On validation data."""

    of: str  # what was scored: 'pytorch', or the exported file, 'onnx', 'fp16' or 'int8'
    seeds: list[int]
    seconds: str  # which count for equal cost: 'real' or 'alone'
    looks: LooksRecord


class Tested(Evidence, total=False):
    """On the test split."""

    teacher: Scores | None


class Searched(TypedDict, total=False):
    """The search: one seed each."""

    trials: int
    baseline_trials: int
    status: dict[str, int]  # how many are 'finished', 'stopped', 'failed', 'running'
    best: str | None
    best_label: str | None
    best_mIoU: float | None
    baseline: str | None
    baseline_label: str | None
    baseline_mIoU: float | None
    gain: float | None
    seed: int


class Cost(TypedDict, total=False):
    """What the sweep took; iterations are of students."""

    wall_seconds: float  # all starts together
    trial_seconds: float
    processes: int  # how many work at a time
    iterations: int
    iterations_saved_by_stopping: int
    share_saved_by_stopping: float  # 0 to 1


class Session(TypedDict):
    """One start of the sweep. Times are ISO 8601 with their zone."""

    started: str
    ended: str
    seconds: float


class Machine(TypedDict, total=False):
    """Where the sweep's driver ran."""

    platform: str
    processor: str
    cpus: int | None
    memory_bytes: int


class Seeds(TypedDict, total=False):
    """Of everything that is drawn."""

    training: int
    search: int
    baseline_search: int
    confirm: list[int]


class Environment(TypedDict, total=False):
    """What is needed to do it again."""

    versions: dict[str, str]  # keys are packages
    machine: Machine
    command: str
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
    values: ConfigValues  # those that were in force
    config: str  # best.py
    checkpoint: str  # best.pth


class BaselineTrial(TypedDict):
    """The best baseline, in :class:`SweepOutcome`."""

    id: str
    mIoU: float | None


class SweepOutcome(TypedDict):
    """What `rdistill sweep --json` prints."""

    work_dir: str
    verdict: str | None
    confirmed: Confirmed | None
    best: BestTrial
    baseline: BaselineTrial | None
    teacher_mIoU: float | None
    trials: dict[str, int]  # keys are statuses
    results: str  # results.csv


class Summary(TypedDict, total=False):
    """The whole file."""

    status: str  # 'running', 'finished', 'interrupted' or 'failed'
    verdict: str
    teacher: Scores | None  # the first one's
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

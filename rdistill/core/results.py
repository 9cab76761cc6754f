"""What one part writes as plain data and others read by key: scores, a run's figures, a trial's entries.

They stay dicts, for they are JSON on disk and cross processes; here is which keys they have, and in which units.
"""

from __future__ import annotations

from typing import Any, Protocol, TypedDict

ConfigValues = dict[str, Any]  # config key -> value of any kind, as `--set` and a sweep's space write them


class Scores(TypedDict, total=False):
    """Of one evaluation, in percent."""

    mIoU: float
    aAcc: float
    mAcc: float
    IoU: dict[str, float | None]  # by class name; None for a class that occurs nowhere
    diagnosis: dict[str, Any]  # of a diagnosed run's validation; see rdistill.training.diagnosis


class Validation(TypedDict, total=False):
    """One validation of a run, as its checkpoints keep it; empty before the first."""

    iter: int
    metrics: Scores


class CacheUse(TypedDict, total=False):
    """How the caches of a run's teachers did; empty without caches."""

    images: int  # that the teachers were to compute
    hit_rate: float  # share of them that were known, 0 to 1
    from_disk: int
    gave_up: bool  # there only if so


class RunMetrics(Scores, total=False):
    """``metrics.json``: the scores of ``student.pth``, which is the best iteration's, and how the run went."""

    iter: int  # the last
    best_iter: int
    last: Scores | None  # of the last validation
    seed: int
    seconds: float
    teacher_mIoU: float | None
    teachers_mIoU: list[float | None]  # of each, where there are several
    teacher_cache: CacheUse


class Clock(Protocol):
    """Measures what a run's training steps take."""

    def seconds(self) -> dict[str, float]:
        """Seconds by name, and the ``steps`` that they are of; see :mod:`rdistill.sweeps.study.seconds`."""


class RunFacts(TypedDict, total=False):
    """What is known of a run before its first iteration; see ``RunListener.started``."""

    effective: ConfigValues  # read back from what was built
    teacher_lines: tuple[str, ...]  # how teachers are computed, for the user
    teacher_mIoU: float | None
    teachers_mIoU: list[float | None]
    best_mIoU: float | None  # of a run that is resumed
    clock: Clock  # of a run in this process, outside of cohorts
    student_start: str  # what the student starts from, if not from scratch


class TrialEntry(Scores, total=False):
    """One validation in a trial's record."""

    iter: int
    seconds: float  # of training since the trial began, over all attempts


class _TrialConfig(TypedDict):
    id: str
    phase: str
    of: str  # of a confirmation run: the id of the trial whose configuration it repeats
    seed: int
    values: ConfigValues  # as the searcher chose


class TrialConfig(_TrialConfig, total=False):
    """One trial as Ray Tune has it in its config."""

    iterations: int  # of its training, where it has another length than the config
    rival: str  # of a baseline of equal cost: the id of the trial whose configuration cost as much

"""One run: its scores, ``metrics.json``, what its checkpoints keep, what its listeners get."""

from __future__ import annotations

from typing import Any, Protocol, TypedDict

from rdistill.schemas.mappings import ConfigValues


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

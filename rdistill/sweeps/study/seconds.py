"""The seconds of a trial's training: those that it really took, and those that it would have taken alone.

This module needs neither torch nor Ray.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from rdistill.schemas.trial import TrialEntry

REAL, ALONE = "real", "alone"
SECONDS = (REAL, ALONE)


class TrainedRecord(Protocol):
    """The part of :class:`rdistill.sweeps.study.records.TrialRecord` that this module needs."""

    cost: dict[str, float]

    @property
    def history(self) -> Sequence[TrialEntry]: ...


@dataclass(frozen=True)
class Seconds:
    """Seconds of training steps: the student's own work, and its share of the teacher's work and of data loading.

    Set-up and validations are not included, since a student alone has as many of them.
    """

    real: float  # seconds as measured, with a shared teacher, shared batches and stored teacher outputs
    alone: float  # seconds if the trial had loaded every batch and computed every teacher output itself
    steps: int  # number of training iterations that took these seconds

    def total(self, kind: str) -> float:
        return self.real if kind == REAL else self.alone

    def per_step(self, kind: str) -> float:
        """Seconds of one step."""
        return self.total(kind) / self.steps


def training_seconds(record: TrainedRecord) -> Seconds | None:
    """The seconds of all training iterations of a trial; None before its first validation.

    They are the mean seconds of the measured steps, times the iterations of the trial, so that iterations that were
    trained twice because of a kill do not count twice. With several workers they are the seconds of rank 0, since all
    ranks run in step. A record of an older version has no measured steps: then both values are its wall time,
    validations included.
    """
    if not record.history:
        return None
    iterations, cost = int(record.history[-1]["iter"]), record.cost
    steps = int(cost.get("steps", 0))
    if not steps:
        wall = float(record.history[-1]["seconds"])
        return Seconds(wall, wall, iterations) if iterations else None
    real = _sum(cost, ("steps_seconds", "teacher_seconds", "steps_data_seconds"))
    alone = _sum(cost, ("steps_seconds", "teacher_alone_seconds", "steps_data_alone_seconds", "cache_saved_seconds"))
    return Seconds(real * iterations / steps, alone * iterations / steps, iterations)


def sum_seconds(parts: Iterable[Seconds]) -> Seconds | None:
    """The sum of the seconds and steps of several runs; None if there are no runs."""
    runs = list(parts)
    if not runs:
        return None
    return Seconds(sum(run.real for run in runs), sum(run.alone for run in runs), sum(run.steps for run in runs))


def _sum(cost: Mapping[str, float], names: Iterable[str]) -> float:
    return sum(cost.get(name, 0.0) for name in names)

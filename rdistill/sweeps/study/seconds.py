"""What a trial's training took, in seconds: as it really was, and as it would have been alone.

Needs neither torch nor ray.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from rdistill.schemas.trial import TrialEntry

REAL, ALONE = "real", "alone"
SECONDS = (REAL, ALONE)


class Trained(Protocol):
    """What is needed of a :class:`rdistill.sweeps.study.records.TrialRecord`."""

    cost: dict[str, float]

    @property
    def history(self) -> Sequence[TrialEntry]: ...


@dataclass(frozen=True)
class Seconds:
    """Of training steps: the student's own work and its share of the teacher's and of loading.

    Without set-up and validations, of which a student alone has as many.
    """

    real: float  # seconds where others share teacher and batches, and teacher outputs are remembered
    alone: float  # seconds where teacher and batches are its own, and every output is computed
    steps: int  # training iterations that this was for

    def of(self, kind: str) -> float:
        return self.real if kind == REAL else self.alone

    def each(self, kind: str) -> float:
        """Seconds of one step."""
        return self.of(kind) / self.steps


def training_seconds(record: Trained) -> Seconds | None:
    """What a trial's training took, of all its iterations; None before its first validation.

    What an attempt did again after a kill does not count: the seconds are those of the steps that were measured,
    times the iterations of the trial; of several workers they are the first one's, who all keep step. A record without
    measured steps, of an older version, has its time on the wall for both, validations included.
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


def together(parts: Iterable[Seconds]) -> Seconds | None:
    """The sum of some runs' seconds and steps; None of none."""
    runs = list(parts)
    if not runs:
        return None
    return Seconds(sum(run.real for run in runs), sum(run.alone for run in runs), sum(run.steps for run in runs))


def _sum(cost: Mapping[str, float], names: Iterable[str]) -> float:
    return sum(cost.get(name, 0.0) for name in names)

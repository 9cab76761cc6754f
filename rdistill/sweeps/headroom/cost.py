"""Estimates of the cost of a sweep, from the seconds that short trainings took on this machine."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from statistics import fmean

from rdistill.core.errors import UserError
from rdistill.core.words import rough_time
from rdistill.schemas.headroom import ArmRecord, PlannedCost
from rdistill.sweeps.headroom.arms import ALONE, DISTILLED, total_iterations
from rdistill.sweeps.study.spec import SweepSpec

# The setting `headroom: auto` measures headroom only if it costs at most this fraction of the sweep.
SHARE_OF_THE_SWEEP = 0.1
# The short trainings then have at most and at least these fractions of a trial's iterations.
LONGEST_SHARE, LEAST_SHARE = 0.25, 0.1
MIN_AUTO_ITERATIONS = 100  # and at least this many iterations, since shorter trainings do not predict longer ones
TYPICAL = (20, 3, 5)  # (trials, confirmed configurations, seeds), assumed for a sweep without a sweep file
TYPICAL_COHORT = 8  # students that share a teacher, assumed for such a sweep


@dataclass(frozen=True)
class Rates:
    """Seconds on this machine for the parts of a training whose student shares a worker with others."""

    start: float  # set-up before the first iteration
    alone_step: float  # an iteration of the student alone, without data loading
    distilled_step: float  # an iteration of the distilled student, without data loading and without the teacher
    validation: float  # one validation
    teacher: float  # the teacher's forward pass for one batch
    data: float  # loading one batch

    @classmethod
    def of(cls, records: Sequence[ArmRecord]) -> Rates:
        """Computes the mean rates from the ``cost`` of finished trainings."""

        def mean(name: str, *arms: str) -> float:
            values = [
                record["cost"][name]
                for record in records
                if record.get("cost") and name in record["cost"] and (not arms or record["arm"] in arms)
            ]
            return fmean(values) if values else 0.0

        return cls(
            mean("start"), mean("step", ALONE), mean("step", DISTILLED), mean("validation"),
            mean("teacher", DISTILLED), mean("data"),
        )  # fmt: skip

    def as_dict(self) -> dict[str, float]:
        return {name: round(value, 6) for name, value in asdict(self).items()}

    def seconds(self, iterations: int, validations: int, *, distilled: bool, cohort: int = 1) -> float:
        """Seconds of one training in a cohort of this size, which shares the teacher and the data."""
        step = self.distilled_step + self.teacher / cohort if distilled else self.alone_step
        return self.start + iterations * (step + self.data / cohort) + validations * self.validation


def planned_cost(
    rates: Rates,
    iterations: int,
    val_interval: int,
    *,
    distilled: int,
    alone: int,
    cohort: int = TYPICAL_COHORT,
    at_once: int = 1,
    of: str,
) -> PlannedCost:
    """The cost of a sweep in which no trial is stopped early.

    Args:
        rates: the measured rates.
        iterations: iterations of each trial.
        val_interval: iterations between two validations.
        distilled: number of trials under the teacher, confirmation included.
        alone: number of baselines, confirmation included.
        cohort: number of students that share a teacher.
        at_once: number of cohorts that train at a time.
        of: the sweep in words, for messages.
    """
    validations = -(-iterations // val_interval)
    one_alone = rates.seconds(iterations, validations, distilled=False)
    one_distilled = rates.seconds(iterations, validations, distilled=True)
    sweep = alone * rates.seconds(iterations, validations, distilled=False, cohort=cohort)
    sweep += distilled * rates.seconds(iterations, validations, distilled=True, cohort=cohort)
    return {
        "iterations": iterations,
        "seconds_alone": round(one_alone, 1),
        "seconds_distilled": round(one_distilled, 1),
        "trials": distilled,
        "baselines": alone,
        "cohort": cohort,
        "cohorts": at_once,
        "sweep_hours": round(sweep / at_once / 3600, 3),
        "of": of,
    }


def students_in_sweep(spec: SweepSpec, features: tuple[int, int]) -> tuple[int, int]:
    """(number of trials under the teacher, number of baselines) in a whole sweep, confirmation included."""
    alone = spec.num_baselines(features)
    every = spec.num_students(features)
    # All trainings of a confirmation seed but the `top` configurations are baselines.
    confirmed_alone = (spec.num_confirming - spec.confirm.top) * spec.confirm.last if spec.confirm else 0
    return every - alone - confirmed_alone, alone + confirmed_alone


@dataclass(frozen=True)
class StepSeconds:
    """What a step takes where the trials of a sweep train."""

    teacher: float  # its forward pass of a batch, in the mean: outputs that are remembered take no time
    student: float  # the distilled student's own step
    alone: float  # a step of the student alone


def confirmation_hours_per_seed(spec: SweepSpec, iterations: int, step: StepSeconds, at_once: int) -> float:
    """What the confirmation takes for each seed: the configurations, and the baselines of equal iterations and cost.

    Args:
        spec: of a sweep with a confirmation.
        iterations: of a trial.
        step: that was measured.
        at_once: students, or cohorts of them, that train at a time.
    """
    assert spec.confirm is not None
    top = spec.confirm.top
    distilled = top * step.student + (step.teacher if spec.cohort.size != "off" else top * step.teacher)
    alone = step.alone if spec.baseline.cost != "seconds" else 0.0
    as_long = distilled if spec.baseline.cost != "iterations" else 0.0
    return iterations * (distilled + alone + as_long) / at_once / 3600


def confirmation_time(spec: SweepSpec, iterations: int, step: StepSeconds, at_once: int) -> str:
    """A line on how long the confirmation will take; arguments as for :func:`confirmation_hours_per_seed`.

    Raises:
        UserError: all of its seeds take longer than ``confirm.hours``.
    """
    assert spec.confirm is not None
    first, last, hours = spec.confirm.first, spec.confirm.last, spec.confirm.hours
    each = confirmation_hours_per_seed(spec, iterations, step, at_once)
    if hours is not None and last * each > hours:
        key = "seeds" if spec.confirm.seeds is not None else "max"
        raise UserError(
            f"confirm.{key}: {last} seeds take about {last * each:.2g} hours here by the measured step, more than "
            f"confirm.hours, {hours:g}; {math.floor(hours / each)} seeds fit"
        )
    shortest, longest = (rough_time(3600 * seeds * each) for seeds in (first, last))
    seeds, time = (f"{last}", longest) if first == last else (f"{first} to {last}", f"{shortest} to {longest}")
    return f"{seeds} seeds take about {time}, by the measured step; loading and validations come on top"


def affordable_iterations(
    iterations: int, seeds: int, step: StepSeconds, students: int, cohort: int, at_once: int
) -> int | None:
    """The iterations of the short trainings with ``headroom: auto``; None if too few are affordable.

    Args:
        iterations: iterations of a trial of the sweep.
        seeds: number of seeds of the headroom.
        step: the measured seconds of a step.
        students: number of students that the sweep trains.
        cohort: number of students that share a teacher.
        at_once: number of cohorts that train at a time.
    """
    sweep = students * iterations * (step.student + step.teacher / cohort) / at_once
    steps = total_iterations(1, seeds)
    each = steps["student"] * step.student + steps["teacher"] * step.teacher
    longest = int(min(LONGEST_SHARE * iterations, SHARE_OF_THE_SWEEP * sweep / max(each, 1e-9)))
    return longest if longest >= max(MIN_AUTO_ITERATIONS, LEAST_SHARE * iterations) else None

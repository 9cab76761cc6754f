"""What trainings will take, from the seconds that short ones took on this machine."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from statistics import fmean

from rdistill.core.errors import UserError
from rdistill.core.words import rough_time
from rdistill.schemas.headroom import ArmRecord, PlannedCost
from rdistill.sweeps.headroom.arms import ALONE, DISTILLED, iterations_of_all
from rdistill.sweeps.study.spec import SweepSpec

SHARE_OF_THE_SWEEP = 0.1  # what a headroom may cost by itself, where the sweep file does not request it
LONGEST_SHARE, LEAST_SHARE = 0.25, 0.1  # shares of a trial's iterations: the short trainings of such a headroom
FEWEST_ITERATIONS = 100  # how many they have at least; shorter trainings say nothing of longer ones
TYPICAL = (20, 3, 5)  # trials, configurations confirmed and seeds of a sweep that is not there yet
TYPICAL_COHORT = 8  # students that share a teacher, of such a sweep


@dataclass(frozen=True)
class Rates:
    """Seconds on this machine, of a student that shares its worker with others."""

    start: float
    alone_step: float  # an iteration of the student alone, without its data
    distilled_step: float  # the distilled student's, without its data and its teacher
    validation: float
    teacher: float  # its forward pass of a batch
    data: float  # loading a batch

    @classmethod
    def of(cls, records: Sequence[ArmRecord]) -> Rates:
        """From the ``cost`` of finished trainings."""

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
        """Of one training, with its share of a teacher and of data that a cohort of this size shares."""
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
    """What a sweep will take, if no trial is stopped early.

    Args:
        rates: that were measured.
        iterations: of each trial.
        val_interval: iterations between two validations.
        distilled: trials under the teacher, confirmation included.
        alone: baselines, confirmation included.
        cohort: students that share a teacher.
        at_once: cohorts that work at a time.
        of: which sweep this is, in words.
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


def students_of(spec: SweepSpec, features: tuple[int, int]) -> tuple[int, int]:
    """Trials under the teacher and baselines of a whole sweep, confirmation included."""
    alone = spec.num_baselines(features)
    every = spec.num_students(features)
    # Each seed of the confirmation has the baseline of equal iterations, and those of equal cost.
    confirmed_alone = (spec.num_confirming - spec.confirm.top) * spec.confirm.last if spec.confirm else 0
    return every - alone - confirmed_alone, alone + confirmed_alone


@dataclass(frozen=True)
class StepSeconds:
    """What a step takes where the trials of a sweep train."""

    teacher: float  # its forward pass of a batch, in the mean: outputs that are remembered take no time
    student: float  # the distilled student's own step
    alone: float  # a step of the student alone


def hours_of_a_seed(spec: SweepSpec, iterations: int, step: StepSeconds, at_once: int) -> float:
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


def confirming_in_time(spec: SweepSpec, iterations: int, step: StepSeconds, at_once: int) -> str:
    """A line on how long the confirmation will take; arguments as for :func:`hours_of_a_seed`.

    Raises:
        UserError: all of its seeds take longer than ``confirm.hours``.
    """
    assert spec.confirm is not None
    first, last, hours = spec.confirm.first, spec.confirm.last, spec.confirm.hours
    each = hours_of_a_seed(spec, iterations, step, at_once)
    if hours is not None and last * each > hours:
        key = "seeds" if spec.confirm.seeds is not None else "max"
        raise UserError(
            f"confirm.{key}: {last} seeds take about {last * each:.2g} hours here by the measured step, more than "
            f"confirm.hours, {hours:g}; {math.floor(hours / each)} seeds fit"
        )
    shortest, longest = (rough_time(3600 * seeds * each) for seeds in (first, last))
    seeds, time = (f"{last}", longest) if first == last else (f"{first} to {last}", f"{shortest} to {longest}")
    return f"{seeds} seeds take about {time}, by the measured step; loading and validations come on top"


def affordable(iterations: int, seeds: int, step: StepSeconds, students: int, cohort: int, at_once: int) -> int | None:
    """How long the short trainings of a headroom may be that nobody requested; None: too short to say anything.

    Args:
        iterations: of a trial of the sweep.
        seeds: of the headroom.
        step: that was measured.
        students: that the sweep trains.
        cohort: students that share a teacher.
        at_once: cohorts that work at a time.
    """
    sweep = students * iterations * (step.student + step.teacher / cohort) / at_once
    steps = iterations_of_all(1, seeds)
    each = steps["student"] * step.student + steps["teacher"] * step.teacher
    longest = int(min(LONGEST_SHARE * iterations, SHARE_OF_THE_SWEEP * sweep / max(each, 1e-9)))
    return longest if longest >= max(FEWEST_ITERATIONS, LEAST_SHARE * iterations) else None

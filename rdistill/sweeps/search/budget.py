"""A search that ends in time: what it may cost, by the step that was measured and then by what trials really took."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

from rdistill.core.errors import UserError
from rdistill.core.words import counted
from rdistill.schemas.mappings import Arguments
from rdistill.sweeps.study.spec import MOST_TRIALS, SweepSpec
from rdistill.sweeps.trial.step_profile import StepProfile

# Validations, loading and set-up come on top of a step; nobody has measured them before the first trial.
OVERHEAD = 1.3
ROOM = 2  # twice as many trials as are planned may be tried, should they turn out to be quicker


@dataclass
class Clock:
    """How much of a budget a search has used, and whether another trial still fits. Goes on after a resume.

    Args:
        limit_s: seconds of the whole sweep.
        run_iterations: of one training.
        runs_after: trainings of the confirmation.
        iteration_s: seconds that an iteration of any trial takes, with all that run at a time; as it was planned.
        used_s: before this start of the sweep.
    """

    limit_s: float
    run_iterations: int
    runs_after: int
    iteration_s: float
    used_s: float = 0.0
    done: dict[str, int] = field(default_factory=dict)  # iterations of each trial
    over: set[str] = field(default_factory=set)
    since: float = field(default_factory=time.monotonic)
    first: float | None = None  # seconds used when the first trial began

    def __getstate__(self) -> Arguments:
        return {**vars(self), "used_s": self.used(), "since": None}

    def __setstate__(self, state: Arguments) -> None:
        vars(self).update(state, since=time.monotonic())

    def used(self) -> float:
        """Seconds so far, those of earlier starts included."""
        return self.used_s + time.monotonic() - self.since

    def begins(self, trial_id: str) -> None:
        if self.first is None:
            self.first = self.used()
        self.done.setdefault(trial_id, 0)

    def validated(self, trial_id: str, iteration: int) -> None:
        if trial_id in self.done:
            self.done[trial_id] = max(self.done[trial_id], iteration)

    def ends(self, trial_id: str) -> None:
        self.over.add(trial_id)

    def seconds_an_iteration(self) -> float:
        """Measured once whole trials are over; as it was planned until then."""
        iterations = sum(self.done.values())
        if not self.over or not iterations or self.first is None:
            return self.iteration_s
        return (self.used() - self.first) / iterations

    def fits_another(self) -> bool:
        """Whether one trial more, with those that run, leaves time for the confirmation."""
        running = sum(self.run_iterations - done for name, done in self.done.items() if name not in self.over)
        left = max(0, running) + (1 + self.runs_after) * self.run_iterations
        return self.used() + left * self.seconds_an_iteration() <= self.limit_s


def clock_of(
    spec: SweepSpec,
    step: StepProfile | None,
    *,
    iterations: int,
    features: tuple[int, int],
    gpus: float,
    at_once: int,
    cohort: int,
    used_s: float,
) -> tuple[Clock | None, int, str]:
    """The clock of a sweep with a budget of hours, how many trials may be tried, and what is planned, for the user.

    Args:
        spec: the sweep.
        step: what was measured of one.
        iterations: of one training.
        features: as for :meth:`rdistill.sweeps.study.spec.SweepSpec.num_trials`.
        gpus: that the sweep works on.
        at_once: workers that train at a time.
        cohort: students that share a teacher.
        used_s: seconds of this and earlier starts of the sweep.

    Raises:
        UserError: not even one trial fits, or there are no GPUs whose hours could be counted.
    """
    budget = spec.budget
    if budget is None or budget.trials is not None:
        return None, spec.num_trials(features), ""
    name, hours = ("hours", budget.hours) if budget.hours is not None else ("gpu_hours", budget.gpu_hours)
    assert hours is not None
    if name == "gpu_hours" and not gpus:
        raise UserError("budget.gpu_hours: the sweep works on no GPU; use budget.hours")
    limit = 3600 * hours / (gpus if name == "gpu_hours" else 1)
    teacher, student = step.seconds[min(step.seconds)] if step is not None else (0.0, 0.0)
    iteration = OVERHEAD * (teacher / max(1, cohort) + student) / max(1, at_once)
    after = spec.num_confirming * spec.confirm.first if spec.confirm else 0
    baselines = spec.num_baselines(features)
    run = iterations * iteration
    fitting = int((limit - used_s) / run) - after - baselines if run else MOST_TRIALS
    if fitting < 1 and not used_s:
        needed = (1 + after + baselines) * run / 3600
        raise UserError(
            f"budget.{name}: {hours:g} do not hold one trial, {counted(baselines, 'baseline')} and "
            f"{counted(after, 'run')} of the confirmation, which take about {needed:.2g} h by the measured step; "
            f"raise it, or train shorter"
        )
    most = min(spec.num_trials(features), MOST_TRIALS, max(1, ROOM * fitting))
    planned = min(most, max(0, fitting))
    line = (
        f"budget    {hours:g} {name.replace('_', ' ')}: about {counted(planned, 'trial')} of {run:.3g} s each by the "
        f"measured step, {baselines} before and {counted(after, 'run')} after them; the search ends when another would "
        f"leave these no time"
    )
    return Clock(limit, iterations, after, iteration, used_s), most, line

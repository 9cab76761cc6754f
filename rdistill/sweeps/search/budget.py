"""The budget of a search: ends it in time, by the measured step at first and by the seconds of real trials later."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

from rdistill.core.errors import UserError
from rdistill.core.words import counted
from rdistill.schemas.mappings import Arguments
from rdistill.sweeps.study.spec import MAX_TRIALS, SweepSpec
from rdistill.sweeps.trial.step_profile import StepProfile

# An assumption: validations, loading and set-up multiply a step's seconds by this; they are not measured beforehand.
OVERHEAD = 1.3
EXTRA_TRIALS = 2  # this many times the planned trials may run, in case they turn out to be faster than planned


@dataclass
class Clock:
    """Counts how much of its budget a sweep has used, and decides whether another trial fits.

    Tune pickles it with the searcher, so that it goes on after a resume.

    Args:
        limit_s: seconds that the whole sweep may take.
        run_iterations: iterations of one training.
        runs_after: number of trainings in the confirmation.
        iteration_s: planned seconds for an iteration of any trial, divided by the number of trials that run at a time.
        used_s: seconds that were used before this start of the sweep.
    """

    limit_s: float
    run_iterations: int
    runs_after: int
    iteration_s: float
    used_s: float = 0.0
    done: dict[str, int] = field(default_factory=dict)  # trial id -> iterations that it has trained
    over: set[str] = field(default_factory=set)  # ids of trials that have ended
    since: float = field(default_factory=time.monotonic)  # the start of this process's part of the sweep
    first: float | None = None  # seconds used when the first trial began

    def __getstate__(self) -> Arguments:
        return {**vars(self), "used_s": self.used(), "since": None}

    def __setstate__(self, state: Arguments) -> None:
        vars(self).update(state, since=time.monotonic())

    def used(self) -> float:
        """Seconds used so far, including those of earlier starts."""
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
        """Seconds for each iteration: measured as soon as one trial has ended, and planned until then."""
        iterations = sum(self.done.values())
        if not self.over or not iterations or self.first is None:
            return self.iteration_s
        return (self.used() - self.first) / iterations

    def fits_another(self) -> bool:
        """Whether one more trial, besides those that run, leaves enough time for the confirmation."""
        running = sum(self.run_iterations - done for name, done in self.done.items() if name not in self.over)
        remaining = max(0, running) + (1 + self.runs_after) * self.run_iterations
        return self.used() + remaining * self.seconds_an_iteration() <= self.limit_s


def plan_budget(
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
    """Plans how many trials fit into the budget of a sweep.

    Args:
        spec: the sweep.
        step: the measured step of one student.
        iterations: iterations of one training.
        features: the same as for :meth:`rdistill.sweeps.study.spec.SweepSpec.num_trials`.
        gpus: number of GPUs that the sweep uses.
        at_once: number of workers that train at a time.
        cohort: number of students that share a teacher.
        used_s: seconds that this start and earlier starts of the sweep have used.

    Returns:
        The clock of a sweep with a budget of hours (else None), the largest number of trials, and a line for the user
        (empty without a clock).

    Raises:
        UserError: not even one trial fits, or the budget is in GPU hours and the sweep uses no GPU.
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
    fitting = int((limit - used_s) / run) - after - baselines if run else MAX_TRIALS
    if fitting < 1 and not used_s:
        needed = (1 + after + baselines) * run / 3600
        raise UserError(
            f"budget.{name}: {hours:g} do not hold one trial, {counted(baselines, 'baseline')} and "
            f"{counted(after, 'run')} of the confirmation, which take about {needed:.2g} h by the measured step; "
            f"raise it, or train shorter"
        )
    max_trials = min(spec.num_trials(features), MAX_TRIALS, max(1, EXTRA_TRIALS * fitting))
    planned = min(max_trials, max(0, fitting))
    line = (
        f"budget    {hours:g} {name.replace('_', ' ')}: about {counted(planned, 'trial')} of {run:.3g} s each by the "
        f"measured step, {baselines} before and {counted(after, 'run')} after them; the search ends when another would "
        f"leave these no time"
    )
    return Clock(limit, iterations, after, iteration, used_s), max_trials, line

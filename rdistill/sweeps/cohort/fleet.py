"""The cohorts of a sweep: how many, of how many students, on how many CPUs each; and the processes themselves."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from typing import Any

import ray

from rdistill.core.words import counted
from rdistill.distributed.cluster import on_this_node
from rdistill.sweeps.cohort.assignment import CohortAssigner
from rdistill.sweeps.cohort.group import CohortGroup
from rdistill.sweeps.cohort.worker import Cohort
from rdistill.sweeps.trial.step_profile import StepProfile
from rdistill.sweeps.trial.trial import Study
from rdistill.training.ray_train import Resources

MEMORY_SHARE = 0.7  # students and their steps may take this part of the free memory
# How much quicker several cores together must look. A step by itself flatters them: a cohort on two cores took
# 0.083 s for each student where 0.057 s had been measured.
JOINED_MUST_GAIN = 1.25
END_S = 60.0  # seconds in which a group has come to its next batch, and Ray Train has ended its workers


@dataclass(frozen=True)
class Plan:
    """How a sweep's trials are divided."""

    cohorts: int
    size: int  # students in each
    slots: int  # trials' worth of CPUs that each cohort has

    def describe(self, resources: Resources) -> str:
        """``2 cohorts of up to 5 students that share a teacher, on 1 CPU each``."""
        cpus = resources.total()["CPU"] * self.slots
        return (
            f"{counted(self.cohorts, 'cohort')} of up to {self.size} students that share a teacher, on "
            f"{counted(cpus, 'CPU')}{' each' * (self.cohorts > 1)}"
        )


@dataclass(frozen=True)
class Fleet:
    """Cohorts at work.

    Attributes:
        cohorts: actors; each is a :class:`Cohort` or a :class:`CohortGroup`.
        assigner: the actor that says which of them a trial goes to.
    """

    cohorts: list[Any]
    assigner: Any
    plan: Plan

    def end(self) -> None:
        """Ends all of them. A student that was stopped may be writing its record still."""
        ended = [cohort.end.remote() for cohort in self.cohorts]
        ray.wait(ended, num_returns=len(ended), timeout=END_S)  # what does not end in time, or is dead, is killed
        for actor in (*self.cohorts, self.assigner):
            ray.kill(actor)


def start_fleet(study: Study, resources: Resources, trials: int, slots: int) -> Fleet:
    """Starts the cohorts of a sweep.

    Args:
        trials: that may run at a time, if there is room.
        slots: trials alone that the cluster has room for.
    """
    per_worker = resources.per_worker()
    slots = min(slots, trials)
    free_bytes = study.free_bytes or int(ray.cluster_resources()["memory"]) // slots
    plan = plan_cohorts(study.spec.cohort.size, trials, slots, study.step, free_bytes)
    # A thread for each student's events, and for calls that end one.
    options = dict(max_concurrency=2 * plan.size + 8, max_restarts=-1)
    began = time.time_ns()
    names = [f"cohort-{began}-{number}" for number in range(plan.cohorts)]
    if resources.workers > 1:
        group = ray.remote(CohortGroup)
        cohorts = [group.options(num_cpus=0, name=name, **options).remote(study, resources) for name in names]
    else:
        kinds = dict(num_cpus=per_worker["CPU"] * plan.slots, num_gpus=per_worker.get("GPU", 0))
        cohort = ray.remote(Cohort)
        cohorts = [cohort.options(name=name, **kinds, **options).remote(study) for name in names]
    share = study.step.teacher_share if study.step is not None else 0.5
    # Ray's memory monitor kills a node's youngest processes, whatever they take: this one too.
    always_restarted = dict(max_restarts=-1, max_task_retries=-1)
    register = ray.remote(CohortAssigner).options(num_cpus=0, scheduling_strategy=on_this_node(), **always_restarted)
    return Fleet(cohorts, register.remote(plan.cohorts, plan.size, share, names), plan)


def ways_to_join(resources: Resources) -> list[int]:
    """How many trials' CPUs one cohort could have: 1, all of the smallest node, and its halves between.

    On GPUs, of which a cohort uses one, just 1; so where the user has set the threads, and with several workers.
    """
    per_worker = resources.per_worker()
    if "OMP_NUM_THREADS" in os.environ or "GPU" in per_worker or resources.workers > 1:
        return [1]
    cpus = per_worker["CPU"]
    nodes = [node["Resources"].get("CPU", 0.0) for node in ray.nodes() if node["Alive"]]
    together = max(1, int(min((have for have in nodes if have >= cpus), default=cpus) / cpus))
    return sorted({together >> halved for halved in range(together.bit_length())})


def plan_cohorts(wanted: int | str, trials: int, slots: int, step: StepProfile | None, free_bytes: int) -> Plan:
    """Divides trials among cohorts: one for each slot, or fewer that have several slots' CPUs, whichever is quicker.

    Args:
        wanted: students in a cohort, as the sweep file has it: a number, or 'auto'.
        trials: at a time.
        slots: trials alone that the cluster has room for.
        step: what was measured; None keeps to a cohort for each slot.
        free_bytes: of memory for each slot.
    """
    plans = []
    for joined in sorted(step.seconds) if step is not None else [1]:
        if joined > slots:
            continue
        cohorts = slots // joined
        size = -(-trials // cohorts)
        if wanted != "auto":
            size = min(int(wanted), size)
        elif step is not None:
            room = free_bytes * joined * MEMORY_SHARE - step.passing_bytes
            size = max(1, min(size, int(room / max(1, step.held_bytes))))
        teacher, student = step.seconds[joined] if step is not None else (0.0, 1.0)
        # A step of all trials: that of the fullest cohort, and again for those that have no room yet.
        seconds = (teacher + size * student) * max(1.0, trials / (cohorts * size))
        seconds *= JOINED_MUST_GAIN if joined > 1 else 1.0
        plans.append((seconds, joined, Plan(cohorts, size, joined)))
    return min(plans, key=lambda plan: plan[:2])[2]

"""Plans the cohorts of a sweep (how many, with how many students, on how many CPUs each) and starts their actors."""

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
# One cohort on several slots is chosen only if it is planned to be this many times faster. The measured step of a
# single student is too optimistic: a cohort on two cores took 0.083 s for each student where 0.057 s was measured.
MIN_JOINED_SPEEDUP = 1.25
END_TIMEOUT_S = 60.0  # enough for a group to reach its next batch and for Ray Train to end its workers


@dataclass(frozen=True)
class Plan:
    """How the trials of a sweep are divided among cohorts."""

    cohorts: int  # number of cohorts
    size: int  # students in each cohort
    slots: int  # slots of each cohort; one slot is the CPUs of one trial

    def describe(self, resources: Resources) -> str:
        """``2 cohorts of up to 5 students that share a teacher, on 1 CPU each``."""
        cpus = resources.total()["CPU"] * self.slots
        alone = self.size == 1
        students = "1 student with a teacher" if alone else f"up to {self.size} students that share a teacher"
        return (
            f"{counted(self.cohorts, 'cohort')} of {students}, on {counted(cpus, 'CPU')}{' each' * (self.cohorts > 1)}"
        )


@dataclass(frozen=True)
class Fleet:
    """The running actors of a sweep's cohorts.

    Attributes:
        cohorts: handles of actors; each is a :class:`Cohort` or a :class:`CohortGroup`.
        assigner: handle of the :class:`CohortAssigner`.
        plan: the plan by which they were started.
    """

    cohorts: list[Any]
    assigner: Any
    plan: Plan

    def end(self) -> None:
        """Ends all actors, and kills them only after a while: a stopped student may still be writing its record."""
        ended = [cohort.end.remote() for cohort in self.cohorts]
        ray.wait(ended, num_returns=len(ended), timeout=END_TIMEOUT_S)
        for actor in (*self.cohorts, self.assigner):
            ray.kill(actor)


def start_fleet(study: Study, resources: Resources, trials: int, slots: int) -> Fleet:
    """Starts the cohorts of a sweep.

    Args:
        study: what all trials share.
        resources: resources of one trial.
        trials: number of trials that may run at a time, if there is room.
        slots: number of trials that the cluster has room for when each trains alone.
    """
    per_worker = resources.per_worker()
    slots = min(slots, trials)
    free_bytes = study.free_bytes or int(ray.cluster_resources()["memory"]) // slots
    plan = plan_cohorts(study.spec.cohort.size, trials, slots, study.step, free_bytes)
    # Each student needs one thread that waits for its events and one for the call that stops it.
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
    # Ray's memory monitor kills the youngest processes of a node, however little they use: it may kill this actor.
    always_restarted = dict(max_restarts=-1, max_task_retries=-1)
    assigner = ray.remote(CohortAssigner).options(num_cpus=0, scheduling_strategy=on_this_node(), **always_restarted)
    return Fleet(cohorts, assigner.remote(plan.cohorts, plan.size, share, names), plan)


def slot_choices(resources: Resources) -> list[int]:
    """Numbers of slots that one cohort could have: all slots of the smallest node, and that number halved down to 1.

    It is ``[1]`` on GPUs, since a cohort uses one GPU; with ``OMP_NUM_THREADS``, since the user has then chosen the
    number of threads; and for trials of several workers.
    """
    per_worker = resources.per_worker()
    if "OMP_NUM_THREADS" in os.environ or "GPU" in per_worker or resources.workers > 1:
        return [1]
    cpus = per_worker["CPU"]
    nodes = [node["Resources"].get("CPU", 0.0) for node in ray.nodes() if node["Alive"]]
    largest = max(1, int(min((node_cpus for node_cpus in nodes if node_cpus >= cpus), default=cpus) / cpus))
    return sorted({largest >> halvings for halvings in range(largest.bit_length())})


def plan_cohorts(wanted: int | str, trials: int, slots: int, step: StepProfile | None, free_bytes: int) -> Plan:
    """Divides trials among cohorts: one cohort per slot, or fewer cohorts of several slots, whichever is faster.

    Args:
        wanted: ``cohort.size`` of the sweep file: a number of students, or 'auto'.
        trials: number of trials that run at a time.
        slots: number of trials that the cluster has room for when each trains alone.
        step: the measured step of one student; None plans one cohort per slot.
        free_bytes: free memory for each slot, in bytes.
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
        # Seconds for one step of every trial: the step of a full cohort, repeated if not all trials fit at a time.
        seconds = (teacher + size * student) * max(1.0, trials / (cohorts * size))
        seconds *= MIN_JOINED_SPEEDUP if joined > 1 else 1.0
        plans.append((seconds, joined, Plan(cohorts, size, joined)))
    return min(plans, key=lambda plan: plan[:2])[2]

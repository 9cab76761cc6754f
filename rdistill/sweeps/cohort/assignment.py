"""The actor that assigns each trial to a cohort.

This module imports the standard library alone, so that the actor's process starts quickly.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

# Trials whose values differ in a key that starts like one of these cannot share batches or teacher outputs.
NOT_SHARED = (
    "train_dataloader", "val_dataloader", "val_evaluator", "model.data_preprocessor", "distill.teachers",
    "distill.store", "distill.unlabeled.img_dir", "distill.unlabeled.img_suffix", "distill.unlabeled.per_batch",
    "distill.unlabeled.share", "distill.on_ignored",
)  # fmt: skip


def sharing_key(trial: Mapping[str, Any]) -> str:
    """A text that is equal for two trials if they see the same batches and have the same teachers.

    All trials of a sweep come from one config, so they can differ in their seeds and their values alone.
    """
    values = {key.lstrip("+"): value for key, value in trial["values"].items()}
    own_values = {key: value for key, value in values.items() if key.startswith(NOT_SHARED)}
    return json.dumps([trial.get("seed"), own_values], sort_keys=True, default=str)


class CohortAssigner:
    """Assigns trials to cohorts. A Ray actor.

    It refuses no trial when all cohorts are full, because Tune never runs more trials than the cohorts have room for.

    Args:
        cohorts: number of cohorts.
        size: number of students that each cohort has room for.
        teacher_share: seconds of the teacher, divided by the seconds of a student's whole step alone; 0 to 1.
        names: names of the cohorts' actors. When Ray has restarted this actor, it gets from the cohorts which trials
            they train. It looks the actors up only then, because a look-up imports the cohort's class.
    """

    def __init__(self, cohorts: int, size: int, teacher_share: float = 0.5, names: Sequence[str] = ()) -> None:
        self._size, self._teacher_share = size, teacher_share
        self._students_of: list[Counter[str]] = [Counter() for _ in range(cohorts)]
        self._cohort_of: dict[str, tuple[int, str]] = {}  # trial id -> (index of its cohort, its sharing key)
        if names:
            self._restore_assignments(names)

    def _restore_assignments(self, names: Sequence[str]) -> None:
        import ray

        if not ray.get_runtime_context().was_current_actor_reconstructed:
            return
        for number, name in enumerate(names):
            try:
                students = ray.get(ray.get_actor(name).students.remote())
            except (ray.exceptions.RayActorError, ray.exceptions.OutOfMemoryError):
                continue  # a dead cohort trains nobody; its students come back by themselves once Ray has restarted it
            for trial_id, key in students.items():
                self._add(trial_id, number, key)

    def assign(self, trial_id: str, key: str) -> int:
        """Adds the trial to the cohort whose step will then be the cheapest; returns the index of that cohort."""
        if trial_id in self._cohort_of:  # the trial's process died, but its student still trains in that cohort
            return self._cohort_of[trial_id][0]
        free = [number for number, students in enumerate(self._students_of) if students.total() < self._size]
        number = min(free or range(len(self._students_of)), key=lambda number: self._step_cost(number, key))
        self._add(trial_id, number, key)
        return number

    def release(self, trial_id: str) -> None:
        if trial_id in self._cohort_of:
            number, key = self._cohort_of.pop(trial_id)
            self._students_of[number] -= Counter([key])

    def _add(self, trial_id: str, number: int, key: str) -> None:
        self._students_of[number][key] += 1
        self._cohort_of[trial_id] = number, key

    def _step_cost(self, number: int, key: str) -> float:
        """Cost of one step of a cohort with one more student: one teacher pass per sharing key, one step per student.

        The unit is the whole step of a student alone.
        """
        students = self._students_of[number]
        keys = len(students) + (key not in students)
        return keys * self._teacher_share + (students.total() + 1) * (1 - self._teacher_share)

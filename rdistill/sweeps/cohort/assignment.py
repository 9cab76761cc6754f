"""Which cohort a trial goes to. The actor's process is up at once, as this imports nothing but Python's own."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

# Config keys, or what they begin with, that change what a student sees or who teaches it. All else may be shared.
NOT_SHARED = (
    "train_dataloader", "val_dataloader", "val_evaluator", "model.data_preprocessor", "distill.teachers",
    "distill.store", "distill.unlabeled.img_dir", "distill.unlabeled.img_suffix", "distill.unlabeled.per_batch",
    "distill.unlabeled.share", "distill.on_ignored",
)  # fmt: skip


def sharing_key(trial: Mapping[str, Any]) -> str:
    """Equal for trials that see the same batches and have the same teachers.

    All trials of a sweep come from one config: what they do not share is in their seeds and their values.
    """
    values = {key.lstrip("+"): value for key, value in trial["values"].items()}
    apart = {key: value for key, value in values.items() if key.startswith(NOT_SHARED)}
    return json.dumps([trial.get("seed"), apart], sort_keys=True, default=str)


class CohortAssigner:
    """Says which cohort a trial goes to. A Ray actor; it keeps no room free, since Tune runs no more than there is.

    Args:
        cohorts: how many there are.
        size: students that each has room for.
        teacher_share: the teacher's part of the seconds of a student's whole step alone; 0 to 1.
        names: of the cohorts' actors. An assigner that Ray has started again gets from them which trials they train;
            getting hold of them sooner would import what they do.
    """

    def __init__(self, cohorts: int, size: int, teacher_share: float = 0.5, names: Sequence[str] = ()) -> None:
        self._size, self._teacher_share = size, teacher_share
        self._students_of: list[Counter[str]] = [Counter() for _ in range(cohorts)]
        self._taken: dict[str, tuple[int, str]] = {}  # trial id -> number of its cohort, sharing key
        if names:
            self._recall(names)

    def _recall(self, names: Sequence[str]) -> None:
        import ray

        if not ray.get_runtime_context().was_current_actor_reconstructed:
            return
        for number, name in enumerate(names):
            try:
                students = ray.get(ray.get_actor(name).students.remote())
            except (ray.exceptions.RayActorError, ray.exceptions.OutOfMemoryError):
                continue  # it trains nobody: its students come back by themselves when it is there again
            for trial_id, key in students.items():
                self._put(trial_id, number, key)

    def assign(self, trial_id: str, key: str) -> int:
        """The number of the cohort that will be quickest with this trial among its students; takes room in it."""
        if trial_id in self._taken:  # its process died, and its student trains on there
            return self._taken[trial_id][0]
        free = [number for number, students in enumerate(self._students_of) if students.total() < self._size]
        number = min(free or range(len(self._students_of)), key=lambda number: self._round(number, key))
        self._put(trial_id, number, key)
        return number

    def release(self, trial_id: str) -> None:
        if trial_id in self._taken:
            number, key = self._taken.pop(trial_id)
            self._students_of[number] -= Counter([key])

    def _put(self, trial_id: str, number: int, key: str) -> None:
        self._students_of[number][key] += 1
        self._taken[trial_id] = number, key

    def _round(self, number: int, key: str) -> float:
        """What a step of all its students takes: the teacher once for each that share, and every student."""
        there = self._students_of[number]
        keys = len(there) + (key not in there)
        return keys * self._teacher_share + (there.total() + 1) * (1 - self._teacher_share)

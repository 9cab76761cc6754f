"""What a trial in a cohort is for Ray Tune: a process that passes on. It imports neither torch nor mmengine."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from queue import SimpleQueue
from typing import Any

import ray
from ray import tune

Events = SimpleQueue[tuple[str, Any]]  # of a student: what happened, and what there is to say of it
REPORTED, FINISHED, FAILED = "reported", "finished", "failed"
TAKEN_OVER = (FINISHED, "followed by another process")  # for a trial's process that is taken for dead
ATTEMPTS = 3  # of a trial whose cohort died
RESTART_S = 120  # seconds that a cohort may take to be there again


# Config keys, or what they begin with, that change what a student sees or who teaches it. All else may be shared.
NOT_SHARED = ("train_dataloader", "val_dataloader", "val_evaluator", "model.data_preprocessor", "distill.teachers")


def sharing_key(trial: Mapping[str, Any]) -> str:
    """Equal for trials that see the same batches and have the same teachers.

    All trials of a sweep come from one config: what they do not share is in their seeds and their values.
    """
    values = {key.lstrip("+"): value for key, value in trial["values"].items()}
    apart = {key: value for key, value in values.items() if key.startswith(NOT_SHARED)}
    return json.dumps([trial.get("seed"), apart], sort_keys=True, default=str)


def until_over(events: Events) -> Iterator[tuple[str, Any]]:
    """A student's events as they come, the last of which says how it ended."""
    while True:
        event = events.get()
        yield event
        if event[0] != REPORTED:
            return


class Places:
    """Says which cohort a trial goes to. A Ray actor; it holds no places back, since Tune runs no more than there are.

    Args:
        cohorts: how many there are.
        size: places in each.
        teacher_share: of a student's whole step alone; 0 to 1.
    """

    def __init__(self, cohorts: int, size: int, teacher_share: float = 0.5) -> None:
        self._size, self._teacher_share = size, teacher_share
        self._there: list[Counter[str]] = [Counter() for _ in range(cohorts)]
        self._taken: dict[str, tuple[int, str]] = {}  # trial id -> number of its cohort, sharing key

    def take(self, trial_id: str, key: str) -> int:
        """The number of the cohort that will be quickest with this trial among its students, with a place taken."""
        if trial_id in self._taken:  # its process died, and its student trains on there
            return self._taken[trial_id][0]
        free = [number for number, there in enumerate(self._there) if there.total() < self._size]
        number = min(free or range(len(self._there)), key=lambda one: self._round(one, key))
        self._there[number][key] += 1
        self._taken[trial_id] = number, key
        return number

    def leave(self, trial_id: str) -> None:
        number, key = self._taken.pop(trial_id)
        self._there[number] -= Counter([key])

    def _round(self, number: int, key: str) -> float:
        """What a step of all its students takes: the teacher once for each that share, and every student."""
        there = self._there[number]
        keys = len(there) + (key not in there)
        return keys * self._teacher_share + (there.total() + 1) * (1 - self._teacher_share)


def follow(config: dict[str, Any], cohorts: list[Any], places: Any) -> None:
    """A trial's function for Tune: follows its student in a cohort to the end.

    When the cohort dies, Ray starts it again, and the student goes on there from its own checkpoint. When this process
    dies, the student trains on, and the process that Tune starts in its place follows it from there.

    Raises:
        RuntimeError: the student failed; says why.
    """
    cohort = cohorts[ray.get(places.take.remote(config["id"], sharing_key(config)))]
    try:
        for attempt in range(ATTEMPTS):
            try:
                if _follow_once(cohort, config):
                    return
            except ray.exceptions.RayActorError:
                if attempt == ATTEMPTS - 1:
                    raise
                _await_restart(cohort)
    finally:
        # Also when Tune stops the trial: it raises SystemExit out of a report.
        cohort.stop.remote(config["id"])
        places.leave.remote(config["id"])


def _await_restart(cohort: Any) -> None:
    """Returns when Ray has started the cohort again. Raises RayActorError when it does not in time."""
    deadline = time.monotonic() + RESTART_S
    while True:
        try:
            ray.get(cohort.ready.remote())
            return
        except ray.exceptions.RayActorError:
            if time.monotonic() > deadline:
                raise
            time.sleep(1)


def _follow_once(cohort: Any, trial: dict[str, Any]) -> bool:
    for ref in cohort.run.options(num_returns="streaming").remote(trial):
        event, what = ray.get(ref)
        if event == REPORTED:
            tune.report(what)
        elif event == FAILED:
            raise RuntimeError(what)
        else:
            return True
    return False

"""What a trial in a cohort is for Ray Tune: a process that passes on. It imports neither torch nor mmengine."""

from __future__ import annotations

import time
from typing import Any

import ray
from ray import tune

REPORTED, FINISHED, FAILED = "reported", "finished", "failed"
ATTEMPTS = 3  # of a trial whose cohort died
RESTART_S = 120  # seconds that a cohort may take to be there again


class Places:
    """Says which cohort has room. A Ray actor; all cohorts are of one size."""

    def __init__(self, cohorts: int) -> None:
        self._taken = [0] * cohorts

    def take(self) -> int:
        """The number of the emptiest cohort, with a place in it taken."""
        number = self._taken.index(min(self._taken))
        self._taken[number] += 1
        return number

    def leave(self, number: int) -> None:
        self._taken[number] -= 1


def follow(config: dict[str, Any], cohorts: list[Any], places: Any) -> None:
    """A trial's function for Tune: follows its student in a cohort to the end.

    When the cohort dies, Ray starts it again, and the student goes on there from its own checkpoint.

    Raises:
        RuntimeError: the student failed; says why.
    """
    number = ray.get(places.take.remote())
    cohort = cohorts[number]
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
        places.leave.remote(number)


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

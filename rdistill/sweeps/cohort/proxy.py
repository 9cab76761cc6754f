"""What a trial in a cohort is for Ray Tune: a process that passes on. It imports neither torch nor mmengine."""

from __future__ import annotations

import time
from collections.abc import Iterator
from queue import SimpleQueue
from typing import Any

import ray
from ray import tune

from rdistill.schemas.trial import TrialConfig
from rdistill.sweeps.cohort.assignment import sharing_key

Events = SimpleQueue[tuple[str, Any]]  # what happens to a student: the kind of event, and its details
REPORTED, FINISHED, FAILED = "reported", "finished", "failed"
TAKEN_OVER = (FINISHED, "followed by another process")  # the last event of a trial's process that is taken for dead
ATTEMPTS = 3  # starts of a trial whose cohort dies
DIED = (ray.exceptions.RayActorError, ray.exceptions.OutOfMemoryError)  # the second: Ray's memory monitor killed it
RESTART_S = 120  # seconds that a cohort may take to be there again


def until_over(events: Events) -> Iterator[tuple[str, Any]]:
    """A student's events as they come, the last of which says how it ended."""
    while True:
        event = events.get()
        yield event
        if event[0] != REPORTED:
            return


def follow(config: TrialConfig, cohorts: list[Any], assigner: Any) -> None:
    """A trial's function for Tune: follows its student in a cohort to the end.

    When the cohort dies, Ray starts it again, and the student goes on there from its own checkpoint. When this process
    dies, the student trains on, and the process that Tune starts in its place follows it from there.

    Raises:
        RuntimeError: the student failed; says why.
    """
    cohort = cohorts[ray.get(assigner.assign.remote(config["id"], sharing_key(config)))]
    try:
        for attempt in range(ATTEMPTS):
            try:
                if _follow_once(cohort, config):
                    return
            except DIED:
                if attempt == ATTEMPTS - 1:
                    raise
                _await_restart(cohort)
    finally:
        # Also when Tune stops the trial: it raises SystemExit out of a report.
        cohort.stop.remote(config["id"])
        assigner.release.remote(config["id"])


def _await_restart(cohort: Any) -> None:
    """Returns when Ray has started the cohort again. Raises what Ray says of it when it does not in time."""
    deadline = time.monotonic() + RESTART_S
    while True:
        try:
            ray.get(cohort.ready.remote())
            return
        except DIED:
            if time.monotonic() > deadline:
                raise
            time.sleep(1)


def _follow_once(cohort: Any, trial: TrialConfig) -> bool:
    for ref in cohort.run.options(num_returns="streaming").remote(trial):
        event, what = ray.get(ref)
        if event == REPORTED:
            tune.report(what)
        elif event == FAILED:
            raise RuntimeError(what)
        else:
            return True
    return False

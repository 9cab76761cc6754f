"""The proxy trial: Ray Tune's process for a student in a cohort, which passes the student's reports on to Tune.

It imports neither torch nor mmengine, so that a hundred such processes are cheap.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from queue import SimpleQueue
from typing import Any

import ray
from ray import tune

from rdistill.schemas.trial import TrialConfig
from rdistill.sweeps.cohort.assignment import sharing_key

Events = SimpleQueue[tuple[str, Any]]  # events of a student: (kind, details)
REPORTED, FINISHED, FAILED = "reported", "finished", "failed"
TAKEN_OVER = (FINISHED, "followed by another process")  # the last event for a proxy process that is presumed dead
ATTEMPTS = 3  # how often a trial is started in all when its cohort dies
# Ray raises OutOfMemoryError where its memory monitor killed the cohort's process.
COHORT_LOST = (ray.exceptions.RayActorError, ray.exceptions.OutOfMemoryError)
RESTART_TIMEOUT_S = 120  # how long Ray may take to restart a cohort


def events_until_end(events: Events) -> Iterator[tuple[str, Any]]:
    """Yields a student's events as they arrive; the last one says how the student ended."""
    while True:
        event = events.get()
        yield event
        if event[0] != REPORTED:
            return


def follow(config: TrialConfig, cohorts: list[Any], assigner: Any) -> None:
    """The trial's function for Tune: follows the trial's student in a cohort until it ends.

    When the cohort dies, Ray restarts it, and the student goes on there from its own checkpoint. When this process
    dies, the student still trains, and the process that Tune starts instead follows it from there.

    Raises:
        RuntimeError: the student failed; the message says why.
    """
    cohort = cohorts[ray.get(assigner.assign.remote(config["id"], sharing_key(config)))]
    try:
        for attempt in range(ATTEMPTS):
            try:
                if _follow_once(cohort, config):
                    return
            except COHORT_LOST:
                if attempt == ATTEMPTS - 1:
                    raise
                _await_restart(cohort)
    finally:
        # This also runs when Tune stops the trial: `tune.report` then raises SystemExit.
        cohort.stop.remote(config["id"])
        assigner.release.remote(config["id"])


def _await_restart(cohort: Any) -> None:
    """Returns when Ray has restarted the cohort. Raises Ray's error if that takes too long."""
    deadline = time.monotonic() + RESTART_TIMEOUT_S
    while True:
        try:
            ray.get(cohort.ready.remote())
            return
        except COHORT_LOST:
            if time.monotonic() > deadline:
                raise
            time.sleep(1)


def _follow_once(cohort: Any, trial: TrialConfig) -> bool:
    """Passes the student's reports on to Tune. Returns whether the student has ended."""
    for ref in cohort.run.options(num_returns="streaming").remote(trial):
        kind, details = ray.get(ref)
        if kind == REPORTED:
            tune.report(details)
        elif kind == FAILED:
            raise RuntimeError(details)
        else:
            return True
    return False

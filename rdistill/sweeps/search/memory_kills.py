"""Lets Ray Tune retry a trial that Ray's memory monitor has killed.

A call to an actor that the memory monitor has killed raises OutOfMemoryError. Ray Tune does not handle that error, and
the whole sweep would end; see :func:`rdistill._compat.ray.failures_of_actors_as`.
"""

from __future__ import annotations

from contextlib import AbstractContextManager

from ray.exceptions import OutOfMemoryError, RayActorError

from rdistill._compat.ray import failures_of_actors_as
from rdistill.distributed.cluster import killed_for_memory


def memory_kills_retried() -> AbstractContextManager[None]:
    """A context in which Tune retries a trial that was killed for its node's memory, like a trial that crashed."""
    return failures_of_actors_as(lambda error: as_actor_died(error) if isinstance(error, OutOfMemoryError) else error)


def as_actor_died(error: OutOfMemoryError) -> RayActorError:
    """The error that Ray raises for an actor that has died, with the memory monitor's reason and advice."""
    advice = "lower --batch-size, --size or trial.max_concurrent, or raise trial.cpus_per_worker"
    return RayActorError(error_msg=f"{killed_for_memory(error)}; {advice}")

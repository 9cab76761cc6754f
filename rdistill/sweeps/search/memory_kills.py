"""A trial whose process Ray kills because its node runs out of memory: lost like any other, and nothing else ends.

Ray's memory monitor makes a call of it raise OutOfMemoryError, which Ray Tune does not know; see
:func:`rdistill._compat.ray.failures_of_actors_as`.
"""

from __future__ import annotations

from contextlib import AbstractContextManager

from ray.exceptions import OutOfMemoryError, RayActorError

from rdistill._compat.ray import failures_of_actors_as
from rdistill.distributed.cluster import killed_for_memory


def survived() -> AbstractContextManager[None]:
    """While Tune runs within this, a trial killed for its node's memory is tried again as one that crashed."""
    return failures_of_actors_as(lambda error: as_lost(error) if isinstance(error, OutOfMemoryError) else error)


def as_lost(error: OutOfMemoryError) -> RayActorError:
    """The same as what Ray raises of a process that has died."""
    advice = "lower --batch-size, --size or trial.max_concurrent, or raise trial.cpus_per_worker"
    return RayActorError(error_msg=f"{killed_for_memory(error)}; {advice}")

"""A trial whose process Ray kills because its node runs out of memory: lost like any other, and nothing else ends.

Ray's memory monitor makes such a call raise OutOfMemoryError. Ray Tune (2.60) knows RayActorError and RayTaskError, and
ends the whole experiment with "Caught unexpected exception" at any other. What is changed here is private to Ray: a
later version that no longer has it is left as it is.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from ray.exceptions import OutOfMemoryError, RayActorError

from rdistill.distributed.cluster import killed_for_memory


@contextmanager
def survived() -> Iterator[None]:
    """While Tune runs within this, a trial killed for its node's memory is tried again as one that crashed."""
    tunes_own = getattr(_manager(), "_actor_task_failed", None)
    if tunes_own is None:
        yield
        return

    def task_failed(manager: Any, tracked_actor_task: Any, exception: Exception) -> None:
        error = as_lost(exception) if isinstance(exception, OutOfMemoryError) else exception
        tunes_own(manager, tracked_actor_task, error)

    _manager()._actor_task_failed = task_failed
    try:
        yield
    finally:
        _manager()._actor_task_failed = tunes_own


def _manager() -> Any:
    try:
        from ray.air.execution._internal import RayActorManager
    except ImportError:
        return None
    return RayActorManager


def as_lost(error: OutOfMemoryError) -> RayActorError:
    """The same as what Ray raises of a process that has died."""
    advice = "lower --batch-size, --size or trial.max_concurrent, or raise trial.cpus_per_worker"
    return RayActorError(error_msg=f"{killed_for_memory(error)}; {advice}")

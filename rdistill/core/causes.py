"""The errors behind an error."""

from __future__ import annotations

from rdistill._compat.ray import errors_within


def cause_of(error: BaseException) -> BaseException:
    """What a task of Ray's failed of, as an instance of its own kind; an error of any other kind is its own cause."""
    import ray

    return error.as_instanceof_cause() if isinstance(error, ray.exceptions.RayTaskError) else error


def causes_of(error: BaseException, *, also_context: bool = False) -> list[BaseException]:
    """An error, and after it what it was raised from and what Ray has wrapped in it, the nearest first; each once.

    Args:
        error: any.
        also_context: where an error was raised from none, what was being handled when it was raised.
    """
    causes: list[BaseException] = []
    waiting = [error]
    while waiting:
        current = waiting.pop(0)
        if any(current is earlier for earlier in causes):
            continue
        causes.append(current)
        waiting += errors_within(current)
        behind = current.__cause__ or (current.__context__ if also_context else None)
        waiting += [behind] if behind is not None else []
    return causes

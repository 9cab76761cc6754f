"""Finds the errors that caused an error, also those that Ray has wrapped."""

from __future__ import annotations

from rdistill._compat.ray import errors_within


def cause_of(error: BaseException) -> BaseException:
    """The error that a Ray task raised, with its own class; an error that Ray has not wrapped is returned unchanged."""
    import ray

    return error.as_instanceof_cause() if isinstance(error, ray.exceptions.RayTaskError) else error


def causes_of(error: BaseException, *, also_context: bool = False) -> list[BaseException]:
    """An error and all its causes, the nearest first, each once: those it was raised from, and those that Ray wrapped.

    Args:
        error: any error.
        also_context: whether an error without ``__cause__`` is followed to its ``__context__``, the error that was
            being handled when it was raised.
    """
    causes: list[BaseException] = []
    waiting = [error]
    while waiting:
        current = waiting.pop(0)
        if any(current is earlier for earlier in causes):
            continue
        causes.append(current)
        waiting += errors_within(current)
        cause = current.__cause__ or (current.__context__ if also_context else None)
        waiting += [cause] if cause is not None else []
    return causes

"""Skips mmseg's accuracy of each head on the training batch (``acc_seg``) in steps where it is not logged.

A head computes it in every step together with its loss, by a `topk` over the full-size logits and by boolean indexing,
which makes the host wait for the GPU. The training does not depend on it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import wraps
from types import ModuleType
from typing import Any

from rdistill.models.quiet_mmseg import decode_heads
from rdistill.schemas.mappings import Losses

NAME = "accuracy"  # the name under which mmseg's modules of heads import the function
_skipped: ContextVar[bool] = ContextVar("accuracy_skipped", default=False)


@contextmanager
def without_accuracy() -> Iterator[None]:
    """Within the context, the accuracies of heads are None; :func:`drop_skipped` removes them from the losses."""
    for module in modules_with_accuracy():
        accuracy = getattr(module, NAME)
        if not hasattr(accuracy, "__wrapped__"):
            setattr(module, NAME, _unless_skipped(accuracy))
    token = _skipped.set(True)
    try:
        yield
    finally:
        _skipped.reset(token)


def drop_skipped(losses: Losses) -> Losses:
    """A segmentor's losses without the accuracies that were skipped."""
    return {key: value for key, value in losses.items() if value is not None}


def modules_with_accuracy() -> list[ModuleType]:
    """mmseg's modules of heads that compute an accuracy. Other heads are not changed, because they may need it."""
    return [module for module in vars(decode_heads).values() if isinstance(module, ModuleType) and NAME in vars(module)]


def _unless_skipped(accuracy: Callable[..., Any]) -> Callable[..., Any]:
    """mmseg's function, which returns None inside :func:`without_accuracy` and works as before elsewhere."""

    @wraps(accuracy)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        return None if _skipped.get() else accuracy(*args, **kwargs)

    return wrapped

"""mmseg's accuracy of each head on the training batch (``acc_seg``), computed only where somebody reads it.

A head computes it in every step, beside its loss: a `topk` over the full-size logits, and boolean indexing, for which
a GPU has to finish all it was given before. It is no part of what is trained on, so a step that nobody logs can do
without.
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

NAME = "accuracy"  # mmseg's function, as its modules of heads import it
_left_out: ContextVar[bool] = ContextVar("accuracy_left_out", default=False)


@contextmanager
def without_accuracy() -> Iterator[None]:
    """Within, a head's accuracies are None; :func:`drop_left_out` takes them from what its ``loss`` returns."""
    for module in modules_with_accuracy():
        accuracy = getattr(module, NAME)
        if not hasattr(accuracy, "__wrapped__"):
            setattr(module, NAME, _unless_left_out(accuracy))
    token = _left_out.set(True)
    try:
        yield
    finally:
        _left_out.reset(token)


def drop_left_out(losses: Losses) -> Losses:
    """A segmentor's losses without the accuracies that were left out."""
    return {key: value for key, value in losses.items() if value is not None}


def modules_with_accuracy() -> list[ModuleType]:
    """mmseg's modules of heads that compute one. A head from elsewhere may need a number: it is left alone."""
    return [module for module in vars(decode_heads).values() if isinstance(module, ModuleType) and NAME in vars(module)]


def _unless_left_out(accuracy: Callable[..., Any]) -> Callable[..., Any]:
    """mmseg's function, for all in this process as it was, but for code inside :func:`without_accuracy`."""

    @wraps(accuracy)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        return None if _left_out.get() else accuracy(*args, **kwargs)

    return wrapped

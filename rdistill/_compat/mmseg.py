"""Corrects mmseg's losses for batches in which all pixels are ignored. Tested with onedl-mmsegmentation 1.4.2.

Each loss takes ``(prediction, label, ...)``, and the ignored label as the keyword ``ignore_index`` or its attribute
``ignore_label``. Losses with other arguments are not changed.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from types import ModuleType
from typing import Any

from torch import Tensor, nn

LOVASZ_OF_PIXELS = ("lovasz_hinge_flat", "lovasz_softmax_flat")


def allow_wholly_ignored(losses: ModuleType) -> None:
    """Makes every loss of mmseg in this process 0, with a gradient of 0, if all its labels are ignored.

    Without this, the cross-entropy of a single channel raises an error, because it takes the maximum of no labels; Dice
    is 1; and Lovasz per image raises an error or is NaN if all pixels of one image are ignored. If mmseg's functions of
    Lovasz are missing, Lovasz is not corrected.

    Args:
        losses: ``mmseg.models.losses``.
    """
    kinds: list[Any] = [
        kind for kind in vars(losses).values() if isinstance(kind, type) and issubclass(kind, nn.Module)
    ]
    for kind in kinds:
        if not hasattr(kind.forward, "__wrapped__"):
            kind.forward = _zero_without_labels(kind.forward)
    lovasz = getattr(losses, "lovasz_loss", None)
    for name in LOVASZ_OF_PIXELS:
        function = getattr(lovasz, name, None)
        if function is not None and not hasattr(function, "__wrapped__"):
            setattr(lovasz, name, _scalar(function))


def zero_unless(any_label: Tensor, value: Any) -> Any:
    """A loss, or a list of losses, unchanged if ``any_label`` is True; otherwise 0 with a gradient of 0."""
    if isinstance(value, list):
        return [zero_unless(any_label, item) for item in value]
    return value.where(any_label, 0)


def _zero_without_labels(forward: Callable[..., Any]) -> Callable[..., Any]:
    """Wraps the forward of a loss, ``forward(loss, prediction, label, ...)``."""

    @wraps(forward)
    def wrapped(loss: Any, *args: Any, **kwargs: Any) -> Any:
        ignored = kwargs.get("ignore_index", getattr(loss, "ignore_label", None))
        if ignored is None or len(args) < 2:
            return forward(loss, *args, **kwargs)
        prediction, label, *rest = args
        any_label = (label != ignored).any()
        # If there is no label, use class 0 everywhere: the loss is then a finite number, which is not used.
        return zero_unless(any_label, forward(loss, prediction, label.where(any_label, 0), *rest, **kwargs))

    return wrapped


def _scalar(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Makes the Lovasz loss of pixels a scalar: without pixels it is an empty tensor, which cannot be stacked."""

    @wraps(function)
    def wrapped(*args: Any, **kwargs: Any) -> Tensor:
        value = function(*args, **kwargs)
        return value.sum() if value.dim() else value

    return wrapped

"""mmseg's losses where every pixel is ignored. Tried with onedl-mmsegmentation 1.4.2.

Each takes ``(prediction, label, ...)`` and the label that is ignored, as the keyword ``ignore_index`` or its own
``ignore_label``. One that takes them otherwise is left as it is.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from types import ModuleType
from typing import Any

from torch import Tensor, nn

LOVASZ_OF_PIXELS = ("lovasz_hinge_flat", "lovasz_softmax_flat")


def allow_wholly_ignored(losses: ModuleType) -> None:
    """Makes every loss of mmseg, in this process, zero with a gradient of zero where its labels are all ignored.

    On its own, one channel's cross-entropy takes the maximum of no labels and raises, Dice is 1, and Lovasz per image
    raises or is NaN as soon as one image is wholly ignored. Should the functions of Lovasz be gone, that stays so.

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
        of_pixels = getattr(lovasz, name, None)
        if of_pixels is not None and not hasattr(of_pixels, "__wrapped__"):
            setattr(lovasz, name, _scalar(of_pixels))


def zero_unless(any_label: Tensor, value: Any) -> Any:
    """A loss, or a list of them, as it is where the condition holds, or zero with a gradient of zero."""
    if isinstance(value, list):
        return [zero_unless(any_label, item) for item in value]
    return value.where(any_label, 0)


def _zero_without_labels(forward: Callable[..., Any]) -> Callable[..., Any]:
    """The forward of a loss, ``forward(loss, prediction, label, ...)``."""

    @wraps(forward)
    def wrapped(loss: Any, *args: Any, **kwargs: Any) -> Any:
        ignored = kwargs.get("ignore_index", getattr(loss, "ignore_label", None))
        if ignored is None or len(args) < 2:
            return forward(loss, *args, **kwargs)
        prediction, label, *rest = args
        any_label = (label != ignored).any()
        # Labels of class 0 in place of none: the value is then a number, and is not used.
        return zero_unless(any_label, forward(loss, prediction, label.where(any_label, 0), *rest, **kwargs))

    return wrapped


def _scalar(of_pixels: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Lovasz of some pixels as a scalar: of none it is an empty tensor, which does not stack with other images'."""

    @wraps(of_pixels)
    def wrapped(*args: Any, **kwargs: Any) -> Tensor:
        value = of_pixels(*args, **kwargs)
        return value.sum() if value.dim() else value

    return wrapped

"""mmseg's own losses where they go wrong: a batch in which every pixel is ignored, and a mean over several workers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import wraps
from typing import Any

from torch import Tensor, nn

from rdistill.distributed import collectives
from rdistill.models.quiet_mmseg import CrossEntropyLoss, losses, lovasz_loss

LOVASZ_OF_PIXELS = ("lovasz_hinge_flat", "lovasz_softmax_flat")  # functions of mmseg's module


def allow_wholly_ignored() -> None:
    """Makes every loss of mmseg, in this process, zero with a gradient of zero where its labels are all ignored.

    On its own, one channel's cross-entropy takes the maximum of no labels and raises, Dice is 1, and Lovasz per image
    raises or is NaN as soon as one image is wholly ignored.
    """
    for kind in vars(losses).values():
        if isinstance(kind, type) and issubclass(kind, nn.Module) and not hasattr(kind.forward, "__wrapped__"):
            kind.forward = _zero_without_labels(kind.forward)  # type: ignore[method-assign]
    for name in LOVASZ_OF_PIXELS:
        of_pixels = getattr(lovasz_loss, name)
        if not hasattr(of_pixels, "__wrapped__"):
            setattr(lovasz_loss, name, _scalar(of_pixels))


def zero_without_labels(of_task: Mapping[str, Any], label_nhw: Tensor, ignored: int) -> dict[str, Any]:
    """The losses of a segmentor as they are, or zero where all pixels are ignored: also those on edges of the labels.

    Args:
        of_task: name -> loss, or list of them; those that do not name a "loss" are left alone.
        label_nhw: what they were computed from.
        ignored: the label that does not count.
    """
    any_label = (label_nhw != ignored).any()  # stays on the device: nobody waits for it
    return {key: value if "loss" not in key else _where(any_label, value) for key, value in of_task.items()}


def _where(any_label: Tensor, value: Any) -> Any:
    if isinstance(value, list):
        return [_where(any_label, item) for item in value]
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
        return _where(any_label, forward(loss, prediction, label.where(any_label, 0), *rest, **kwargs))

    return wrapped


def _scalar(of_pixels: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Lovasz of some pixels as a scalar: of none it is an empty tensor, which does not stack with other images'."""

    @wraps(of_pixels)
    def wrapped(*args: Any, **kwargs: Any) -> Tensor:
        value = of_pixels(*args, **kwargs)
        return value.sum() if value.dim() else value

    return wrapped


def average_over_workers(student: nn.Module) -> None:
    """Makes the workers' mean of every cross-entropy of a student that of the whole batch.

    With class weights, or with ``avg_non_ignore``, mmseg divides by what this worker's labels weigh; afterwards it is
    by what all workers' weigh, on average. So it is with a sigmoid and ``avg_non_ignore``. Any other loss stays as it
    is.
    """
    for module in student.modules():
        if type(module) is CrossEntropyLoss and not module.use_mask and module.reduction == "mean":
            module.register_forward_hook(_by_weight_of_all, with_kwargs=True)


def _by_weight_of_all(loss: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any], value: Tensor) -> Tensor:
    label, ignored = args[1], kwargs["ignore_index"]
    valid = label != ignored
    if loss.class_weight is not None and not loss.use_sigmoid:  # class weights change no divisor of a sigmoid
        own = (value.new_tensor(loss.class_weight)[label.where(valid, 0)] * valid).sum()
    elif loss.avg_non_ignore:
        own = valid.sum()
    else:
        return value  # a mean over all pixels, of which every worker has as many
    every = collectives.mean(own.float())
    return value * (own / every.clamp(min=1e-12))

"""mmseg's own losses where they go wrong: a batch in which every pixel is ignored, and a mean over several workers."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import wraps
from typing import Any

from torch import Tensor, nn

from rdistill._compat import mmseg as _compat
from rdistill.core.errors import UserError
from rdistill.distributed import collectives
from rdistill.models.quiet_mmseg import CrossEntropyLoss, losses
from rdistill.models.segmentor import decode_heads
from rdistill.schemas.mappings import Losses


def allow_wholly_ignored() -> None:
    """See :func:`rdistill._compat.mmseg.allow_wholly_ignored`."""
    _compat.allow_wholly_ignored(losses)


def zero_without_labels(of_task: Mapping[str, Any], label_nhw: Tensor, ignored: int) -> Losses:
    """The losses of a segmentor as they are, or zero where all pixels are ignored: also those on edges of the labels.

    Args:
        of_task: name -> loss, or list of them; those that do not name a "loss" are left alone.
        label_nhw: what they were computed from.
        ignored: the label that does not count.
    """
    any_label = (label_nhw != ignored).any()  # stays on the device: nobody waits for it
    return {
        key: value if "loss" not in key else _compat.zero_unless(any_label, value) for key, value in of_task.items()
    }


@contextmanager
def losses_of_first_images(student: nn.Module, count: int, images: int) -> Iterator[None]:
    """Within, the losses of a student's heads are those of the first ``count`` of ``images`` in its batch.

    Each head still computes its outputs for all of them. What it compares with labels is cut, not masked: mmseg's
    losses are means over all pixels of a batch, ignored ones included.

    Raises:
        UserError: a head has computed its loss otherwise than by mmseg's ``loss_by_feat``, so of all images.
    """
    if count == images:
        yield
        return
    heads = {name: student.get_submodule(name) for name in decode_heads(student)}
    used: set[str] = set()
    for name, head in heads.items():
        if callable(getattr(head, "loss_by_feat", None)):
            head.loss_by_feat = _of_first(head.loss_by_feat, count, images, used, name)  # type: ignore[assignment]
    try:
        yield
    finally:
        for head in heads.values():
            vars(head).pop("loss_by_feat", None)
    if unused := [name for name in heads if name not in used]:
        raise UserError(
            f"distill.unlabeled: model.{unused[0]} ({type(heads[unused[0]]).__name__}) has no loss by mmseg's "
            f"loss_by_feat, so images without labels cannot be kept out of it; use another head, or no such images"
        )


def _of_first(
    loss_by_feat: Callable[..., Losses], count: int, images: int, used: set[str], name: str
) -> Callable[..., Losses]:
    def first(value: Any) -> Any:
        if isinstance(value, Tensor):
            return value[:count] if value.ndim and len(value) == images else value
        if not isinstance(value, (list, tuple)):
            return value
        # A list of tensors is of outputs, such as those of several stages; any other is of images.
        of_images = len(value) == images and not any(isinstance(item, (Tensor, list, tuple)) for item in value)
        return value[:count] if of_images else type(value)(first(item) for item in value)

    @wraps(loss_by_feat)
    def of_first(*args: Any, **kwargs: Any) -> Losses:
        used.add(name)
        return loss_by_feat(*map(first, args), **{key: first(value) for key, value in kwargs.items()})

    return of_first


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

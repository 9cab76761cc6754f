"""Corrects mmseg's own losses: for a batch in which all pixels are ignored, and for a mean over several workers."""

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


def zero_without_labels(task_losses: Mapping[str, Any], label_nhw: Tensor, ignored: int) -> Losses:
    """Returns the losses of a segmentor unchanged, or 0 if all pixels are ignored, also for losses on label edges.

    Args:
        task_losses: name -> loss, or list of losses; entries without "loss" in their name are not changed.
        label_nhw: the labels from which they were computed.
        ignored: the ignored label.
    """
    any_label = (label_nhw != ignored).any()  # this stays on the device, so that the host does not wait
    return {
        key: value if "loss" not in key else _compat.zero_unless(any_label, value) for key, value in task_losses.items()
    }


@contextmanager
def losses_of_first_images(student: nn.Module, count: int, images: int) -> Iterator[None]:
    """Within the context, the losses of a student's heads are those of the first ``count`` of ``images`` of the batch.

    Each head still computes its outputs for all images. Outputs and labels of the other images are then cut off. It
    would be wrong to ignore them by their labels, because mmseg's losses are means over all pixels of a batch, ignored
    pixels included.

    Raises:
        UserError: a head does not compute its loss by mmseg's ``loss_by_feat``, so the images cannot be cut off.
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
        # A list of tensors has an entry for each output, such as those of several stages; other lists, for each image.
        per_image = len(value) == images and not any(isinstance(item, (Tensor, list, tuple)) for item in value)
        return value[:count] if per_image else type(value)(first(item) for item in value)

    @wraps(loss_by_feat)
    def wrapped(*args: Any, **kwargs: Any) -> Losses:
        used.add(name)
        return loss_by_feat(*map(first, args), **{key: first(value) for key, value in kwargs.items()})

    return wrapped


def average_over_workers(student: nn.Module) -> None:
    """Corrects each cross-entropy of a student, so that its mean over workers is that of the whole batch.

    With class weights, or with ``avg_non_ignore``, mmseg divides by the total weight of this worker's labels. After the
    correction, it divides by the mean of these weights over all workers. Other losses are not changed.
    """
    for module in student.modules():
        if type(module) is CrossEntropyLoss and not module.use_mask and module.reduction == "mean":
            module.register_forward_hook(_divide_by_mean_weight, with_kwargs=True)


def _divide_by_mean_weight(loss: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any], value: Tensor) -> Tensor:
    label, ignored = args[1], kwargs["ignore_index"]
    valid = label != ignored
    if loss.class_weight is not None and not loss.use_sigmoid:  # class weights do not change a sigmoid's divisor
        local_weight = (value.new_tensor(loss.class_weight)[label.where(valid, 0)] * valid).sum()
    elif loss.avg_non_ignore:
        local_weight = valid.sum()
    else:
        return value  # a mean over all pixels, whose number is the same on all workers
    mean_weight = collectives.mean(local_weight.float())
    return value * (local_weight / mean_weight.clamp(min=1e-12))

"""mmseg's own losses where they go wrong: a batch in which every pixel is ignored, and a mean over several workers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from rdistill._compat import mmseg as _compat
from rdistill.distributed import collectives
from rdistill.models.quiet_mmseg import CrossEntropyLoss, losses
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

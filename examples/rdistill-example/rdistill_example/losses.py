"""A loss: a function with its declaration above it."""

import torch

import rdistill
from rdistill.losses import Number
from rdistill.losses.common import full_mask, mean_where


@rdistill.losses.register(
    "ExampleHuber",
    on=("logits", "features"),
    weight=1.0,
    params={"delta": Number(above=0)},
    exchanges=("counts",),  # mean_where divides by the number of valid pixels of all workers
    paper="Huber, 1964",
    formula="mean over valid n, c, h, w of huber(s - t)",
    use_when="Features with outliers.",
)
def huber(student: torch.Tensor, teacher: torch.Tensor, *, mask: torch.Tensor | None = None, delta: float = 1.0):
    """Squared for small differences, absolute for large ones. ``student``, ``teacher``: N x C x H x W."""
    difference = (student - teacher).abs()
    small = 0.5 * difference.square()
    value = torch.where(difference < delta, small, delta * (difference - 0.5 * delta))
    return mean_where(value, full_mask(mask, student))

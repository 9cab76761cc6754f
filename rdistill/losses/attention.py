"""Losses that compare where a feature has its energy, in one layer (AT) or between several (DSD)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rdistill.losses.common import (
    TAU,
    divided_by_length,
    full_mask,
    log_softmax_where,
    mean_where,
    rescaled,
    resize_nearest,
    unit,
)
from rdistill.losses.registry import register
from rdistill.registration.lazy import lazily
from rdistill.registration.parameters import Number

if TYPE_CHECKING:
    import torch
    import torch.nn.functional as F
    from torch import Tensor

lazily(globals(), torch="torch", F="torch.nn.functional")


@register(
    "AT",
    on=("features",),
    weight=1.2,
    channels="any",
    constant_over=("positions",),
    paper="Zagoruyko and Komodakis, ICLR 2017, arXiv 1612.03928",
    formula="mean over n of sum_HW (a_s - a_t)^2, a = mean_c f^2 normalised to length 1 over H W",
    use_when="Any widths, cheap, no adapter: says where to look, not what to see.",
)
def at(student: Tensor, teacher: Tensor) -> Tensor:
    """Attention transfer: where the energy of the feature is.

    a = mean_c f^2, of length 1 over the H * W positions; mean over images of sum_HW (a_s - a_t)^2. Channels
    may differ.

    Reduction: the authors take the mean over H * W too, which shrinks with the resolution: their weight w is
    w / (H * W) here. 1e4 on a 64 x 128 feature (Cityscapes, CIRKD's scripts) is 1.2.

    Paper: Zagoruyko and Komodakis, ICLR 2017, arXiv 1612.03928.
    """
    attention_student, attention_teacher = (unit(_energy(x).flatten(1), dim=1) for x in (student, teacher))
    return (attention_student - attention_teacher).square().sum(dim=1).mean()


@register(
    "DSD",
    on=("logits", "features"),
    weight=0.12,
    params={"tau": TAU, "pixel_weight": Number(at_least=0), "category_weight": Number(at_least=0)},
    constant_over=("positions",),
    layers=True,
    exchanges=("counts",),
    paper="Feng et al., TIP 2021, arXiv 2107.08591",
    formula="pixel_weight * mean over layer pairs, n of sum_HW (r_s - r_t)^2 + category_weight * mean of (G_s - G_t)^2",
    use_when="A list of layers of each model, the last its logits; one pair alone is only part of it.",
)
def dsd(
    students: Sequence[Tensor],
    teachers: Sequence[Tensor],
    *,
    mask: Tensor | None = None,
    tau: float = 4.0,
    pixel_weight: float = 1.0,
    category_weight: float = 1.0,
) -> Tensor:
    """Double similarity distillation, over a list of layers (N x C_i x H_i x W_i) of each model.

    Two parts:

    - pixel: attention of each layer as in :func:`at`, brought to the size of the teacher's last layer;
      residual r = difference of two layers' attentions, of length 1; mean over layer pairs and images of
      sum_HW (r_s - r_t)^2. A single layer has no residual: its attention itself is compared, which is
      :func:`at`.
    - category, on the last layer alone (the authors' is the logits; channels must agree there): p = softmax
      over H * W of f / tau, Gram matrix G = H W * p p^T (C x C); mean over images and C^2 of (G_s - G_t)^2.

    ``mask`` is at the last layer's resolution: masked positions have no attention and leave the softmax.

    Reduction: the authors average over H * W in the pixel part and leave H W out of G. On 64 x 128 features
    (pooled to 32 x 64 for G, a pooling left out here) their weights 1,000 and 10 are 0.12 and 2.4e-6: they
    switch the category part off in all but name; ``category_weight=2e-5`` with weight 0.12 repeats that.

    Paper: Feng et al., TIP 2021, arXiv 2107.08591.
    """
    valid = full_mask(mask, students[-1])
    pixel = mean_where(
        (_residuals(students, valid) - _residuals(teachers, valid)).square().sum(dim=2),
        valid.flatten(1).any(dim=1, keepdim=True),
    )
    category = mean_where(
        (_category_gram(students[-1], valid, tau) - _category_gram(teachers[-1], valid, tau)).square(),
        valid.flatten(1).any(dim=1).view(-1, 1, 1),
    )
    return pixel_weight * pixel + category_weight * category


def _residuals(layers: Sequence[Tensor], valid: Tensor) -> Tensor:
    """Attention residuals of every two layers, N x pairs x HW; of one layer its attention, N x 1 x HW."""
    maps = []
    for layer in layers:
        layer = torch.where(resize_nearest(valid, layer.shape[-2:]), layer, 0.0)
        attention = _energy(layer)
        if attention.shape[-2:] != valid.shape[-2:]:
            attention = F.interpolate(attention, size=valid.shape[-2:], mode="bilinear", align_corners=False)
        maps.append(unit(torch.where(valid, attention, 0.0).flatten(2), dim=2))
    if len(maps) == 1:
        return maps[0]
    pairs = [maps[j] - maps[i] for i in range(len(maps)) for j in range(i + 1, len(maps))]
    residuals = torch.cat(pairs, dim=1)
    # Nearly zero compared with the maps, of length 1: two layers that look at the same leave rounding alone.
    squared = residuals.square().sum(dim=2, keepdim=True)
    return divided_by_length(residuals, squared, torch.ones_like(squared))


def _category_gram(x: Tensor, valid: Tensor, tau: float) -> Tensor:
    """N x C x C: HW times the overlaps of the channels' spatial distributions (1 for uniform ones)."""
    valid = valid.flatten(2)
    log_p = log_softmax_where(x.flatten(2) / tau, valid, dim=2)
    p = torch.where(valid, log_p.exp(), 0.0)
    return valid.sum(dim=2, keepdim=True) * (p @ p.transpose(1, 2))


def _energy(x: Tensor) -> Tensor:
    """N x C x H x W -> N x 1 x H x W: mean over the channels of the squares, up to a factor of each image's own."""
    return rescaled(x).square().mean(dim=1, keepdim=True)

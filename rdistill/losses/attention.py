"""Losses that compare at which positions a feature has its energy, in one layer (AT) or between several (DSD)."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING

from rdistill.losses.common import (
    TAU,
    checked_mask,
    count_images,
    divided_by_length,
    largest_magnitudes,
    resize_nearest,
    unit,
    where_valid,
)
from rdistill.losses.registry import register
from rdistill.registration.lazy import lazily
from rdistill.registration.parameters import Number

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from rdistill.losses import chunked, resize

lazily(globals(), torch="torch", chunked="rdistill.losses.chunked", resize="rdistill.losses.resize")


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
    """Attention transfer: compares at which positions a feature has its energy.

    The mean over images of sum_HW (a_s - a_t)^2, where a = mean_c f^2 is scaled to length 1 over the H * W positions.
    The numbers of channels may differ.

    Reduction: the authors take the mean over H * W too, which shrinks with the resolution: their weight w is
    w / (H * W) here. 1e4 on a 64 x 128 feature (Cityscapes, CIRKD's scripts) is 1.2.

    Paper: Zagoruyko and Komodakis, ICLR 2017, arXiv 1612.03928.
    """
    attention_student, attention_teacher = (unit(_energy(x, None).flatten(1), dim=1) for x in (student, teacher))
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
    valid = checked_mask(mask, students[-1])
    # Attention and Gram matrix of an image without a valid position are 0 on both sides.
    residual = (_residuals(students, valid) - _residuals(teachers, valid)).square()
    gram = (_category_gram(students[-1], valid, tau) - _category_gram(teachers[-1], valid, tau)).square()
    images = count_images(valid, students[-1])
    pixel, category = residual.sum() / residual.shape[1], gram.sum() / gram.shape[1] ** 2
    return (pixel_weight * pixel + category_weight * category) / images


def _residuals(layers: Sequence[Tensor], valid: Tensor | None) -> Tensor:
    """The attention residuals of every two layers, N x pairs x HW; for a single layer its attention, N x 1 x HW."""
    maps = []
    for layer in layers:
        attention = _energy(layer, None if valid is None else resize_nearest(valid, layer.shape[-2:]))
        attention = resize.resize_bilinear(attention, layers[-1].shape[-2:])
        maps.append(unit(where_valid(attention, valid).flatten(2), dim=2))
    if len(maps) == 1:
        return maps[0]
    pairs = [maps[j] - maps[i] for i in range(len(maps)) for j in range(i + 1, len(maps))]
    residuals = torch.cat(pairs, dim=1)
    # The scale of "nearly zero" is the length of the maps, which is 1: equal maps leave nothing but rounding errors.
    squared = residuals.square().sum(dim=2, keepdim=True)
    return divided_by_length(residuals, squared, torch.ones_like(squared))


def _category_gram(x: Tensor, valid: Tensor | None, tau: float) -> Tensor:
    """N x C x C: HW times the overlaps of the channels' spatial distributions (1 for uniform ones)."""
    n, channels, height, width = x.shape
    highest = chunked.maxima(_highest, x.detach(), valid, over=(0, 2), shape=(n, channels, 1, 1))
    sums = chunked.sums(
        partial(_overlaps, tau), x, valid, highest, over=(0, 2), shape=(n, channels**2 + channels, 1, 1),
        gradient=partial(_overlaps_gradient, tau),
    ).flatten(1)  # fmt: skip
    overlaps, total = sums[:, : channels**2].view(n, channels, channels), sums[:, channels**2 :]
    total = total.clamp(min=1)  # no change if a position is valid, because the highest one alone contributes 1
    positions = height * width if valid is None else valid.flatten(1).sum(dim=1).view(-1, 1, 1)
    return positions * overlaps / (total.unsqueeze(1) * total.unsqueeze(2))


def _highest(x: Tensor, valid: Tensor | None) -> Tensor:
    """The largest valid value of each channel."""
    return _low_where_invalid(x, valid).amax(dim=(2, 3), keepdim=True)


def _low_where_invalid(x: Tensor, valid: Tensor | None) -> Tensor:
    # Half of the lowest float, so that subtracting another value does not overflow.
    return x if valid is None else torch.where(valid, x, torch.finfo(x.dtype).min / 2)


def _exponentials(tau: float, x: Tensor, valid: Tensor | None, highest: Tensor) -> Tensor:
    """exp((x - highest) / tau) as N x C x HW; 0 where ``valid`` is False, but 1 in an image without valid positions."""
    return (_low_where_invalid(x, valid) - highest).div_(tau).exp_().flatten(2)


def _overlaps(tau: float, x: Tensor, valid: Tensor | None, highest: Tensor) -> Tensor:
    """Sums over positions, N x (C^2 + C) x 1 x 1: products of the exponentials of every two channels, then the
    exponentials themselves."""
    exponentials = _exponentials(tau, x, valid, highest)
    products = exponentials @ exponentials.transpose(1, 2)
    return torch.cat([products.flatten(1), exponentials.sum(dim=2)], dim=1)[..., None, None]


def _overlaps_gradient(tau: float, upstream: Tensor, x: Tensor, valid: Tensor | None, highest: Tensor) -> Tensor:
    n, channels = x.shape[:2]
    exponentials = _exponentials(tau, x, valid, highest)
    products = upstream[:, : channels**2].reshape(n, channels, channels)
    gradient = (products + products.transpose(1, 2)) @ exponentials
    gradient.add_(upstream[:, channels**2 :].reshape(n, channels, 1))
    return gradient.mul_(exponentials).div_(tau).view(x.shape)


def _energy(x: Tensor, valid: Tensor | None) -> Tensor:
    """N x C x H x W -> N x 1 x H x W: the mean of the squares over the channels, up to a factor for each image."""
    n, _, height, width = x.shape
    largest = largest_magnitudes(x, valid)
    return chunked.sums(
        _mean_square, x, valid, largest, over=(0, 2), shape=(n, 1, height, width), gradient=_mean_square_gradient
    )


def _mean_square(x: Tensor, valid: Tensor | None, largest: Tensor) -> Tensor:
    x = where_valid(x, valid) / largest
    return x.mul_(x).mean(dim=1, keepdim=True)


def _mean_square_gradient(upstream: Tensor, x: Tensor, valid: Tensor | None, largest: Tensor) -> Tensor:
    return (where_valid(x, valid) / largest).mul_(2 * upstream / (x.shape[1] * largest))

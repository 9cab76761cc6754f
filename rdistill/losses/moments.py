"""Losses that compare averages of a feature: over cells (WKDF, HCL), or after a standardisation per channel (Theia)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rdistill.losses.common import NEARLY_ZERO, direction, grid_size, image_scales
from rdistill.losses.registry import register
from rdistill.registration.lazy import lazily
from rdistill.registration.parameters import Number, Whole

if TYPE_CHECKING:
    import torch
    import torch.nn.functional as F
    from torch import Tensor

    from rdistill.losses import chunked

lazily(globals(), torch="torch", F="torch.nn.functional", chunked="rdistill.losses.chunked")


@register(
    "WKDF",
    on=("features",),
    weight=0.02,
    params={"grid": Whole(at_least=1), "mean_weight": Number(at_least=0)},
    paper="Lv et al., NeurIPS 2024, arXiv 2412.08139 (WKD-F)",
    formula="mean over n and cells of sum_c mean_weight * (m_s - m_t)^2 + (d_s - d_t)^2, "
    "m and d = mean and standard deviation of a cell",
    use_when="Teacher and student that see the same things, but not at the same positions.",
)
def wkdf(student: Tensor, teacher: Tensor, *, grid: int = 4, mean_weight: float = 2.0) -> Tensor:
    """WKD-F: Wasserstein distance of two Gaussians of independent channels, one in each cell of a grid.

    Mean over images and at most ``grid`` x ``grid`` cells of sum_c mean_weight * (m_s - m_t)^2 + (d_s - d_t)^2, where
    m is a channel's mean over the cell and d its standard deviation.

    Reduction: as the authors'. Their standard deviation divides by count - 1, which depends on the resolution; here it
    divides by count. Authors: weight 0.02 (ImageNet, mean_weight 2) and 0.08 (CIFAR, mean_weight 4), both
    over the whole image (``grid=1``), with a 1x1 convolution, BatchNorm and ReLU for the student; the convolution alone
    here.

    Paper: Lv et al., NeurIPS 2024, arXiv 2412.08139.
    """
    (mean_s, deviation_s), (mean_t, deviation_t) = (_cell_moments(x, grid) for x in (student, teacher))
    distance = mean_weight * (mean_s - mean_t).square() + (deviation_s - deviation_t).square()
    return distance.sum(dim=1).mean()


def _cell_moments(x: Tensor, grid: int) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of each channel in each cell, N x C x cells x cells each."""
    (rows, columns), (n, channels) = grid_size(x, grid), x.shape[:2]

    def moments(x: Tensor) -> Tensor:
        # Subtract the channel's mean before squaring: the difference of two large squares would lose precision.
        centre = x.detach().mean(dim=(2, 3), keepdim=True)
        x = x - centre
        mean = F.adaptive_avg_pool2d(x, (rows, columns))
        variance = F.adaptive_avg_pool2d(x.square(), (rows, columns)) - mean.square()
        return torch.cat([mean + centre, variance], dim=2)

    mean, variance = chunked.sums(moments, x, over=(0, 1), shape=(n, channels, 2 * rows, columns)).split(rows, dim=2)
    typical = variance.detach().mean(dim=(1, 2, 3), keepdim=True)
    floor = (NEARLY_ZERO**2 * typical).clamp(min=torch.finfo(x.dtype).tiny)
    return mean, variance.clamp(min=floor).sqrt()


@register(
    "HCL",
    on=("features",),
    weight=1.0,
    params={"levels": Whole(at_least=1)},
    paper="Chen et al., CVPR 2021, arXiv 2104.09044 (ReviewKD)",
    formula="(mean of (s - t)^2 + sum over k of 2^-k * mean of (pool_k s - pool_k t)^2) / (1 + sum over k of 2^-k)",
    use_when="A hint like FitNet's that also counts at coarse scales.",
)
def hcl(student: Tensor, teacher: Tensor, *, levels: int = 3) -> Tensor:
    """Hierarchical context loss of ReviewKD: the squared error at full size and of averages over fewer and fewer cells.

    Level k of ``levels`` averages over 2^(levels - k) x 2^(levels - k) cells (4 x 4, 2 x 2, 1 x 1) and counts 2^-k; the
    sum is divided by that of the weights. Levels that are not coarser than the feature are left out.

    Reduction: as the authors', whose weights are 0.6 to 8. Their fusion of several layers (ABF) is left out, because a
    term compares one pair.

    Paper: Chen et al., CVPR 2021, arXiv 2104.09044.
    """
    coarser = [(k, 2 ** (levels - k)) for k in range(1, levels + 1) if 2 ** (levels - k) < min(student.shape[-2:])]

    def values(student: Tensor, teacher: Tensor) -> Tensor:
        difference = student - teacher  # pooling is linear
        value = difference.square().mean(dim=(2, 3), keepdim=True)
        for k, cells in coarser:
            pooled = F.adaptive_avg_pool2d(difference, (cells, cells))
            value = value + pooled.square().mean(dim=(2, 3), keepdim=True) / 2**k
        return value.sum(dim=1, keepdim=True)

    n, channels = student.shape[:2]
    value = chunked.sums(values, student, teacher, over=(0, 1), shape=(n, 1, 1, 1)).sum() / (n * channels)
    return value / (1 + sum(1 / 2**k for k, _ in coarser))


@register(
    "Theia",
    on=("features",),
    weight=1.0,
    module="rdistill.losses.layers:Theia",
    buffers=True,
    exchanges=("statistics",),
    paper="Shang et al., CoRL 2024, arXiv 2407.20179",
    formula="0.9 * mean over n, h, w of 1 - cos(s, z) + 0.1 * mean of smooth L1(s - z), z = t standardised per channel",
    use_when="A foundation model (DINOv2, SigLIP, SAM) as the teacher of features.",
)
def theia(student: Tensor, target: Tensor) -> Tensor:
    """Loss of foundation models' features: 0.9 * (1 - cosine over the channels) + 0.1 * smooth L1, means of both.

    ``target`` is the teacher's feature, standardised per channel (:class:`.layers.Theia`). So its values are around 1,
    where the smooth L1 loss changes from quadratic to linear. The cosine is computed as in :func:`.elements.cosine`.

    Paper: Shang et al., CoRL 2024, arXiv 2407.20179 (the reduction and the weights 0.9 and 0.1 are the authors').
    """

    def values(student: Tensor, target: Tensor, *scales: Tensor) -> Tensor:
        directions = (direction(student, *scales[:2]) - direction(target, *scales[2:])).square().sum(dim=1) / 2
        smooth = F.smooth_l1_loss(student, target, reduction="none").mean(dim=1)
        return (0.9 * directions + 0.1 * smooth).sum(dim=(1, 2)).view(-1, 1, 1, 1)

    scales = (*image_scales(student), *image_scales(target))
    total = chunked.sums(values, student, target, *scales, over=(0, 2), shape=(len(student), 1, 1, 1)).sum()
    return total * student.shape[1] / student.numel()

"""Losses that compare a feature or logits element by element, or position by position."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rdistill.losses.common import divided_by_length, full_mask, mean_where, unit
from rdistill.losses.registry import register
from rdistill.registration.lazy import lazily
from rdistill.registration.parameters import Number

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from rdistill.distributed import collectives

lazily(globals(), torch="torch", collectives="rdistill.distributed.collectives")


@register(
    "FitNet",
    on=("features",),
    weight=10.0,
    channels="projected",
    paper="Romero et al., ICLR 2015, arXiv 1412.6550",
    formula="mean over n, c, h, w of (conv1x1(s) - t)^2",
    use_when="The plainest feature hint; a baseline for the others.",
)
def fitnet(student: Tensor, teacher: Tensor) -> Tensor:
    """FitNet's hint: mean over every element of (s - t)^2, ``student`` already through its convolution.

    The reduction of CIRKD's FitNet, whose weight of 10 holds.

    Paper: Romero et al., ICLR 2015, arXiv 1412.6550.
    """
    return (student - teacher).square().mean()


@register(
    "MGD",
    on=("features",),
    weight=0.08,
    params={"mask_ratio": Number(0.75, at_least=0, below=1, what="a share")},
    module="rdistill.losses.modules:MGD",
    paper="Yang et al., ECCV 2022, arXiv 2205.01529",
    formula="mean over n, h, w of sum_c (g - t)^2, g = conv3(relu(conv3(conv1x1(s) masked)))",
    use_when="Backbone features when imitating them one by one (FitNet) is too strict.",
)
def mgd(student: Tensor, teacher: Tensor) -> Tensor:
    """Masked generative distillation: mean over N, H, W of sum_c (g - t)^2, ``student`` being g.

    Reduction: the authors sum over H and W too: their weight w is w * H * W here. 2e-5 on a 64 x 64 feature
    (their Cityscapes config, 512 x 512 crops) is 0.08.

    Paper: Yang et al., ECCV 2022, arXiv 2205.01529.
    """
    return (student - teacher).square().sum(dim=1).mean()


@register(
    "PKD",
    on=("features",),
    weight=1.0,
    exchanges=("statistics",),
    paper="Cao et al., NeurIPS 2022, arXiv 2207.02039",
    formula="1/2 * mean of (z_s - z_t)^2, z = f standardised per channel over N, H, W",
    use_when="Teacher and student of different families, whose features differ in scale.",
)
def pkd(student: Tensor, teacher: Tensor) -> Tensor:
    """PKD: 1/2 * MSE of features standardised per channel over N, H, W, which is 1 - Pearson of each channel.

    Reduction: the authors' mean over every element; the standard deviation is the population's (theirs
    divides by count - 1, which differs by resolution).

    Paper: Cao et al., NeurIPS 2022, arXiv 2207.02039.
    """

    def standardise(x: Tensor) -> Tensor:
        largest = collectives.mean(x.detach().abs().amax())
        x = x / largest.clamp(min=torch.finfo(x.dtype).tiny)
        usual = collectives.mean(x.detach().square().mean())
        x = x - collectives.mean(x.mean(dim=(0, 2, 3), keepdim=True))
        return divided_by_length(x, collectives.mean(x.square().mean(dim=(0, 2, 3), keepdim=True)), usual)

    return (standardise(student) - standardise(teacher)).square().mean() / 2


@register(
    "L1",
    on=("logits", "features"),
    weight=1.0,
    exchanges=("counts",),
    paper="mean absolute error",
    formula="mean over valid n, c, h, w of |s - t|",
    use_when="Feature imitation with outliers; a baseline.",
)
def l1(student: Tensor, teacher: Tensor, *, mask: Tensor | None = None) -> Tensor:
    """Mean absolute error over valid positions and channels."""
    valid = full_mask(mask, student)
    return mean_where((torch.where(valid, student, 0.0) - torch.where(valid, teacher, 0.0)).abs(), valid)


@register(
    "L2",
    on=("logits", "features"),
    weight=1.0,
    exchanges=("counts",),
    paper="Ba and Caruana, NeurIPS 2014, arXiv 1312.6184 (on logits)",
    formula="mean over valid n, c, h, w of (s - t)^2",
    use_when="Logits without a temperature; PaddleSeg's feature loss.",
)
def l2(student: Tensor, teacher: Tensor, *, mask: Tensor | None = None) -> Tensor:
    """Mean squared error over valid positions and channels. Ba and Caruana, NeurIPS 2014, arXiv 1312.6184."""
    valid = full_mask(mask, student)
    return mean_where((torch.where(valid, student, 0.0) - torch.where(valid, teacher, 0.0)).square(), valid)


@register(
    "Cosine",
    on=("logits", "features"),
    weight=1.0,
    constant_over=("channels",),
    exchanges=("counts",),
    paper="cosine distance per position",
    formula="mean over valid n, h, w of 1 - cos(s, t), cosine over channels",
    use_when="Direction of the feature matters, its length does not.",
)
def cosine(student: Tensor, teacher: Tensor, *, mask: Tensor | None = None) -> Tensor:
    """Mean over valid positions of 1 - cosine over the channels.

    Computed as half the squared distance of the two directions, the same for non-zero vectors, and 0 rather
    than 1 where both are zero (as after a ReLU), so that identical inputs always give 0.
    """
    valid = full_mask(mask, student)
    direction_s, direction_t = (unit(torch.where(valid, x, 0.0), dim=1) for x in (student, teacher))
    return mean_where((direction_s - direction_t).square().sum(dim=1, keepdim=True) / 2, valid)

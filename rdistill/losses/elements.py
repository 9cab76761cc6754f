"""Losses that compare a feature or logits element by element, or position by position."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from rdistill.losses.common import (
    checked_mask,
    count_positions,
    direction,
    divided_by_length,
    image_scales,
    where_valid,
)
from rdistill.losses.registry import register
from rdistill.registration.lazy import lazily
from rdistill.registration.parameters import Number

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from rdistill.distributed import collectives
    from rdistill.losses import chunked

lazily(
    globals(), torch="torch", collectives="rdistill.distributed.collectives", chunked="rdistill.losses.chunked"
)  # fmt: skip


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
    """FitNet's hint: mean over all elements of (s - t)^2; ``student`` has passed its 1x1 convolution already.

    The reduction is that of CIRKD's FitNet, so its weight of 10 can be used.

    Paper: Romero et al., ICLR 2015, arXiv 1412.6550.
    """
    return _squared_error(student, teacher, None) / student.numel()


def _squared_error(student: Tensor, teacher: Tensor, valid: Tensor | None) -> Tensor:
    """Sum of (s - t)^2 over valid n, c, h, w."""

    def values(student: Tensor, teacher: Tensor, valid: Tensor | None) -> Tensor:
        difference = _difference(student, teacher, valid)
        return difference.mul_(difference).sum(dim=(1, 2, 3), keepdim=True)

    def gradient(upstream: Tensor, student: Tensor, teacher: Tensor, valid: Tensor | None) -> Tensor:
        return _difference(student, teacher, valid).mul_(2 * upstream)

    return _sum_of_elements(values, gradient, student, teacher, valid)


def _difference(student: Tensor, teacher: Tensor, valid: Tensor | None) -> Tensor:
    """``student`` - ``teacher`` as a new tensor, with zeros where ``valid`` is False, also in place of NaN."""
    difference = student - teacher
    return difference if valid is None else difference.masked_fill_(~valid, 0.0)


def _sum_of_elements(
    values: Callable[..., Tensor], gradient: Callable[..., Tensor], student: Tensor, *others: Tensor | None
) -> Tensor:
    """The sum of ``values``, which works on each element by itself."""
    shape = (len(student), 1, 1, 1)
    return chunked.sums(values, student, *others, over=(0, 1, 2), shape=shape, gradient=gradient).sum()


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
    return _squared_error(student, teacher, None) * student.shape[1] / student.numel()


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

    channels = student.shape[1]

    def moments(student: Tensor, teacher: Tensor, *scales: Tensor) -> Tensor:
        student, teacher = (
            (x / largest).sub_(mean) for x, largest, mean in ((student, *scales[:2]), (teacher, *scales[2:]))
        )
        products = (student * student, teacher * teacher, student.mul_(teacher))
        return torch.cat([product.sum(dim=(2, 3), keepdim=True) for product in products], dim=1)

    def gradient(upstream: Tensor, student: Tensor, teacher: Tensor, *scales: Tensor) -> Tensor:
        own, _, shared = upstream.split(channels, dim=1)
        student, teacher = (
            (x / largest).sub_(mean) for x, largest, mean in ((student, *scales[:2]), (teacher, *scales[2:]))
        )
        return student.mul_(2 * own).add_(teacher.mul_(shared)).div_(scales[0])

    # The means are used as constants: subtracting a mean does not change the gradient of the sums of squares.
    (largest_s, usual_s, mean_s), (largest_t, usual_t, mean_t) = (_batch_scales(x) for x in (student, teacher))
    sums = chunked.sums(
        moments, student, teacher, largest_s, mean_s, largest_t, mean_t, over=(0, 2),
        shape=(len(student), 3 * channels, 1, 1), gradient=gradient,
    )  # fmt: skip
    positions = student.numel() / channels
    variance_s, variance_t, covariance = (collectives.mean(sums.sum(dim=0)) / positions).split(channels)
    factor_s = divided_by_length(torch.ones_like(variance_s), variance_s, usual_s)
    factor_t = divided_by_length(torch.ones_like(variance_t), variance_t, usual_t)
    squares = factor_s.square() * variance_s + factor_t.square() * variance_t
    return (squares / 2 - factor_s * factor_t * covariance).mean()


def _batch_scales(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The scales of a batch over all workers, without a gradient.

    They are the largest magnitude (1 x 1 x 1 x 1) and, in units of it, the mean of all squares (a scalar) and the mean
    of each channel (1 x C x 1 x 1).
    """
    x = x.detach()
    channels = x.shape[1]

    def magnitude(x: Tensor) -> Tensor:
        return x.abs().amax(dim=(0, 1, 2, 3), keepdim=True)

    def moments(x: Tensor, largest: Tensor) -> Tensor:
        x = x / largest
        mean = x.sum(dim=(2, 3), keepdim=True)
        return torch.cat([mean, x.mul_(x).sum(dim=(2, 3), keepdim=True)], dim=1)

    largest = collectives.mean(chunked.maxima(magnitude, x, over=(0, 2, 1), shape=(1, 1, 1, 1)))
    largest = largest.clamp(min=torch.finfo(x.dtype).tiny)
    sums = chunked.sums(moments, x, largest, over=(0, 2), shape=(len(x), 2 * channels, 1, 1))
    means = collectives.mean(sums.sum(dim=0, keepdim=True)) * channels / x.numel()
    return largest, means[:, channels:].mean(), means[:, :channels]


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

    def values(student: Tensor, teacher: Tensor, valid: Tensor | None) -> Tensor:
        return _difference(student, teacher, valid).abs_().sum(dim=(1, 2, 3), keepdim=True)

    def gradient(upstream: Tensor, student: Tensor, teacher: Tensor, valid: Tensor | None) -> Tensor:
        return _difference(student, teacher, valid).sign_().mul_(upstream)

    valid = checked_mask(mask, student)
    total = _sum_of_elements(values, gradient, student, teacher, valid)
    return total / (count_positions(valid, student) * student.shape[1])


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
    valid = checked_mask(mask, student)
    return _squared_error(student, teacher, valid) / (count_positions(valid, student) * student.shape[1])


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

    It is computed as half of the squared distance of the two directions. This is the same for non-zero vectors, and 0
    instead of 1 where both are zero (as after a ReLU), so that identical inputs always give 0.
    """

    def values(student: Tensor, teacher: Tensor, valid: Tensor | None, *scales: Tensor) -> Tensor:
        direction_s = direction(where_valid(student, valid), *scales[:2])
        direction_t = direction(where_valid(teacher, valid), *scales[2:])
        return (direction_s - direction_t).square().sum(dim=(1, 2, 3), keepdim=True) / 2

    valid = checked_mask(mask, student)
    scales = (*image_scales(student, valid), *image_scales(teacher, valid))
    total = chunked.sums(
        values, student, teacher, valid, *scales, over=(0, 2), shape=(len(student), 1, 1, 1)
    ).sum()  # fmt: skip
    return total / count_positions(valid, student)

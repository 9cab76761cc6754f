"""Losses that compare softmaxes: over the classes (KL, DIST, DKD) or over the positions (CWD)."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

from rdistill.losses.common import (
    NEARLY_ZERO,
    TAU,
    checked_mask,
    count_images,
    count_positions,
    resize_nearest,
    unit,
    unless_all_valid,
    valid_labels,
    where_valid,
)
from rdistill.losses.registry import register
from rdistill.registration.lazy import lazily
from rdistill.registration.parameters import Number, Switch

if TYPE_CHECKING:
    import torch
    import torch.nn.functional as F
    from torch import Tensor

    from rdistill.distributed import collectives
    from rdistill.losses import chunked

lazily(
    globals(), torch="torch", F="torch.nn.functional", collectives="rdistill.distributed.collectives",
    chunked="rdistill.losses.chunked",
)  # fmt: skip


@register(
    "KL",
    on=("logits", "features"),
    weight=3.0,
    at="label",
    params={"tau": TAU, "per_class": Switch(), "standardize": Switch(min_channels=3)},
    constant_over=("channels",),
    softmax=True,
    exchanges=("counts",),
    paper="Hinton et al., 2015, arXiv 1503.02531; Liu et al., CVPR 2019, arXiv 1903.04197",
    formula="tau^2 * mean over valid pixels of sum_c p_t (log p_t - log p_s); per_class: also / C",
    use_when="First choice on logits; per_class=True and weight 3 is PaddleSeg's optic-disc recipe.",
)
def kl(
    student: Tensor,
    teacher: Tensor,
    *,
    mask: Tensor | None = None,
    tau: float = 1.0,
    per_class: bool = False,
    standardize: bool = False,
) -> Tensor:
    """Pixel-wise knowledge distillation: KL(teacher || student) over the classes, mean over valid pixels.

    T^2 * mean_pixels sum_c p_t (log p_t - log p_s), with p = softmax(logits / T) over C.

    ``per_class`` also divides by C: PaddleSeg's KLLoss (and any ``KLDivLoss(reduction='mean')``), which
    its published optic-disc recipe (cross-entropy x 1 + KL x 3, two classes) was tuned with.

    ``standardize`` compares (logits - mean over C) / standard deviation over C of each pixel, both sides: the student
    need not reach the teacher's confidence (Sun et al., CVPR 2024, arXiv 2403.01427; authors: T 2, weight 9). The
    logits of two classes are then +0.7 and -0.7 whatever they were, so it needs three.

    Paper: Hinton et al., 2015, arXiv 1503.02531; per pixel in Liu et al., CVPR 2019, arXiv 1903.04197.
    """
    valid = checked_mask(mask, student)
    values, gradient = partial(_divergence, tau), partial(_divergence_gradient, tau)
    total = _over_pixels(values, gradient, student, teacher, unless_all_valid(valid), standardize=standardize)
    value = tau**2 * total / count_positions(valid, student)
    return value / student.shape[1] if per_class else value


def _over_pixels(
    values: Callable[..., Tensor],
    gradient: Callable[..., Tensor],
    student: Tensor,
    teacher: Tensor,
    valid: Tensor | None,
    *others: Tensor,
    standardize: bool,
) -> Tensor:
    """The sum over all pixels of ``values``, which works on the logits of each pixel.

    With ``standardize``, chunks are whole images, because standardised logits depend on the scale of their image.
    """
    over: tuple[int, ...] = (0, 2)
    if standardize:
        over = (0,)
        values, gradient = _standardised_values(values), _standardised_gradient(gradient)
    shape = (len(student), 1, 1, 1)
    return chunked.sums(values, student, teacher, valid, *others, over=over, shape=shape, gradient=gradient).sum()


def _standardised_values(values: Callable[..., Tensor]) -> Callable[..., Tensor]:
    def standardise_first(student: Tensor, teacher: Tensor, valid: Tensor | None, *others: Tensor) -> Tensor:
        student, teacher = (standardised(where_valid(logits, valid)) for logits in (student, teacher))
        return values(student, teacher, valid, *others)

    return standardise_first


def _standardised_gradient(gradient: Callable[..., Tensor]) -> Callable[..., Tensor]:
    def through_standardisation(
        upstream: Tensor, student: Tensor, teacher: Tensor, valid: Tensor | None, *others: Tensor
    ) -> Tensor:
        with torch.enable_grad():
            student = student.detach().requires_grad_()
            inner = standardised(where_valid(student, valid))
        teacher = standardised(where_valid(teacher, valid))
        return torch.autograd.grad(inner, student, gradient(upstream, inner.detach(), teacher, valid, *others))[0]

    return through_standardisation


def _divergence(tau: float, student: Tensor, teacher: Tensor, valid: Tensor | None) -> Tensor:
    """KL over the classes, summed over the positions of each image; at positions that are not valid it is 0."""
    log_p_student = F.log_softmax(_softened(student, valid, tau), dim=1)
    log_p_teacher = F.log_softmax(_softened(teacher, valid, tau), dim=1)
    return torch.sub(log_p_teacher, log_p_student).mul_(log_p_teacher.exp_()).sum(dim=(1, 2, 3), keepdim=True)


def _divergence_gradient(
    tau: float, upstream: Tensor, student: Tensor, teacher: Tensor, valid: Tensor | None
) -> Tensor:
    p_student = F.softmax(_softened(student, valid, tau), dim=1)
    p_teacher = F.softmax(_softened(teacher, valid, tau), dim=1)
    return p_student.sub_(p_teacher).mul_(upstream / tau)


def _softened(logits: Tensor, valid: Tensor | None, tau: float) -> Tensor:
    """``logits`` / ``tau``, 0 at positions that are not valid; maybe ``logits`` itself, so do not write into it."""
    logits = where_valid(logits, valid)
    return logits if tau == 1 else logits / tau


def standardised(logits: Tensor) -> Tensor:
    """(logits - mean) / standard deviation over the classes of each pixel; N x C x H x W.

    Like the authors', the variance is divided by count - 1. Pixels whose logits are all nearly equal fade to 0.
    """
    centred = logits - logits.mean(dim=1, keepdim=True)
    return unit(centred, dim=1) * (logits.shape[1] - 1) ** 0.5


@register(
    "CWD",
    on=("logits", "features"),
    weight=3.0,
    weight_on_features=50.0,
    params={"tau": TAU},
    constant_over=("positions",),
    exchanges=("counts",),
    paper="Shu et al., ICCV 2021, arXiv 2011.13256",
    formula="tau^2 / (N C) * sum over n, c of KL(softmax_HW(t / tau) || softmax_HW(s / tau))",
    use_when="Strong default for dense prediction, on logits (weight 3) and on features (weight 50).",
)
def cwd(student: Tensor, teacher: Tensor, *, mask: Tensor | None = None, tau: float = 4.0) -> Tensor:
    """Channel-wise distillation: each channel is a distribution over the H * W positions.

    T^2 / (N * C) * sum_n sum_c KL(softmax_HW(t / T) || softmax_HW(s / T)), as published. Masked pixels leave
    the softmax; images without a valid pixel leave N.

    Paper: Shu et al., ICCV 2021, arXiv 2011.13256. Authors: T 4, weight 3 on logits and 50 on features.
    """

    def values(student: Tensor, teacher: Tensor, valid: Tensor | None) -> Tensor:
        log_p_student, log_p_teacher = (F.log_softmax(_plane(x, valid, tau), dim=2) for x in (student, teacher))
        divergence = torch.sub(log_p_teacher, log_p_student).mul_(log_p_teacher.exp_())
        return divergence.sum(dim=(1, 2)).view(-1, 1, 1, 1)

    def gradient(upstream: Tensor, student: Tensor, teacher: Tensor, valid: Tensor | None) -> Tensor:
        p_student, p_teacher = (F.softmax(_plane(x, valid, tau), dim=2) for x in (student, teacher))
        return p_student.sub_(p_teacher).view(student.shape).mul_(upstream / tau)

    valid = checked_mask(mask, student)
    total = chunked.sums(
        values, student, teacher, unless_all_valid(valid), over=(0, 1), shape=(len(student), 1, 1, 1), gradient=gradient
    ).sum()  # fmt: skip
    return tau**2 * total / (count_images(valid, student) * student.shape[1])


def _plane(x: Tensor, valid: Tensor | None, tau: float) -> Tensor:
    """``x`` / ``tau`` as N x C x HW; positions that are not valid get a value so low that a softmax over HW is 0 there.

    If no position is valid, all have this value, and the softmax is uniform on both sides.
    """
    x = (x / tau).flatten(2)
    return x if valid is None else x.masked_fill_(~valid.flatten(2), torch.finfo(x.dtype).min / 2)


@register(
    "DIST",
    on=("logits", "features"),
    weight=1.0,
    params={"tau": TAU, "beta": Number(at_least=0), "gamma": Number(at_least=0)},
    constant_over=("channels",),
    softmax=True,
    exchanges=("counts", "statistics"),
    paper="Huang et al., NeurIPS 2022, arXiv 2205.10536",
    formula="tau^2 * (beta * mean over pixels of 1 - Pearson over c + gamma * mean over c of 1 - Pearson over pixels)",
    use_when="Many classes and a much stronger teacher; weak with two classes.",
)
def dist(
    student: Tensor,
    teacher: Tensor,
    *,
    mask: Tensor | None = None,
    tau: float = 1.0,
    beta: float = 1.0,
    gamma: float = 1.0,
) -> Tensor:
    """DIST: match correlations instead of probabilities.

    tau^2 * (beta * inter + gamma * intra) of p = softmax(logits / tau): inter = mean over valid pixels of
    1 - Pearson over the classes, intra = mean over classes of 1 - Pearson over all valid pixels of the batch.
    The reduction and the weights (1 and 1) are the authors'. They add a floor of 1e-8 to the product of two lengths
    over all pixels, which has no effect with many pixels. Here, a probability counts as constant if its standard
    deviation is below a ten-thousandth of its mean; so the small probabilities of a class that the batch does not have
    still count.

    Weakness: over two classes Pearson is +1 or -1 whatever the probabilities, so the inter part has no
    gradient and only the intra part teaches.

    Paper: Huang et al., NeurIPS 2022, arXiv 2205.10536.
    """
    classes = student.shape[1]
    valid = checked_mask(mask, student)
    count = count_positions(valid, student)
    applied = unless_all_valid(valid)
    (mean_s, centre_s), (mean_t, centre_t) = (_class_means(x, applied, tau, count) for x in (student, teacher))
    sums = chunked.sums(
        partial(_correlation_sums, tau), student, teacher, applied, mean_s, centre_s, mean_t, centre_t, over=(0, 2),
        shape=(len(student), 1 + 3 * classes, 1, 1), gradient=partial(_correlation_gradient, tau),
    ).sum(dim=0)  # fmt: skip
    inter = sums[0].sum() / count
    variance_s, variance_t, covariance = (collectives.mean(sums[1:]) / count).split(classes)
    per_class = 1 - _pearson(variance_s, variance_t, covariance)
    intra = per_class.mean() if valid is None else per_class.mean() * (collectives.mean(valid.sum()) > 0)
    return tau**2 * (beta * inter + gamma * intra)


def _class_means(x: Tensor, valid: Tensor | None, tau: float, count: Tensor) -> tuple[Tensor, Tensor]:
    """For each class: its mean probability over ``count`` positions as a divisor, and its mean after the division.

    Both are 1 x C x 1 x 1, without a gradient: subtracting a constant mean does not change the gradient of the sum of
    squares. The mean after the division is 1, or 0 for a class whose probabilities are all 0.
    """

    def probabilities(x: Tensor, valid: Tensor | None) -> Tensor:
        return _times(F.softmax(_softened(x, valid, tau), dim=1), valid).sum(dim=(2, 3), keepdim=True)

    sums = chunked.sums(probabilities, x.detach(), valid, over=(0, 2), shape=(*x.shape[:2], 1, 1))
    mean = collectives.mean(sums.sum(dim=0, keepdim=True)) / count
    divisor = mean.clamp(min=torch.finfo(x.dtype).tiny)
    return divisor, mean / divisor


def _correlation_sums(tau: float, student: Tensor, teacher: Tensor, valid: Tensor | None, *means: Tensor) -> Tensor:
    """The sums over positions that DIST needs, N x (1 + 3 C) x 1 x 1.

    The first entry is 1 - Pearson over the classes. Then, for each class, in units of its mean, come the squared
    deviations of the student, those of the teacher, and the products of both.
    """
    p_student, p_teacher = (F.softmax(_softened(x, valid, tau), dim=1) for x in (student, teacher))
    distance = 1 - _pearson(*_moments(*_over_classes(p_student, p_teacher)))
    x, y = _within_classes(p_student, p_teacher, valid, means)
    products = [(a * b).sum(dim=(2, 3), keepdim=True) for a, b in ((x, x), (y, y), (x, y))]
    return torch.cat([_times(distance, valid).sum(dim=(2, 3), keepdim=True), *products], dim=1)


def _correlation_gradient(
    tau: float, upstream: Tensor, student: Tensor, teacher: Tensor, valid: Tensor | None, *means: Tensor
) -> Tensor:
    p_student, p_teacher = (F.softmax(_softened(x, valid, tau), dim=1) for x in (student, teacher))
    of_pixel, of_class = upstream[:, :1], upstream[:, 1:]
    own, _, shared = of_class.chunk(3, dim=1)
    x, y = _over_classes(p_student, p_teacher)
    variance_x, variance_y, covariance = _moments(x, y)
    lengths = variance_x.clamp(min=NEARLY_ZERO**2).sqrt() * variance_y.clamp(min=NEARLY_ZERO**2).sqrt()
    along_y = _times(of_pixel / lengths, valid)
    along_x = along_y * covariance / variance_x.clamp(min=NEARLY_ZERO**2) * (variance_x >= NEARLY_ZERO**2)
    gradient = x.mul_(along_x).sub_(y.mul_(along_y))
    x, y = _within_classes(p_student, p_teacher, valid, means)
    # The division comes last: for a class without any probability the deviation is 0 and the mean is nearly 0.
    gradient.add_(x.mul_(2 * own).add_(y.mul_(shared)).div_(means[0]))
    # Multiply by the derivative of the softmax to get the gradient of the logits.
    return gradient.sub_((gradient * p_student).sum(dim=1, keepdim=True)).mul_(p_student).div_(tau)


def _over_classes(p_student: Tensor, p_teacher: Tensor) -> tuple[Tensor, Tensor]:
    """Deviations from the mean over the classes, which is 1 / C, in units of this mean."""
    classes = p_student.shape[1]
    return p_student.mul(classes).sub_(1), p_teacher.mul(classes).sub_(1)


def _within_classes(
    p_student: Tensor, p_teacher: Tensor, valid: Tensor | None, means: tuple[Tensor, ...]
) -> tuple[Tensor, Tensor]:
    """Deviations from the mean of each class, in units of this mean; 0 at positions that are not valid."""
    x, y = p_student.div(means[0]).sub_(means[1]), p_teacher.div(means[2]).sub_(means[3])
    return _times(x, valid), _times(y, valid)


def _times(x: Tensor, valid: Tensor | None) -> Tensor:
    """Like :func:`where_valid`, but faster and for finite values only."""
    return x if valid is None else x * valid


def _moments(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The two variances and the covariance over the classes, given the deviations."""
    variance_x, variance_y, covariance = ((a * b).mean(dim=1, keepdim=True) for a, b in ((x, x), (y, y), (x, y)))
    return variance_x, variance_y, covariance


def _pearson(variance_x: Tensor, variance_y: Tensor, covariance: Tensor) -> Tensor:
    """The Pearson correlation of values in units of their mean; 0 if one of them is constant."""
    # Values with a smaller relative standard deviation count as constant; the floor avoids a division of 0 by 0.
    return covariance / (variance_x.clamp(min=NEARLY_ZERO**2).sqrt() * variance_y.clamp(min=NEARLY_ZERO**2).sqrt())


@register(
    "DKD",
    on=("logits",),
    weight=1.0,
    at="label",
    params={
        "tau": TAU,
        "alpha": Number(at_least=0),
        "beta": Number(at_least=0),
        "standardize": Switch(False, min_channels=3),
    },
    softmax=True,
    exchanges=("counts",),
    paper="Zhao et al., CVPR 2022, arXiv 2203.08679",
    formula="tau^2 * mean over valid pixels of alpha * KL(target or not) + beta * KL(among the others)",
    use_when="Many classes and a confident teacher; with two classes only the alpha part exists.",
)
def dkd(
    student: Tensor,
    teacher: Tensor,
    label: Tensor,
    *,
    ignore_index: int = 255,
    tau: float = 4.0,
    alpha: float = 1.0,
    beta: float = 8.0,
    standardize: bool = False,
) -> Tensor:
    """Decoupled knowledge distillation: KL split into the target class and the others.

    tau^2 * mean over valid pixels of alpha * KL of (p_target, 1 - p_target) + beta * KL among the other
    classes. ``label`` (N x H x W, long) is resized to the logits. The reduction is the authors', whose mean is over
    images.

    ``standardize`` is that of :func:`kl`.

    Weakness: with two classes there is only one other class, and the beta part is zero.

    Errors: ``ValueError`` for fewer than two classes.

    Paper: Zhao et al., CVPR 2022, arXiv 2203.08679.
    """
    classes = student.shape[1]
    if classes < 2:
        raise ValueError(f"dkd needs logits of at least 2 classes, got {classes}")
    label = resize_nearest(label, student.shape[-2:])
    valid = valid_labels(label, classes, ignore_index).unsqueeze(1)
    target = torch.where(valid, label.unsqueeze(1), 0)
    weights = (tau, alpha, beta)
    values, gradient = partial(_decoupled, weights), partial(_decoupled_gradient, weights)
    applied = unless_all_valid(valid)
    total = _over_pixels(values, gradient, student, teacher, applied, target, standardize=standardize)
    return tau**2 * total / count_positions(valid, student)


def _decoupled(
    weights: tuple[float, float, float], student: Tensor, teacher: Tensor, valid: Tensor | None, target: Tensor
) -> Tensor:
    """Both parts of :func:`dkd`, summed over the valid positions of each image."""
    tau, alpha, beta = weights

    def parts(logits: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Log-probabilities: of the target, of all other classes together, and of each class among the others."""
        logits = where_valid(logits, valid) / tau
        log_p, others = F.log_softmax(logits, dim=1), F.log_softmax(_without(logits, target), dim=1)
        # log(1 - p_target), computed from the other classes, because 1 - p has no correct digits for a confident
        # teacher. It is the difference of the two log-softmaxes in any other class; the largest one is most exact.
        rest = _without(log_p, target).amax(dim=1, keepdim=True) - others.amax(dim=1, keepdim=True)
        return log_p.gather(1, target), rest, others

    target_s, rest_s, others_s = parts(student)
    target_t, rest_t, others_t = parts(teacher)
    target_kl = target_t.exp() * (target_t - target_s) + rest_t.exp() * (rest_t - rest_s)
    others_kl = torch.sub(others_t, others_s).mul_(others_t.exp_()).sum(dim=1, keepdim=True)
    return _times(alpha * target_kl + beta * others_kl, valid).sum(dim=(1, 2, 3), keepdim=True)


def _decoupled_gradient(
    weights: tuple[float, float, float],
    upstream: Tensor,
    student: Tensor,
    teacher: Tensor,
    valid: Tensor | None,
    target: Tensor,
) -> Tensor:
    """The gradient of :func:`_decoupled`; with q = softmax among the other classes (0 at the target) it is

    alpha * (p_s - (p_t at the target, 0 elsewhere) - (1 - p_t of the target) * q_s) + beta * (q_s - q_t).
    """
    tau, alpha, beta = weights
    student, teacher = (where_valid(logits, valid) / tau for logits in (student, teacher))
    others_s, others_t = (F.softmax(_without(logits, target), dim=1) for logits in (student, teacher))
    p_teacher = F.softmax(teacher, dim=1)
    target_t = p_teacher.gather(1, target)
    rest_t = p_teacher.scatter_(1, target, 0.0).sum(dim=1, keepdim=True)
    gradient = F.softmax(student, dim=1).scatter_add_(1, target, -target_t).mul_(alpha)
    gradient.sub_(others_t.mul_(beta)).add_(others_s.mul_(beta - alpha * rest_t))
    return gradient.mul_(_times(upstream / tau, valid))


def _without(x: Tensor, target: Tensor) -> Tensor:
    """``x`` with a value at the target class that is so low that a softmax is 0 there."""
    return x.scatter(1, target, torch.finfo(x.dtype).min / 2)

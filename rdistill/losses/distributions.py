"""Losses that compare softmaxes: over the classes (KL, DIST, DKD) or over the positions (CWD)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rdistill.losses.common import (
    NEARLY_ZERO,
    TAU,
    count_over_workers,
    full_mask,
    log_softmax_where,
    mean_where,
    resize_nearest,
    unit,
    valid_labels,
)
from rdistill.losses.registry import register
from rdistill.registration.lazy import lazily
from rdistill.registration.parameters import Number, Switch

if TYPE_CHECKING:
    import torch
    import torch.nn.functional as F
    from torch import Tensor

    from rdistill.distributed import collectives

lazily(globals(), torch="torch", F="torch.nn.functional", collectives="rdistill.distributed.collectives")


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
    valid = full_mask(mask, student)
    student, teacher = (torch.where(valid, logits, 0.0) for logits in (student, teacher))
    if standardize:
        student, teacher = standardised(student), standardised(teacher)
    log_p_student = F.log_softmax(student / tau, dim=1)
    log_p_teacher = F.log_softmax(teacher / tau, dim=1)
    per_pixel = (log_p_teacher.exp() * (log_p_teacher - log_p_student)).sum(dim=1, keepdim=True)
    value = tau**2 * mean_where(per_pixel, valid)
    return value / student.shape[1] if per_class else value


def standardised(logits: Tensor) -> Tensor:
    """(logits - mean) / standard deviation over the classes, each pixel by itself; N x C x H x W.

    The deviation is the authors' (count - 1). Pixels whose logits are nearly all equal fade to 0.
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
    valid = full_mask(mask, student).flatten(2)  # N x 1 x HW
    log_p_student = log_softmax_where(student.flatten(2) / tau, valid, dim=2)
    log_p_teacher = log_softmax_where(teacher.flatten(2) / tau, valid, dim=2)
    terms = torch.where(valid, log_p_teacher.exp() * (log_p_teacher - log_p_student), 0.0)
    return tau**2 * mean_where(terms.sum(dim=2, keepdim=True), valid.any(dim=2, keepdim=True))


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
    The authors' reduction and weights (1 and 1). Their floor of 1e-8 under the product of two lengths over all pixels
    is no matter with many; here a probability counts as constant if its standard deviation is below a ten-thousandth
    of its mean, so that classes which are absent from a batch, and small everywhere, do not.

    Weakness: over two classes Pearson is +1 or -1 whatever the probabilities, so the inter part has no
    gradient and only the intra part teaches.

    Paper: Huang et al., NeurIPS 2022, arXiv 2205.10536.
    """
    valid = full_mask(mask, student)
    p_student = F.softmax(torch.where(valid, student, 0.0) / tau, dim=1)
    p_teacher = F.softmax(torch.where(valid, teacher, 0.0) / tau, dim=1)
    everywhere = torch.ones_like(p_student, dtype=torch.bool)
    inter = mean_where(1 - _pearson(p_student, p_teacher, everywhere, dims=(1,)), valid)
    per_class = 1 - _pearson(p_student, p_teacher, valid.expand_as(p_student), dims=(0, 2, 3))
    intra = per_class.mean() * (collectives.mean(valid.sum()) > 0)
    return tau**2 * (beta * inter + gamma * intra)


def _pearson(x: Tensor, y: Tensor, valid: Tensor, *, dims: tuple[int, ...]) -> Tensor:
    """Pearson correlation of two positive tensors over ``dims`` (kept) among ``valid``; 0 where either is constant.

    Over the images (dimension 0) of all workers.
    """
    shared = 0 in dims
    count = valid.sum(dim=dims, keepdim=True)
    count = count_over_workers(count) if shared else count.clamp(min=1)

    def mean(values: Tensor) -> Tensor:
        total = torch.where(valid, values, 0.0).sum(dim=dims, keepdim=True)
        return (collectives.mean(total) if shared else total) / count

    def deviations(values: Tensor) -> tuple[Tensor, Tensor]:
        """From the mean, in units of it, since probabilities of 1e-12 vary too; and their standard deviation."""
        values = values / mean(values).detach().clamp(min=torch.finfo(values.dtype).tiny)
        values = torch.where(valid, values - mean(values), 0.0)
        # What varies by less than this share of itself is constant; a floor, since 0 cannot be divided by 0.
        return values, mean(values.square()).clamp(min=NEARLY_ZERO**2).sqrt()

    (x, std_x), (y, std_y) = deviations(x), deviations(y)
    return mean(x * y) / (std_x * std_y)


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
    classes. ``label`` (N x H x W, long) is resized to the logits. The authors' reduction (theirs over
    images).

    ``standardize`` is that of :func:`kl`.

    Weakness: with two classes the other class is alone, and the beta part is zero.

    Errors: ``ValueError`` for fewer than two classes.

    Paper: Zhao et al., CVPR 2022, arXiv 2203.08679.
    """
    classes = student.shape[1]
    if classes < 2:
        raise ValueError(f"dkd needs logits of at least 2 classes, got {classes}")
    label = resize_nearest(label, student.shape[-2:])
    valid = valid_labels(label, classes, ignore_index).unsqueeze(1)
    target = torch.where(valid, label.unsqueeze(1), 0)
    others = torch.ones_like(student, dtype=torch.bool).scatter(1, target, False)

    def parts(logits: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        logits = torch.where(valid, logits, 0.0)
        logits = (standardised(logits) if standardize else logits) / tau
        log_p = F.log_softmax(logits, dim=1)
        # log(1 - p_target) from the other classes' own terms: 1 - p loses every digit of a confident teacher.
        rest = torch.logsumexp(torch.where(others, log_p, torch.finfo(log_p.dtype).min / 2), dim=1, keepdim=True)
        return log_p.gather(1, target), rest, log_softmax_where(logits, others, dim=1)

    target_s, rest_s, others_s = parts(student)
    target_t, rest_t, others_t = parts(teacher)
    target_kl = target_t.exp() * (target_t - target_s) + rest_t.exp() * (rest_t - rest_s)
    others_kl = torch.where(others, others_t.exp() * (others_t - others_s), 0.0).sum(dim=1, keepdim=True)
    return tau**2 * mean_where(alpha * target_kl + beta * others_kl, valid)

"""Losses that treat the pixels at class boundaries separately: BPKD."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rdistill.losses.common import TAU, resize_nearest, valid_labels
from rdistill.losses.distributions import cwd, kl
from rdistill.losses.registry import register
from rdistill.registration.lazy import lazily
from rdistill.registration.parameters import Number, Whole

if TYPE_CHECKING:
    import torch
    import torch.nn.functional as F
    from torch import Tensor

lazily(globals(), torch="torch", F="torch.nn.functional")


@register(
    "BPKD",
    on=("logits",),
    weight=1.0,
    at="label",
    params={
        "width": Whole(at_least=1),
        "edge": Number(at_least=0),
        "body": Number(at_least=0),
        "tau": TAU,
        "body_tau": TAU,
    },
    softmax=True,
    exchanges=("counts",),
    paper="Liu et al., WACV 2024, arXiv 2306.08075",
    formula="edge * KL over the classes, mean over edge pixels + body * CWD over the positions of the other pixels",
    use_when="Thin or touching objects, where a small student loses most at the boundaries.",
)
def bpkd(
    student: Tensor,
    teacher: Tensor,
    label: Tensor,
    *,
    num_classes: int,
    ignore_index: int = 255,
    width: int = 2,
    edge: float = 1.0,
    body: float = 1.0,
    tau: float = 1.0,
    body_tau: float = 4.0,
) -> Tensor:
    """Boundary-privileged distillation: KL over the classes at class boundaries, CWD over the positions elsewhere.

    A labelled pixel belongs to the edge if the square that extends ``width`` pixels around it holds labelled pixels of
    two or more classes (dilation minus erosion of each class), and otherwise to the body. The value is ``edge`` *
    :func:`.distributions.kl` over the edge pixels + ``body`` * :func:`.distributions.cwd` over the body pixels, where
    each channel is a distribution over the positions. ``label`` (N x H x W, long) is resized to the logits; ``width``
    is in pixels of that resolution.

    The authors have published no training code. This follows the paper, but not its constants.

    Paper: Liu et al., WACV 2024, arXiv 2306.08075.
    """
    label = resize_nearest(label, student.shape[-2:])
    valid = valid_labels(label, num_classes, ignore_index)
    at_edge = valid & _near_two_classes(label, valid, num_classes, width)
    edge_part = kl(student, teacher, mask=at_edge, tau=tau)
    return edge * edge_part + body * cwd(student, teacher, mask=valid & ~at_edge, tau=body_tau)


def _near_two_classes(label: Tensor, valid: Tensor, num_classes: int, width: int) -> Tensor:
    """N x H x W bool: whether the square that extends ``width`` pixels around has labels of two or more classes."""
    size = 2 * width + 1
    # float32 holds every label exactly; every device has max pooling for it, which pads with minus infinity.
    highest = F.max_pool2d(torch.where(valid, label, -1).float().unsqueeze(1), size, stride=1, padding=width)
    lowest = -F.max_pool2d(-torch.where(valid, label, num_classes).float().unsqueeze(1), size, stride=1, padding=width)
    return (highest > lowest).squeeze(1)

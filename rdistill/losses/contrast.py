"""Losses that contrast what belongs together with what does not, without a memory: AfDCD."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rdistill.losses.common import TAU, grid_size
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
    "AfDCD",
    on=("features",),
    weight=0.01,
    params={
        "mask_ratio": Number(0.75, at_least=0, below=1, what="a share"),
        "contrast": Number(10.0, at_least=0),
        "tau": TAU,
        "grid": Whole(at_least=1),
        "patch": Whole(at_least=1),
        "groups": Whole(at_least=2),
    },
    module="rdistill.losses.layers:AfDCD",
    constant_over=("channels",),
    paper="Fan et al., NeurIPS 2023, arXiv 2312.04168",
    formula="MGD + contrast * mean over anchors of -log softmax of -|g - t|_1 / tau: a channel group of a position "
    "against the other groups of its patch",
    use_when="MGD's setting, with many classes; authors report the best of the losses of 2023 on CamVid.",
)
def omni_contrast(
    student: Tensor, teacher: Tensor, *, tau: float = 0.07, grid: int = 16, patch: int = 4, groups: int = 16
) -> Tensor:
    """The contrast of augmentation-free dense contrastive distillation; ``student`` is the generated feature.

    Both features are max-pooled to at most ``grid`` x ``grid`` cells and cut into patches of ``patch`` x ``patch``
    cells; cells at the right and at the bottom that do not fill a patch are dropped. The channels are split into at
    most ``groups`` groups of equal size. An anchor is one group at one cell of the student. Its positive is the same
    group and cell of the teacher; its negatives are all cells of the teacher's patch in the other groups. The value is
    the mean over anchors of -log softmax(-L1 distance / tau) at the positive.
    Memory: N * (grid / patch)^2 * (patch^2 * groups)^2 floats for each tensor (17 MB at 4 images and the defaults).

    Unlike all other losses here, it does not have its minimum at identical inputs, and it depends on the scale of the
    features (L1 distances with a fixed ``tau``), as in the authors' code.

    Reduction: the authors divide the sum over an image by its cells, but not by the groups: their weight w is
    w * groups here. They pool by 4 x 4 (64 x 64 features to 16 x 16; not at all on CamVid).

    Errors: ``ValueError`` if the number of channels has no divisor from 2 to ``groups``.

    Paper: Fan et al., NeurIPS 2023, arXiv 2312.04168.
    """
    count = number_of_groups(student.shape[1], groups)
    if not count:
        raise ValueError(f"{student.shape[1]} channels cannot be split into 2 to {groups} groups of one size")
    anchors, candidates = (
        _patches(F.adaptive_max_pool2d(x, grid_size(x, grid)), patch, count) for x in (student, teacher)
    )
    distances = torch.cdist(anchors, candidates, p=1)  # patches x (cells * groups) x (cells * groups)
    patches, size = distances.shape[:2]
    group = torch.arange(size, device=distances.device) % count
    same = torch.eye(size, dtype=torch.bool, device=distances.device)
    left_out = ~same & (group.unsqueeze(0) == group.unsqueeze(1))

    def similarity(distances: Tensor) -> Tensor:
        return (distances / -tau).masked_fill_(left_out, -torch.inf)

    def contrast(distances: Tensor) -> Tensor:
        positive = F.log_softmax(similarity(distances), dim=2).diagonal(dim1=1, dim2=2)
        return -positive.sum(dim=1).view(-1, 1, 1)

    def gradient(upstream: Tensor, distances: Tensor) -> Tensor:
        p = F.softmax(similarity(distances), dim=2)
        p.diagonal(dim1=1, dim2=2).sub_(1)
        return p.mul_(upstream / -tau)

    total = chunked.sums(contrast, distances, over=(0,), shape=(patches, 1, 1), gradient=gradient).sum()
    return total / (patches * size)


def number_of_groups(channels: int, groups: int) -> int:
    """The largest number, from 2 to ``groups``, of equal groups into which the channels can be split; 0 if none."""
    return next((count for count in range(min(groups, channels), 1, -1) if channels % count == 0), 0)


def _patches(x: Tensor, patch: int, groups: int) -> Tensor:
    """N x C x H x W -> patches x (cells of a patch * groups) x (C / groups); the group is the fastest index."""
    n, channels, height, width = x.shape
    rows, columns = min(patch, height), min(patch, width)
    x = x[..., : height // rows * rows, : width // columns * columns]
    x = x.reshape(n, groups, channels // groups, height // rows, rows, width // columns, columns)
    # n, patch row, patch column, row, column, group, channel
    return x.permute(0, 3, 5, 4, 6, 1, 2).reshape(-1, rows * columns * groups, channels // groups)

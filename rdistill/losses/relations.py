"""Losses that compare relations: between parts of an image, between images of a batch, and to earlier batches."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rdistill.losses.common import (
    TAU,
    cell_averages,
    count_over_workers,
    direction,
    full_mask,
    grid_size,
    image_scales,
    log_softmax_where,
    resize_nearest,
    unit,
    valid_labels,
    where_valid,
    with_contiguous_gradient,
)
from rdistill.losses.registry import register
from rdistill.registration.lazy import lazily
from rdistill.registration.parameters import Whole

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
    "SKD",
    on=("features",),
    weight=0.5,
    params={"grid": Whole(at_least=1)},
    channels="any",
    constant_over=("channels", "positions"),
    paper="Liu et al., CVPR 2019, arXiv 1903.04197",
    formula="mean over n and cell pairs of (A_t - A_s)^2, A = cosines between max-pooled grid cells",
    use_when="Features of different widths without an adapter; beside KL.",
)
def skd_pairwise(student: Tensor, teacher: Tensor, *, grid: int = 16) -> Tensor:
    """Structured knowledge distillation, pair-wise part: cosines between the cells of a coarse grid.

    The features are max-pooled to at most ``grid`` x ``grid`` cells; A are the cosines between all cells of an image.
    The value is the mean over images and cell pairs of (A_t - A_s)^2. The numbers of channels may differ. Memory:
    N * grid^4 floats for each side.

    Reduction: the authors' mean over (hw)^2 and N. Their weight of 0.5 is for cells half as wide as the feature,
    ``grid=2``; the weight of 10 in CIRKD's scripts is for cells of 2 x 2 positions. With a fixed grid, value and cost
    do not depend on the resolution.

    Gradient: the true gradient of the value, as in CIRKD's code. The authors' code treats the lengths of the vectors as
    constants. Its value is the same, but its gradient has a further part along each vector, which changes no cosine.

    Paper: Liu et al., CVPR 2019, arXiv 1903.04197.
    """
    affinity_student, affinity_teacher = (_cell_cosines(x, grid) for x in (student, teacher))
    return (affinity_student - affinity_teacher).square().mean()


def _cell_cosines(x: Tensor, grid: int) -> Tensor:
    """N x C x H x W -> N x cells x cells."""
    cells = unit(F.adaptive_max_pool2d(x, grid_size(x, grid)).flatten(2), dim=1)
    return cells.transpose(1, 2) @ cells


@register(
    "IFVD",
    on=("features",),
    weight=20.0,
    channels="any",
    constant_over=("channels", "positions"),
    exchanges=("counts",),
    paper="Wang et al., ECCV 2020",
    formula="mean over labelled pixels of (cos(s, class centre of s) - cos(t, class centre of t))^2",
    use_when="Features close to the classifier, several classes in a crop; authors' weights 20 to 200.",
)
def ifvd(student: Tensor, teacher: Tensor, label: Tensor, *, num_classes: int, ignore_index: int = 255) -> Tensor:
    """Intra-class feature variation: how far each pixel is from the centre of its class in the same image.

    The mean over labelled pixels of (cos(s, centre of s) - cos(t, centre of t))^2. The numbers of channels may differ;
    ``label`` (N x H x W, long) is resized to the features.

    Reduction: the authors' mean also includes ignored pixels, where the difference is 0. If v is the share of valid
    pixels, their weight (20 in CIRKD's scripts, 200 in TorchDistiller) corresponds to weight * v here.

    Paper: Wang et al., ECCV 2020.
    """
    label = resize_nearest(label, student.shape[-2:]).unsqueeze(1)  # N x 1 x H x W
    valid = valid_labels(label, num_classes, ignore_index)
    own_class = torch.where(valid, label, 0)
    positions = (own_class, valid)
    student_centres, teacher_centres = (
        (_class_centres(x, *positions, num_classes), *image_scales(x, valid)) for x in (student, teacher)
    )
    cosines = chunked.sums(
        _cosines_to_centres, teacher, *positions, *teacher_centres, over=(0, 2), shape=valid.shape
    )  # fmt: skip

    def squares(student: Tensor, cosines: Tensor, own_class: Tensor, valid: Tensor, *centres: Tensor) -> Tensor:
        difference = _cosines_to_centres(student, own_class, valid, *centres) - cosines
        return where_valid(difference, valid).square().sum(dim=(1, 2, 3), keepdim=True)

    total = chunked.sums(
        squares, student, cosines, *positions, *student_centres, over=(0, 2), shape=(len(student), 1, 1, 1)
    ).sum()  # fmt: skip
    return total / count_over_workers(valid.sum())


def _class_centres(x: Tensor, own_class: Tensor, valid: Tensor, num_classes: int) -> Tensor:
    """The direction of the mean feature of each class in each image, N x C x 1 x classes; 0 for an absent class."""

    def masks(own_class: Tensor, valid: Tensor) -> Tensor:
        """N x classes x HW, bool."""
        classes = torch.arange(num_classes, device=own_class.device).view(1, -1, 1, 1)
        return ((own_class == classes) & valid).flatten(2)

    def counts(own_class: Tensor, valid: Tensor) -> Tensor:
        return masks(own_class, valid).sum(dim=2)[:, None, None]

    def sums(x: Tensor, own_class: Tensor, valid: Tensor) -> Tensor:
        return (where_valid(x, valid).flatten(2) @ masks(own_class, valid).to(x.dtype).transpose(1, 2)).unsqueeze(2)

    def gradient(upstream: Tensor, x: Tensor, own_class: Tensor, valid: Tensor) -> Tensor:
        return (upstream.squeeze(2) @ masks(own_class, valid).to(x.dtype)).view(x.shape)

    n, channels = x.shape[:2]
    count = chunked.sums(counts, own_class, valid, over=(0, 2), shape=(n, 1, 1, num_classes))
    total = chunked.sums(
        sums, x, own_class, valid, over=(0, 2), shape=(n, channels, 1, num_classes), gradient=gradient
    )  # fmt: skip
    return unit(total / count.clamp(min=1), dim=1)


def _cosines_to_centres(x: Tensor, own_class: Tensor, valid: Tensor, centres: Tensor, *scales: Tensor) -> Tensor:
    """The cosine of each position to the centre of its class, N x 1 x H x W; any finite value at ignored positions."""
    directions = direction(where_valid(x, valid), *scales).flatten(2)
    cosines = centres.squeeze(2).transpose(1, 2) @ directions  # N x classes x HW
    return cosines.gather(1, own_class.flatten(2)).view(own_class.shape)


@register(
    "CIRKD",
    on=("features",),
    weight=1.0,
    params={"tau": TAU, "grid": Whole(at_least=1)},
    channels="any",
    constant_over=("channels", "positions"),
    exchanges=("embeddings",),
    paper="Yang et al., CVPR 2022, arXiv 2204.06986 (mini-batch part)",
    formula="mean over images i, j and rows of KL(softmax(t_i t_j / tau) || softmax(s_i s_j / tau))",
    use_when="Relations between the images of a batch; needs at least 2 images a worker.",
)
def cirkd_pairs(student: Tensor, teacher: Tensor, *, tau: float = 0.1, grid: int = 16) -> Tensor:
    """Cross-image relations, mini-batch part: cosines between the pixels of every two images of the batch.

    The features are average-pooled to at most ``grid`` x ``grid``. For images i and j, each pixel of i has a
    distribution over the pixels of j, softmax(cosines / tau). The value is KL(teacher || student), averaged over i, j
    and pixels. The numbers of channels may differ. Memory: three tensors of (N * grid^2)^2 floats (50 MB in all at 8
    images and grid 16).

    Reduction: as the authors' (/ B^2, mean over rows, no tau^2), so their weight of 1 can be used. They compare
    every pixel of the feature, or half the resolution; with a fixed grid the cost does not depend on the resolution.

    Paper: Yang et al., CVPR 2022, arXiv 2204.06986.
    """
    relations_s, relations_t = (_relations(x, tau, grid) for x in (student, teacher))
    rows, images, _ = relations_s.shape
    total = chunked.sums(
        _row_divergence, relations_s, relations_t, over=(0,), shape=(rows, 1, 1), gradient=_row_divergence_gradient
    ).sum()  # fmt: skip
    return total / (rows * images)


def _relations(x: Tensor, tau: float, grid: int) -> Tensor:
    """N x C x H x W -> (N * nodes) x all N x nodes: the cosines of each node to the nodes of each image, over ``tau``.

    Rows are the images of this worker, columns the images of all workers.
    """
    nodes = unit(cell_averages(x, grid).flatten(2), dim=1).transpose(1, 2)
    n, count, channels = nodes.shape
    others = collectives.gather(nodes).reshape(-1, channels)
    return (nodes.reshape(n * count, channels) / tau @ others.T).view(n * count, -1, count)


def _row_divergence(student: Tensor, teacher: Tensor) -> Tensor:
    """KL of the softmaxes over the last dimension, summed over the images: rows x 1 x 1."""
    log_p_student, log_p_teacher = (F.log_softmax(x, dim=2) for x in (student, teacher))
    divergence = torch.sub(log_p_teacher, log_p_student).mul_(log_p_teacher.exp_())
    return divergence.sum(dim=(1, 2), keepdim=True)


def _row_divergence_gradient(upstream: Tensor, student: Tensor, teacher: Tensor) -> Tensor:
    return F.softmax(student, dim=2).sub_(F.softmax(teacher, dim=2)).mul_(upstream)


@register(
    "CIRKDMemory",
    on=("features",),
    weight=0.1,
    params={
        "tau": TAU,
        "kd_tau": TAU,
        "grid": Whole(at_least=1),
        "pixel_queue_size": Whole(20000, at_least=1),
        "region_queue_size": Whole(2000, at_least=1),
        "pixels_per_class": Whole(16, at_least=1),
        "pixel_contrast_size": Whole(4096, at_least=1),
        "region_contrast_size": Whole(1024, at_least=1),
    },
    module="rdistill.losses.modules:CIRKDMemory",
    constant_over=("channels",),
    label=True,
    buffers=True,
    exchanges=("counts", "embeddings"),
    paper="Yang et al., CVPR 2022, arXiv 2204.06986 (memory part)",
    formula="kd_tau^2 * mean over anchors of KL(q_t || q_s), q = softmax(x keys / (tau kd_tau)), "
    "for the keys of pixels + of regions",
    use_when="Beside CIRKD when the batch is small; costs memory: classes x queue x channels floats.",
)
def cirkd_memory(
    student: Tensor,
    teacher: Tensor,
    keys: Tensor,
    *,
    mask: Tensor | None = None,
    key_mask: Tensor | None = None,
    tau: float = 0.1,
    kd_tau: float = 1.0,
    grid: int = 32,
) -> Tensor:
    """Cross-image relations, memory part: the similarity of each pixel to embeddings of the teacher from earlier steps.

    The value is kd_tau^2 * mean over anchors of KL(q_t || q_s), q = softmax(cosines to ``keys`` / tau / kd_tau).
    ``keys`` is K x C, each of length 1; ``key_mask`` (K, bool) says which of them are filled. Anchors are at most
    ``grid`` x ``grid`` valid pixels of each image at equal distances (pixels and not averages, so that each belongs to
    one class). Memory: N * grid^2 * K floats for each tensor (67 MB at 4 images and 4,096 keys).

    Reduction: the authors' mean over anchors (they take every pixel), so their weight of 0.1 can be used.

    Paper: Yang et al., CVPR 2022, arXiv 2204.06986.
    """
    size = grid_size(student, grid)
    valid = resize_nearest(full_mask(mask, student), size)
    filled = torch.ones(len(keys), dtype=torch.bool, device=keys.device) if key_mask is None else key_mask
    keys = keys.detach().to(student.dtype)

    def relations(x: Tensor) -> Tensor:
        anchors = with_contiguous_gradient(torch.where(valid, resize_nearest(x, size), 0.0))
        return unit(anchors, dim=1).flatten(2).transpose(1, 2) / (tau * kd_tau) @ keys.T

    def logs(student: Tensor, teacher: Tensor) -> list[Tensor]:
        return [log_softmax_where(x, filled, dim=2) for x in (student, teacher)]

    def divergence(student: Tensor, teacher: Tensor, valid: Tensor) -> Tensor:
        log_q_student, log_q_teacher = logs(student, teacher)
        terms = torch.sub(log_q_teacher, log_q_student).mul_(log_q_teacher.exp_())
        return torch.where(valid & filled, terms, 0.0).sum(dim=(1, 2), keepdim=True)

    def gradient(upstream: Tensor, student: Tensor, teacher: Tensor, valid: Tensor) -> Tensor:
        log_q_student, log_q_teacher = logs(student, teacher)
        return torch.where(valid & filled, log_q_student.exp_().sub_(log_q_teacher.exp_()).mul_(upstream), 0.0)

    anchors = valid.flatten(2).transpose(1, 2)  # N x anchors x 1
    total = chunked.sums(
        divergence, relations(student), relations(teacher), anchors, over=(0, 1), shape=(len(valid), 1, 1),
        gradient=gradient,
    ).sum()  # fmt: skip
    return kd_tau**2 * total / count_over_workers(valid.sum())

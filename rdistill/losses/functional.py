"""Distillation losses as pure functions: tensors in, one scalar out.

What holds for all of them:

- ``student`` and ``teacher`` are N x C x H x W and of one size (:mod:`rdistill.losses.modules` adapts them);
  no gradient reaches the teacher;
- they compute in float32 (float64 stays float64), autocast switched off inside;
- the value does not depend on the batch size or the resolution: every reduction is a mean over pictures and
  over positions, or a sum over a distribution. Where that departs from the authors' reduction, the docstring
  says so and what the authors' weight becomes;
- ``mask`` is N x H x W bool, True = valid, at the tensors' resolution. Masked pixels are replaced before
  anything is computed, so that neither their values (inf, NaN) nor their gradients exist; with every pixel
  masked the loss is a zero that is still connected to the graph;
- no absolute size counts: what is compared by direction or correlation reads the same at any scale of its input,
  and "nearly zero" is measured against the rest of that input;
- nothing waits for the device: no python branch looks at a tensor's value;
- with several workers, value (their mean) and gradient (as DDP averages it) are those of one worker with the whole
  batch: :mod:`rdistill.distributed.collectives`;
- mismatched shapes raise ``ValueError``.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Concatenate, ParamSpec

import torch
import torch.nn.functional as F
from torch import Tensor

from rdistill.distributed import collectives

# A vector counts as zero below this share of the length that is usual around it. Generous on purpose: the
# gradient of a direction grows as its vector shrinks, and after a ReLU many positions are exactly zero.
NEARLY_ZERO = 1e-4

Params = ParamSpec("Params")
Loss = Callable[Concatenate[Tensor, Tensor, Params], Tensor]


def without_autocast(device_type: str) -> AbstractContextManager[object]:
    """Switch autocast off for ``device_type``; a no-op where autocast does not exist (the meta device)."""
    if torch.amp.is_autocast_available(device_type):
        return torch.autocast(device_type, enabled=False)
    return nullcontext()


def at_least_float32(x: Tensor) -> Tensor:
    """``x`` in float32, or unchanged when it is float64 (which gradient checks need)."""
    return x if x.dtype == torch.float64 else x.float()


def resize_nearest(x: Tensor, size: Sequence[int]) -> Tensor:
    """Nearest resize of N x H x W (labels, masks) or N x C x H x W to ``size``, exact for integers and bool.

    Row i takes row floor(i * H / h): the pixel a strided convolution of kernel 3 and padding 1 is centred on,
    hence the one that matches a backbone's feature, and the choice of the authors of IFVD and CIRKD.
    """
    (height, width), (new_height, new_width) = x.shape[-2:], size
    if (height, width) == (new_height, new_width):
        return x
    rows = torch.arange(new_height, device=x.device) * height // new_height
    columns = torch.arange(new_width, device=x.device) * width // new_width
    return x[..., rows[:, None], columns]


def with_logit_channels(logits: Tensor, channels: int) -> Tensor:
    """Logits of two classes with one channel, z, or with two; any others as they are.

    ``sigmoid(z)`` is ``softmax((0, z))[1]``, and ``softmax((a, b))[1]`` is ``sigmoid(b - a)``.
    """
    if logits.shape[1] == channels:
        return logits
    if channels == 1:
        return logits[:, 1:] - logits[:, :1]
    return torch.cat([torch.zeros_like(logits), logits], dim=1)


def _loss(*, same_channels: bool) -> Callable[[Loss[Params]], Loss[Params]]:
    """Wrap a loss: check shapes, cut the teacher off, compute in float32 outside autocast."""

    def decorate(function: Loss[Params]) -> Loss[Params]:
        @functools.wraps(function)
        def wrapper(student: Tensor, teacher: Tensor, /, *args: Params.args, **kwargs: Params.kwargs) -> Tensor:
            _check_shapes(function.__name__, student, teacher, same_channels=same_channels)
            with without_autocast(student.device.type):
                return function(at_least_float32(student), at_least_float32(teacher.detach()), *args, **kwargs)

        return wrapper

    return decorate


def _check_shapes(name: str, student: Tensor, teacher: Tensor, *, same_channels: bool) -> None:
    same = student.shape == teacher.shape
    if not same_channels:
        same = student.shape[:1] + student.shape[2:] == teacher.shape[:1] + teacher.shape[2:]
    if student.ndim != 4 or teacher.ndim != 4 or not same:
        raise ValueError(
            f"{name}: student and teacher must be N x C x H x W and agree in "
            f"{'every axis' if same_channels else 'N, H and W'}, "
            f"got {tuple(student.shape)} and {tuple(teacher.shape)}"
        )


def _full_mask(mask: Tensor | None, like: Tensor) -> Tensor:
    """``mask`` as N x 1 x H x W bool, all True when there is none."""
    n, _, height, width = like.shape
    if mask is None:
        return torch.ones((n, 1, height, width), dtype=torch.bool, device=like.device)
    if mask.shape != (n, height, width):
        raise ValueError(f"mask must be {(n, height, width)} like the tensors, got {tuple(mask.shape)}")
    return mask.bool().unsqueeze(1)


def _mean(values: Tensor, valid: Tensor) -> Tensor:
    """Mean of ``values`` where ``valid`` (broadcastable to it); a zero in the graph where nothing is.

    Divided by the workers' mean count, so that the mean over workers is that of the whole batch.
    """
    valid = valid.expand_as(values)
    return torch.where(valid, values, 0.0).sum() / _count(valid.sum())


def _count(own: Tensor) -> Tensor:
    """How many there are to divide by: the mean over workers of their ``own``; not zero."""
    return own.clamp(min=1) if collectives.count() == 1 else collectives.mean(own).clamp(min=1 / collectives.count())


@_loss(same_channels=True)
def kl(
    student: Tensor,
    teacher: Tensor,
    *,
    mask: Tensor | None = None,
    tau: float = 1.0,
    per_class: bool = False,
) -> Tensor:
    """Pixel-wise knowledge distillation: KL(teacher || student) over the classes, mean over valid pixels.

    T^2 * mean_pixels sum_c p_t (log p_t - log p_s), with p = softmax(logits / T) over C.

    ``per_class`` also divides by C: PaddleSeg's KLLoss (and any ``KLDivLoss(reduction='mean')``), which
    its published optic-disc recipe (cross-entropy x 1 + KL x 3, two classes) was tuned with.

    Paper: Hinton et al., 2015, arXiv 1503.02531; per pixel in Liu et al., CVPR 2019, arXiv 1903.04197.
    """
    valid = _full_mask(mask, student)
    log_p_student = F.log_softmax(torch.where(valid, student, 0.0) / tau, dim=1)
    log_p_teacher = F.log_softmax(torch.where(valid, teacher, 0.0) / tau, dim=1)
    per_pixel = (log_p_teacher.exp() * (log_p_teacher - log_p_student)).sum(dim=1, keepdim=True)
    value = tau**2 * _mean(per_pixel, valid)
    return value / student.shape[1] if per_class else value


@_loss(same_channels=True)
def cwd(student: Tensor, teacher: Tensor, *, mask: Tensor | None = None, tau: float = 4.0) -> Tensor:
    """Channel-wise distillation: each channel is a distribution over the H * W positions.

    T^2 / (N * C) * sum_n sum_c KL(softmax_HW(t / T) || softmax_HW(s / T)), as published. Masked pixels leave
    the softmax; pictures without a valid pixel leave N.

    Paper: Shu et al., ICCV 2021, arXiv 2011.13256. Authors: T 4, weight 3 on logits and 50 on features.
    """
    valid = _full_mask(mask, student).flatten(2)  # N x 1 x HW
    log_p_student = _log_softmax_where(student.flatten(2) / tau, valid, dim=2)
    log_p_teacher = _log_softmax_where(teacher.flatten(2) / tau, valid, dim=2)
    terms = torch.where(valid, log_p_teacher.exp() * (log_p_teacher - log_p_student), 0.0)
    return tau**2 * _mean(terms.sum(dim=2, keepdim=True), valid.any(dim=2, keepdim=True))


def _log_softmax_where(x: Tensor, valid: Tensor, *, dim: int) -> Tensor:
    """log_softmax over ``dim`` among ``valid`` entries; the others hold something finite, to be dropped."""
    # Half the smallest float: minus a maximum it neither overflows nor leaves any probability behind.
    return F.log_softmax(torch.where(valid, x, torch.finfo(x.dtype).min / 2), dim=dim)


@_loss(same_channels=False)
def skd_pairwise(student: Tensor, teacher: Tensor, *, grid: int = 16) -> Tensor:
    """Structured knowledge distillation, pair-wise part: cosines between the cells of a coarse grid.

    Max-pool to at most ``grid`` x ``grid`` cells, A = cosines between all cells of a picture, mean over
    pictures and cell pairs of (A_t - A_s)^2. Channels may differ. Memory: N * grid^4 floats a side.

    Reduction: the authors' own mean over (hw)^2 and N. Their weight of 0.5 belongs to cells half the feature wide,
    ``grid=2``; that of CIRKD's scripts, 10, to cells of 2 x 2 positions. A fixed grid keeps value and cost off
    the resolution.

    Gradient: that of the value, as CIRKD's code has it. The authors' own takes the lengths of the vectors for
    constants: the same value, but a gradient that also has a part along each vector, which changes no cosine.

    Paper: Liu et al., CVPR 2019, arXiv 1903.04197.
    """
    affinity_student, affinity_teacher = (_cell_cosines(x, grid) for x in (student, teacher))
    return (affinity_student - affinity_teacher).square().mean()


def _cell_cosines(x: Tensor, grid: int) -> Tensor:
    """N x C x H x W -> N x cells x cells."""
    cells = unit(F.adaptive_max_pool2d(x, _grid_size(x, grid)).flatten(2), dim=1)
    return cells.transpose(1, 2) @ cells


def _grid_size(x: Tensor, grid: int) -> tuple[int, int]:
    return min(grid, x.shape[-2]), min(grid, x.shape[-1])


def unit(x: Tensor, *, dim: int) -> Tensor:
    """``x`` scaled to length 1 over ``dim``; nearly zero vectors, compared with the rest of the picture, fade to 0."""
    x = _rescaled(x)
    squared = x.square().sum(dim=dim, keepdim=True)
    usual = squared.detach().mean(dim=tuple(range(1, x.ndim)), keepdim=True)
    return _divided_by_length(x, squared, usual)


def _rescaled(x: Tensor) -> Tensor:
    """``x`` with 1 as the largest magnitude in each picture, so that no square of it underflows or overflows."""
    largest = x.detach().abs().amax(dim=tuple(range(1, x.ndim)), keepdim=True)
    return x / largest.clamp(min=torch.finfo(x.dtype).tiny)


def _divided_by_length(x: Tensor, squared: Tensor, usual: Tensor) -> Tensor:
    """``x`` / its length, given the ``squared`` length and what is ``usual``, both in the order of 1.

    Below :data:`NEARLY_ZERO` of the usual length x falls to zero as the cube of its length: without a step, and
    with no gradient where it is zero, where a direction has none.
    """
    floor = NEARLY_ZERO**2 * usual.clamp(min=1e-8)
    return x * squared.clamp(min=floor).rsqrt() * (squared / floor).clamp(max=1)


def valid_labels(label: Tensor, num_classes: int, ignore_index: int) -> Tensor:
    """Where ``label`` names a class: bool, the shape of ``label``."""
    return (label != ignore_index) & (label >= 0) & (label < num_classes)


def class_masks(label: Tensor, num_classes: int, ignore_index: int) -> Tensor:
    """N x H x W labels -> N x classes x HW bool."""
    valid = valid_labels(label, num_classes, ignore_index).flatten(1).unsqueeze(1)
    classes = torch.arange(num_classes, device=label.device).view(1, -1, 1)
    return (label.flatten(1).unsqueeze(1) == classes) & valid


def class_means(x_nc_hw: Tensor, masks: Tensor) -> Tensor:
    """Mean feature of each class in each picture, N x classes x C; zero for an absent class."""
    total = masks.to(x_nc_hw.dtype) @ x_nc_hw.transpose(1, 2)
    return total / masks.sum(dim=2, keepdim=True).clamp(min=1)


@_loss(same_channels=False)
def ifvd(student: Tensor, teacher: Tensor, label: Tensor, *, num_classes: int, ignore_index: int = 255) -> Tensor:
    """Intra-class feature variation: how far each pixel is from the centre of its class, in that picture.

    Mean over labelled pixels of (cos(s, centre of s) - cos(t, centre of t))^2. Channels may differ; ``label``
    (N x H x W, long) is resized to the features.

    Reduction: the authors also average over ignored pixels, where their difference is zero: with a share v of
    valid pixels their weight (20 in CIRKD's scripts, 200 in TorchDistiller) means weight * v here.

    Paper: Wang et al., ECCV 2020.
    """
    label = resize_nearest(label, student.shape[-2:])
    valid = valid_labels(label, num_classes, ignore_index)
    masks = class_masks(label, num_classes, ignore_index)
    own_class = torch.where(valid, label, 0).flatten(1).unsqueeze(2)  # N x HW x 1

    def similarity(x: Tensor) -> Tensor:
        x = torch.where(valid.unsqueeze(1), x, 0.0).flatten(2)  # N x C x HW
        centres = unit(class_means(x, masks), dim=2)  # N x classes x C
        return (unit(x, dim=1).transpose(1, 2) @ centres.transpose(1, 2)).gather(2, own_class)

    return _mean((similarity(student) - similarity(teacher)).square(), valid.flatten(1).unsqueeze(2))


@_loss(same_channels=False)
def cirkd_pairs(student: Tensor, teacher: Tensor, *, tau: float = 0.1, grid: int = 16) -> Tensor:
    """Cross-image relations, mini-batch part: cosines between the pixels of every two pictures of the batch.

    Average-pool to at most ``grid`` x ``grid``; for pictures i, j and each pixel of i a distribution over the
    pixels of j, softmax(cosines / tau); KL(teacher || student), mean over i, j and pixels. Channels may
    differ. Memory: about five tensors of (N * grid^2)^2 floats (85 MB in all at 8 pictures and grid 16).

    Reduction: the authors' own (/ B^2, mean over rows, no tau^2), hence their weight of 1 holds. They compare
    every pixel of the feature (or half the resolution); the fixed grid keeps the cost off the resolution.

    Paper: Yang et al., CVPR 2022, arXiv 2204.06986.
    """
    log_p_student, log_p_teacher = (_log_relations(x, tau, grid) for x in (student, teacher))
    return (log_p_teacher.exp() * (log_p_teacher - log_p_student)).sum(dim=2).mean()


def _log_relations(x: Tensor, tau: float, grid: int) -> Tensor:
    """N x C x H x W -> (N * nodes) x all N x nodes: each node's log-distribution over each picture's nodes.

    Rows are this worker's pictures, columns those of all workers.
    """
    nodes = unit(F.adaptive_avg_pool2d(x, _grid_size(x, grid)).flatten(2), dim=1).transpose(1, 2)
    n, count, channels = nodes.shape
    others = collectives.gather(nodes).reshape(-1, channels)
    return F.log_softmax((nodes.reshape(n * count, channels) @ others.T / tau).view(n * count, -1, count), dim=2)


@_loss(same_channels=True)
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
    """Cross-image relations, memory part: each pixel's similarity to remembered embeddings of the teacher's.

    kd_tau^2 * mean over anchors of KL(q_t || q_s), q = softmax(cosines to ``keys`` / tau / kd_tau). ``keys``
    is K x C of length 1; ``key_mask`` (K, bool) says which hold something. Anchors are at most ``grid`` x
    ``grid`` valid pixels of each picture at even steps (pixels, not averages: each belongs to one class).
    Memory: N * grid^2 * K floats a tensor (67 MB at 4 pictures and 4,096 keys).

    Reduction: the authors' mean over anchors (they take every pixel); their weight of 0.1 holds.

    Paper: Yang et al., CVPR 2022, arXiv 2204.06986.
    """
    size = _grid_size(student, grid)
    valid = resize_nearest(_full_mask(mask, student), size)
    known = torch.ones(len(keys), dtype=torch.bool, device=keys.device) if key_mask is None else key_mask
    keys = keys.detach().to(student.dtype)

    def log_relations(x: Tensor) -> Tensor:
        anchors = unit(torch.where(valid, resize_nearest(x, size), 0.0), dim=1).flatten(2).transpose(1, 2)
        return _log_softmax_where(anchors @ keys.T / (tau * kd_tau), known, dim=2)

    log_q_student, log_q_teacher = log_relations(student), log_relations(teacher)
    terms = torch.where(known, log_q_teacher.exp() * (log_q_teacher - log_q_student), 0.0)
    return kd_tau**2 * _mean(terms.sum(dim=2, keepdim=True), valid.flatten(2).transpose(1, 2))


@_loss(same_channels=True)
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
    valid = _full_mask(mask, student)
    p_student = F.softmax(torch.where(valid, student, 0.0) / tau, dim=1)
    p_teacher = F.softmax(torch.where(valid, teacher, 0.0) / tau, dim=1)
    everywhere = torch.ones_like(p_student, dtype=torch.bool)
    inter = _mean(1 - _pearson(p_student, p_teacher, everywhere, dims=(1,)), valid)
    per_class = 1 - _pearson(p_student, p_teacher, valid.expand_as(p_student), dims=(0, 2, 3))
    intra = per_class.mean() * (collectives.mean(valid.sum()) > 0)
    return tau**2 * (beta * inter + gamma * intra)


def _pearson(x: Tensor, y: Tensor, valid: Tensor, *, dims: tuple[int, ...]) -> Tensor:
    """Pearson correlation of two positive tensors over ``dims`` (kept) among ``valid``; 0 where either is constant.

    Over the pictures (dimension 0) of all workers.
    """
    shared = 0 in dims
    count = valid.sum(dim=dims, keepdim=True)
    count = _count(count) if shared else count.clamp(min=1)

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


@_loss(same_channels=False)
def at(student: Tensor, teacher: Tensor) -> Tensor:
    """Attention transfer: where the energy of the feature is.

    a = mean_c f^2, of length 1 over the H * W positions; mean over pictures of sum_HW (a_s - a_t)^2. Channels
    may differ.

    Reduction: the authors take the mean over H * W too, which shrinks with the resolution: their weight w is
    w / (H * W) here. 1e4 on a 64 x 128 feature (Cityscapes, CIRKD's scripts) is 1.2.

    Paper: Zagoruyko and Komodakis, ICLR 2017, arXiv 1612.03928.
    """
    attention_student, attention_teacher = (unit(_energy(x).flatten(1), dim=1) for x in (student, teacher))
    return (attention_student - attention_teacher).square().sum(dim=1).mean()


def _energy(x: Tensor) -> Tensor:
    """N x C x H x W -> N x 1 x H x W: mean over the channels of the squares, up to a factor of each picture's own."""
    return _rescaled(x).square().mean(dim=1, keepdim=True)


@_loss(same_channels=True)
def fitnet(student: Tensor, teacher: Tensor) -> Tensor:
    """FitNet's hint: mean over every element of (s - t)^2, ``student`` already through its convolution.

    The reduction of CIRKD's FitNet, whose weight of 10 holds.

    Paper: Romero et al., ICLR 2015, arXiv 1412.6550.
    """
    return (student - teacher).square().mean()


@_loss(same_channels=True)
def mgd(student: Tensor, teacher: Tensor) -> Tensor:
    """Masked generative distillation: mean over N, H, W of sum_c (g - t)^2, ``student`` being g.

    Reduction: the authors sum over H and W too: their weight w is w * H * W here. 2e-5 on a 64 x 64 feature
    (their Cityscapes config, 512 x 512 crops) is 0.08.

    Paper: Yang et al., ECCV 2022, arXiv 2205.01529.
    """
    return (student - teacher).square().sum(dim=1).mean()


@_loss(same_channels=True)
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
        return _divided_by_length(x, collectives.mean(x.square().mean(dim=(0, 2, 3), keepdim=True)), usual)

    return (standardise(student) - standardise(teacher)).square().mean() / 2


def dsd(
    student: Tensor | Sequence[Tensor],
    teacher: Tensor | Sequence[Tensor],
    *,
    mask: Tensor | None = None,
    tau: float = 4.0,
    pixel_weight: float = 1.0,
    category_weight: float = 1.0,
) -> Tensor:
    """Double similarity distillation, over a list of layers (N x C_i x H_i x W_i) of each model.

    Two parts:

    - pixel: attention of each layer as in :func:`at`, brought to the size of the teacher's last layer;
      residual r = difference of two layers' attentions, of length 1; mean over layer pairs and pictures of
      sum_HW (r_s - r_t)^2. A single layer has no residual: its attention itself is compared, which is
      :func:`at`.
    - category, on the last layer alone (the authors' is the logits; channels must agree there): p = softmax
      over H * W of f / tau, Gram matrix G = H W * p p^T (C x C); mean over pictures and C^2 of (G_s - G_t)^2.

    ``mask`` is at the last layer's resolution: masked positions have no attention and leave the softmax.

    Reduction: the authors average over H * W in the pixel part and leave H W out of G. On 64 x 128 features
    (pooled to 32 x 64 for G, a pooling left out here) their weights 1,000 and 10 are 0.12 and 2.4e-6: they
    switch the category part off in all but name; ``category_weight=2e-5`` with weight 0.12 repeats that.

    Paper: Feng et al., TIP 2021, arXiv 2107.08591.
    """
    students = [student] if isinstance(student, Tensor) else list(student)
    teachers = [teacher] if isinstance(teacher, Tensor) else list(teacher)
    if len(students) != len(teachers) or not students:
        raise ValueError(f"dsd: as many layers of each model, got {len(students)} and {len(teachers)}")
    _check_shapes("dsd, last layer", students[-1], teachers[-1], same_channels=True)
    with without_autocast(students[-1].device.type):
        students = [at_least_float32(layer) for layer in students]
        teachers = [at_least_float32(layer.detach()) for layer in teachers]
        valid = _full_mask(mask, students[-1])
        pixel = _mean(
            (_residuals(students, valid) - _residuals(teachers, valid)).square().sum(dim=2),
            valid.flatten(1).any(dim=1, keepdim=True),
        )
        category = _mean(
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
    return _divided_by_length(residuals, squared, torch.ones_like(squared))


def _category_gram(x: Tensor, valid: Tensor, tau: float) -> Tensor:
    """N x C x C: HW times the overlaps of the channels' spatial distributions (1 for uniform ones)."""
    valid = valid.flatten(2)
    log_p = _log_softmax_where(x.flatten(2) / tau, valid, dim=2)
    p = torch.where(valid, log_p.exp(), 0.0)
    return valid.sum(dim=2, keepdim=True) * (p @ p.transpose(1, 2))


@_loss(same_channels=True)
def dkd(
    student: Tensor,
    teacher: Tensor,
    label: Tensor,
    *,
    ignore_index: int = 255,
    tau: float = 4.0,
    alpha: float = 1.0,
    beta: float = 8.0,
) -> Tensor:
    """Decoupled knowledge distillation: KL split into the target class and the others.

    tau^2 * mean over valid pixels of alpha * KL of (p_target, 1 - p_target) + beta * KL among the other
    classes. ``label`` (N x H x W, long) is resized to the logits. The authors' reduction (theirs over
    pictures).

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
        logits = torch.where(valid, logits, 0.0) / tau
        log_p = F.log_softmax(logits, dim=1)
        # log(1 - p_target) from the other classes' own terms: 1 - p loses every digit of a confident teacher.
        rest = torch.logsumexp(torch.where(others, log_p, torch.finfo(log_p.dtype).min / 2), dim=1, keepdim=True)
        return log_p.gather(1, target), rest, _log_softmax_where(logits, others, dim=1)

    target_s, rest_s, others_s = parts(student)
    target_t, rest_t, others_t = parts(teacher)
    target_kl = target_t.exp() * (target_t - target_s) + rest_t.exp() * (rest_t - rest_s)
    others_kl = torch.where(others, others_t.exp() * (others_t - others_s), 0.0).sum(dim=1, keepdim=True)
    return tau**2 * _mean(alpha * target_kl + beta * others_kl, valid)


@_loss(same_channels=True)
def l1(student: Tensor, teacher: Tensor, *, mask: Tensor | None = None) -> Tensor:
    """Mean absolute error over valid positions and channels."""
    valid = _full_mask(mask, student)
    return _mean((torch.where(valid, student, 0.0) - torch.where(valid, teacher, 0.0)).abs(), valid)


@_loss(same_channels=True)
def l2(student: Tensor, teacher: Tensor, *, mask: Tensor | None = None) -> Tensor:
    """Mean squared error over valid positions and channels. Ba and Caruana, NeurIPS 2014, arXiv 1312.6184."""
    valid = _full_mask(mask, student)
    return _mean((torch.where(valid, student, 0.0) - torch.where(valid, teacher, 0.0)).square(), valid)


@_loss(same_channels=True)
def cosine(student: Tensor, teacher: Tensor, *, mask: Tensor | None = None) -> Tensor:
    """Mean over valid positions of 1 - cosine over the channels.

    Computed as half the squared distance of the two directions, the same for non-zero vectors, and 0 rather
    than 1 where both are zero (as after a ReLU), so that identical inputs always give 0.
    """
    valid = _full_mask(mask, student)
    direction_s, direction_t = (unit(torch.where(valid, x, 0.0), dim=1) for x in (student, teacher))
    return _mean((direction_s - direction_t).square().sum(dim=1, keepdim=True) / 2, valid)

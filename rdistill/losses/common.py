"""What losses are made of: shapes, masks, means over valid positions and over workers, lengths of vectors."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any

from rdistill.registration.lazy import lazily
from rdistill.registration.parameters import Number

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

# A vector counts as zero below this share of the length that is usual around it. Generous on purpose: the
# gradient of a direction grows as its vector shrinks, and after a ReLU many positions are exactly zero.
NEARLY_ZERO = 1e-4
TAU = Number(above=0, what="a temperature")


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
    if height % new_height == 0 and width % new_width == 0:  # slices: indices would copy, and their gradient is slow
        return x[..., :: height // new_height, :: width // new_width]
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


def full_mask(mask: Tensor | None, like: Tensor) -> Tensor:
    """``mask`` as N x 1 x H x W bool, all True when there is none."""
    n, _, height, width = like.shape
    valid = checked_mask(mask, like)
    return torch.ones((n, 1, height, width), dtype=torch.bool, device=like.device) if valid is None else valid


def checked_mask(mask: Tensor | None, like: Tensor) -> Tensor | None:
    """``mask`` as N x 1 x H x W bool; None when there is none."""
    n, _, height, width = like.shape
    if mask is None:
        return None
    if mask.shape != (n, height, width):
        raise ValueError(f"mask must be {(n, height, width)} like the tensors, got {tuple(mask.shape)}")
    return mask.bool().unsqueeze(1)


def where_valid(x: Tensor, valid: Tensor | None) -> Tensor:
    """``x`` with zeros where it is not ``valid``; ``x`` itself without a mask."""
    return x if valid is None else torch.where(valid, x, 0.0)


def count_positions(valid: Tensor | None, like: Tensor) -> Tensor:
    """How many positions of the batch are ``valid`` (N x 1 x H x W), or that it has; mean over workers, not zero."""
    n, _, height, width = like.shape
    own = torch.full((), n * height * width, device=like.device) if valid is None else valid.sum()
    return count_over_workers(own)


def count_images(valid: Tensor | None, like: Tensor) -> Tensor:
    """How many images of the batch have a ``valid`` position: the mean over workers, not zero."""
    own = torch.full((), len(like), device=like.device) if valid is None else valid.flatten(1).any(dim=1).sum()
    return count_over_workers(own)


def mean_where(values: Tensor, valid: Tensor) -> Tensor:
    """Mean of ``values`` where ``valid`` (broadcastable to it); a zero in the graph where nothing is.

    Divided by the workers' mean count, so that the mean over workers is that of the whole batch.
    """
    valid = valid.expand_as(values)
    return torch.where(valid, values, 0.0).sum() / count_over_workers(valid.sum())


def count_over_workers(own: Tensor) -> Tensor:
    """How many there are to divide by: the mean over workers of their ``own``; not zero."""
    workers = collectives.count()
    return collectives.mean(own).clamp(min=1 if workers == 1 else 1 / workers)


def log_softmax_where(x: Tensor, valid: Tensor, *, dim: int) -> Tensor:
    """log_softmax over ``dim`` among ``valid`` entries; the others hold something finite, to be dropped."""
    # Half the smallest float: minus a maximum it neither overflows nor leaves any probability behind.
    return F.log_softmax(torch.where(valid, x, torch.finfo(x.dtype).min / 2), dim=dim)


def unit(x: Tensor, *, dim: int) -> Tensor:
    """``x`` scaled to length 1 over ``dim``; nearly zero vectors, compared with the rest of the image, fade to 0."""
    x = rescaled(x)
    squared = x.square().sum(dim=dim, keepdim=True)
    usual = squared.detach().mean(dim=tuple(range(1, x.ndim)), keepdim=True)
    return divided_by_length(x, squared, usual)


def image_scales(x: Tensor, valid: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Of each image of N x C x H x W what :func:`unit` over the channels measures by, N x 1 x 1 x 1 each.

    The largest magnitude, and in units of it the mean squared length of a position; without a gradient.
    """

    def squares(x: Tensor, valid: Tensor | None, largest: Tensor) -> Tensor:
        return (where_valid(x, valid) / largest).square_().sum(dim=(1, 2, 3), keepdim=True)

    largest = largest_magnitudes(x, valid)
    total = chunked.sums(squares, x.detach(), valid, largest, over=(0, 2, 1), shape=(len(x), 1, 1, 1))
    return largest, total / (x.shape[2] * x.shape[3])


def largest_magnitudes(x: Tensor, valid: Tensor | None = None) -> Tensor:
    """The largest magnitude in each image, N x 1 x 1 x 1, to divide by: not zero; without a gradient."""

    def magnitude(x: Tensor, valid: Tensor | None) -> Tensor:
        return where_valid(x, valid).abs().amax(dim=(1, 2, 3), keepdim=True)

    largest = chunked.maxima(magnitude, x.detach(), valid, over=(0, 2, 1), shape=(len(x), 1, 1, 1))
    return largest.clamp(min=torch.finfo(x.dtype).tiny)


def direction(x: Tensor, largest: Tensor, usual: Tensor) -> Tensor:
    """:func:`unit` over the channels of a chunk of images, given their :func:`image_scales`."""
    x = x / largest
    return divided_by_length(x, x.square().sum(dim=1, keepdim=True), usual)


def rescaled(x: Tensor) -> Tensor:
    """``x`` with 1 as the largest magnitude in each image, so that no square of it underflows or overflows."""
    largest = x.detach().abs().amax(dim=tuple(range(1, x.ndim)), keepdim=True)
    return x / largest.clamp(min=torch.finfo(x.dtype).tiny)


def divided_by_length(x: Tensor, squared: Tensor, usual: Tensor) -> Tensor:
    """``x`` / its length, given the ``squared`` length and what is ``usual``, both in the order of 1.

    Below :data:`NEARLY_ZERO` of the usual length x falls to zero as the cube of its length: without a step, and
    with no gradient where it is zero, where a direction has none.
    """
    floor = NEARLY_ZERO**2 * usual.clamp(min=1e-8)
    return x * squared.clamp(min=floor).rsqrt() * (squared / floor).clamp(max=1)


def grid_size(x: Tensor, grid: int) -> tuple[int, int]:
    return min(grid, x.shape[-2]), min(grid, x.shape[-1])


def cell_averages(x: Tensor, grid: int) -> Tensor:
    """Averages over at most ``grid`` x ``grid`` cells: N x C x H x W -> N x C x rows x columns."""
    return with_contiguous_gradient(F.adaptive_avg_pool2d(x, grid_size(x, grid)))


def with_contiguous_gradient(x: Tensor) -> Tensor:
    """``x``, whose gradient is passed on in the order of N x C x H x W.

    What is computed from rows of positions has its gradient in channels_last. Of that PyTorch would make the one of the
    feature in the same order, which takes a pooling four times as long, and then a second one in the feature's order.
    """
    if x.requires_grad:
        x.register_hook(lambda gradient: gradient.contiguous())
    return x


def valid_labels(label: Tensor, num_classes: int, ignore_index: int) -> Tensor:
    """Where ``label`` names a class: bool, the shape of ``label``."""
    return (label != ignore_index) & (label >= 0) & (label < num_classes)


def class_masks(label: Tensor, num_classes: int, ignore_index: int) -> Tensor:
    """N x H x W labels -> N x classes x HW bool."""
    valid = valid_labels(label, num_classes, ignore_index).flatten(1).unsqueeze(1)
    classes = torch.arange(num_classes, device=label.device).view(1, -1, 1)
    return (label.flatten(1).unsqueeze(1) == classes) & valid


def class_means(x_nc_hw: Tensor, masks: Tensor) -> Tensor:
    """Mean feature of each class in each image, N x classes x C; zero for an absent class."""
    total = masks.to(x_nc_hw.dtype) @ x_nc_hw.transpose(1, 2)
    return total / masks.sum(dim=2, keepdim=True).clamp(min=1)


def compared(function: Callable[..., Tensor], *, same_channels: bool, layers: bool) -> Callable[..., Tensor]:
    """A loss as it is called: shapes checked, the teacher cut off, in float32 outside autocast.

    Args:
        function: ``loss(student, teacher, ...)``; with ``layers`` it takes a list of tensors of each.
        same_channels: whether both sides need as many channels; of several layers the last ones.
        layers: whether the loss takes several layers; it may then be called with a tensor of each as well.
    """
    name = function.__name__

    @functools.wraps(function)
    def of_tensors(student: Tensor, teacher: Tensor, /, *args: Any, **kwargs: Any) -> Tensor:
        _check_shapes(name, student, teacher, same_channels=same_channels)
        with without_autocast(student.device.type):
            return function(at_least_float32(student), at_least_float32(teacher.detach()), *args, **kwargs)

    @functools.wraps(function)
    def of_layers(
        student: Tensor | Sequence[Tensor], teacher: Tensor | Sequence[Tensor], /, *args: Any, **kwargs: Any
    ) -> Tensor:
        students = [student] if isinstance(student, torch.Tensor) else list(student)
        teachers = [teacher] if isinstance(teacher, torch.Tensor) else list(teacher)
        if len(students) != len(teachers) or not students:
            raise ValueError(f"{name}: as many layers of each model, got {len(students)} and {len(teachers)}")
        _check_shapes(f"{name}, last layer", students[-1], teachers[-1], same_channels=same_channels)
        with without_autocast(students[-1].device.type):
            students = [at_least_float32(layer) for layer in students]
            teachers = [at_least_float32(layer.detach()) for layer in teachers]
            return function(students, teachers, *args, **kwargs)

    return of_layers if layers else of_tensors

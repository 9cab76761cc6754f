"""Helpers of all losses: shapes, masks, means over valid positions and over workers, lengths of vectors."""

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

# A vector counts as zero if its length is below this share of the typical length in the same image. The value is large
# on purpose: the gradient of a direction grows as its vector shrinks, and after a ReLU many positions are exactly zero.
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

    Row i of the result is row floor(i * H / h) of the input. This is the pixel on which a strided convolution with
    kernel 3 and padding 1 is centred, so it matches the feature of a backbone. The authors of IFVD and CIRKD use the
    same rule.
    """
    (height, width), (new_height, new_width) = x.shape[-2:], size
    if (height, width) == (new_height, new_width):
        return x
    if height % new_height == 0 and width % new_width == 0:  # slicing: indexing would copy, and its gradient is slow
        return x[..., :: height // new_height, :: width // new_width]
    rows = torch.arange(new_height, device=x.device) * height // new_height
    columns = torch.arange(new_width, device=x.device) * width // new_width
    return x[..., rows[:, None], columns]


def with_logit_channels(logits: Tensor, channels: int) -> Tensor:
    """Converts logits of two classes to one channel, z, or to two channels; returns other logits unchanged.

    The probabilities stay equal: ``sigmoid(z)`` is ``softmax((0, z))[1]``, and ``softmax((a, b))[1]`` is
    ``sigmoid(b - a)``.
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
    """``mask`` as N x 1 x H x W bool; all True if it is None."""
    n, _, height, width = like.shape
    valid = checked_mask(mask, like)
    return torch.ones((n, 1, height, width), dtype=torch.bool, device=like.device) if valid is None else valid


def checked_mask(mask: Tensor | None, like: Tensor) -> Tensor | None:
    """``mask`` as N x 1 x H x W bool, or None if it is None. Raises ValueError if its shape does not fit ``like``."""
    n, _, height, width = like.shape
    if mask is None:
        return None
    if mask.shape != (n, height, width):
        raise ValueError(f"mask must be {(n, height, width)} like the tensors, got {tuple(mask.shape)}")
    return mask.bool().unsqueeze(1)


def where_valid(x: Tensor, valid: Tensor | None) -> Tensor:
    """``x`` with zeros where ``valid`` is False; ``x`` itself if ``valid`` is None."""
    return x if valid is None else torch.where(valid, x, 0.0)


def unless_all_valid(valid: Tensor | None) -> Tensor | None:
    """``valid``, or None if it is on the CPU and True everywhere: a loss then need not apply it to full-size tensors.

    On an accelerator it is not looked at, because the host would wait for the device, longer than it takes to apply it.
    Workers may get different answers: what they exchange must not depend on it.
    """
    return None if valid is None or (valid.device.type == "cpu" and bool(valid.all())) else valid


def count_positions(valid: Tensor | None, like: Tensor) -> Tensor:
    """The number of ``valid`` positions (N x 1 x H x W) of the batch, averaged over workers; it is never 0.

    If ``valid`` is None, all positions count.
    """
    n, _, height, width = like.shape
    local = torch.full((), n * height * width, device=like.device) if valid is None else valid.sum()
    return count_over_workers(local)


def count_images(valid: Tensor | None, like: Tensor) -> Tensor:
    """The number of images of the batch with a ``valid`` position, averaged over workers; it is never 0."""
    local = torch.full((), len(like), device=like.device) if valid is None else valid.flatten(1).any(dim=1).sum()
    return count_over_workers(local)


def mean_where(values: Tensor, valid: Tensor) -> Tensor:
    """Mean of ``values`` where ``valid`` (broadcast to ``values``) is True; if it is nowhere, 0 with a gradient of 0.

    The sum is divided by the mean count of the workers, so that the mean over workers is that of the whole batch.
    """
    valid = valid.expand_as(values)
    return torch.where(valid, values, 0.0).sum() / count_over_workers(valid.sum())


def count_over_workers(local: Tensor) -> Tensor:
    """The mean over workers of a count, as a divisor: it is never 0."""
    workers = collectives.count()
    return collectives.mean(local).clamp(min=1 if workers == 1 else 1 / workers)


def log_softmax_where(x: Tensor, valid: Tensor, *, dim: int) -> Tensor:
    """log_softmax over ``dim`` among the ``valid`` entries; the other entries get a finite value to be dropped."""
    # Half of the lowest float: subtracting a maximum does not overflow, and the probability is exactly 0.
    return F.log_softmax(torch.where(valid, x, torch.finfo(x.dtype).min / 2), dim=dim)


def unit(x: Tensor, *, dim: int) -> Tensor:
    """``x`` scaled to length 1 over ``dim``; vectors that are nearly zero, compared with the image, fade to 0."""
    x = rescaled(x)
    squared = x.square().sum(dim=dim, keepdim=True)
    typical = squared.detach().mean(dim=tuple(range(1, x.ndim)), keepdim=True)
    return divided_by_length(x, squared, typical)


def image_scales(x: Tensor, valid: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """The two scales of each image that :func:`unit` over the channels uses, N x 1 x 1 x 1 each, without a gradient.

    They are the largest magnitude, and the mean squared length of a position in units of that magnitude.
    """

    def squares(x: Tensor, valid: Tensor | None, largest: Tensor) -> Tensor:
        return (where_valid(x, valid) / largest).square_().sum(dim=(1, 2, 3), keepdim=True)

    largest = largest_magnitudes(x, valid)
    total = chunked.sums(squares, x.detach(), valid, largest, over=(0, 2, 1), shape=(len(x), 1, 1, 1))
    return largest, total / (x.shape[2] * x.shape[3])


def largest_magnitudes(x: Tensor, valid: Tensor | None = None) -> Tensor:
    """The largest magnitude in each image, N x 1 x 1 x 1, as a divisor: it is never 0, and has no gradient."""

    def magnitude(x: Tensor, valid: Tensor | None) -> Tensor:
        return where_valid(x, valid).abs().amax(dim=(1, 2, 3), keepdim=True)

    largest = chunked.maxima(magnitude, x.detach(), valid, over=(0, 2, 1), shape=(len(x), 1, 1, 1))
    return largest.clamp(min=torch.finfo(x.dtype).tiny)


def direction(x: Tensor, largest: Tensor, typical: Tensor) -> Tensor:
    """Computes :func:`unit` over the channels for a chunk of images, given their :func:`image_scales`."""
    x = x / largest
    return divided_by_length(x, x.square().sum(dim=1, keepdim=True), typical)


def rescaled(x: Tensor) -> Tensor:
    """``x`` scaled so that 1 is the largest magnitude in each image; squares then cannot overflow or vanish."""
    largest = x.detach().abs().amax(dim=tuple(range(1, x.ndim)), keepdim=True)
    return x / largest.clamp(min=torch.finfo(x.dtype).tiny)


def divided_by_length(x: Tensor, squared: Tensor, typical: Tensor) -> Tensor:
    """``x`` divided by its length, given its ``squared`` length and the ``typical`` squared length, both around 1.

    For lengths below :data:`NEARLY_ZERO` of the typical length, the result falls to zero with the cube of the length.
    So it is continuous, and its gradient is 0 for a zero vector, which has no direction.
    """
    floor = NEARLY_ZERO**2 * typical.clamp(min=1e-8)
    return x * squared.clamp(min=floor).rsqrt() * (squared / floor).clamp(max=1)


def grid_size(x: Tensor, grid: int) -> tuple[int, int]:
    return min(grid, x.shape[-2]), min(grid, x.shape[-1])


def cell_averages(x: Tensor, grid: int) -> Tensor:
    """Averages over at most ``grid`` x ``grid`` cells: N x C x H x W -> N x C x rows x columns."""
    return with_contiguous_gradient(F.adaptive_avg_pool2d(x, grid_size(x, grid)))


def with_contiguous_gradient(x: Tensor) -> Tensor:
    """Returns ``x``; its gradient is passed on contiguous, in the memory order of N x C x H x W.

    Operations on rows of positions produce a gradient in channels_last. The backward pass of a pooling would keep that
    order, which takes four times as long, and PyTorch would then copy the result into the feature's order.
    """
    if x.requires_grad:
        x.register_hook(lambda gradient: gradient.contiguous())
    return x


def valid_labels(label: Tensor, num_classes: int, ignore_index: int) -> Tensor:
    """Whether each label is a class: bool, in the shape of ``label``."""
    return (label != ignore_index) & (label >= 0) & (label < num_classes)


def class_masks(label: Tensor, num_classes: int, ignore_index: int) -> Tensor:
    """N x H x W labels -> N x classes x HW bool."""
    valid = valid_labels(label, num_classes, ignore_index).flatten(1).unsqueeze(1)
    classes = torch.arange(num_classes, device=label.device).view(1, -1, 1)
    return (label.flatten(1).unsqueeze(1) == classes) & valid


def class_means(x_nc_hw: Tensor, masks: Tensor) -> Tensor:
    """The mean feature of each class in each image, N x classes x C; zero for a class that the image does not have."""
    total = masks.to(x_nc_hw.dtype) @ x_nc_hw.transpose(1, 2)
    return total / masks.sum(dim=2, keepdim=True).clamp(min=1)


def wrap_loss(function: Callable[..., Tensor], *, same_channels: bool, layers: bool) -> Callable[..., Tensor]:
    """Wraps a loss: checks shapes, detaches the teacher, and computes in float32 without autocast.

    Args:
        function: ``loss(student, teacher, ...)``; with ``layers`` it takes a list of tensors for each side.
        same_channels: whether both sides need equal channels; for several layers, this concerns the last ones.
        layers: whether the loss takes several layers; it may then also be called with one tensor for each side.
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

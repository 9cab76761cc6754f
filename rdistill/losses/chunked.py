"""Sums over full-size tensors, computed chunk by chunk; the only full-size temporary is the student's gradient.

A loss written as a sequence of tensor operations makes a full-size tensor for each of them, and autograd keeps most of
them until the backward pass. Here the same operations run on one small chunk at a time, and the backward pass computes
each chunk again. That is more arithmetic, but still faster on a CPU, because a chunk stays in the processor's cache.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from rdistill.losses.common import without_autocast

Index = tuple[slice, ...]
# Size of a chunk for each CPU thread: its temporaries take a few times this size and must fit into the cache.
BYTES_PER_THREAD = 256 * 1024
# An accelerator is faster with fewer and larger kernels.
BYTES_ON_ACCELERATOR = 32 * 1024 * 1024


def sums(
    values: Callable[..., Tensor],
    student: Tensor,
    *others: Tensor | None,
    over: Sequence[int],
    shape: Sequence[int],
    gradient: Callable[..., Tensor] | None = None,
) -> Tensor:
    """Computes ``values(student, *others)`` for each chunk, and sums or concatenates the results; differentiable.

    Args:
        values: the function for one chunk of ``student`` and ``others``. Along a dimension that is cut, the results are
            summed if they have one entry there, and concatenated otherwise.
        student: N x C x H x W.
        others: tensors with as many dimensions; where ``student`` is cut, they have its size or 1. A None is passed on.
        over: the dimensions that may be cut, in this order.
        shape: the shape of the result, with one entry in each dimension along which results are summed.
        gradient: ``gradient(upstream, student, *others)`` returns the gradient of a chunk of ``student``, given the
            gradient of its values; ``others`` then get no gradient. If it is None, autograd computes the gradients of
            ``student`` and of the others that require one.
    """
    total: Tensor = _Sums.apply(values, gradient, tuple(over), tuple(shape), student, *others)  # type: ignore[no-untyped-call]
    return total


def chunks(x: Tensor, over: Sequence[int]) -> Iterator[Index]:
    """Indices that cut ``x`` into chunks of about :data:`BYTES_PER_THREAD`; only the dimensions ``over`` are cut."""
    limit = BYTES_PER_THREAD * torch.get_num_threads() if x.device.type == "cpu" else BYTES_ON_ACCELERATOR
    slices = [[slice(None)]] * x.ndim
    size = x.numel() * x.element_size()
    for dim in over:
        entry = max(1, size // max(1, x.shape[dim]))
        step = max(1, limit // entry)
        slices[dim] = [slice(start, start + step) for start in range(0, x.shape[dim], step)]
        size = entry
    return itertools.product(*slices)


def part(x: Tensor, chunk: Index) -> Tensor:
    """The part of ``x`` at ``chunk``; a dimension with one entry is not cut, because it is broadcast."""
    return x[tuple(slice(None) if size == 1 else cut for size, cut in zip(x.shape, chunk, strict=True))]


def _parts(tensors: Sequence[Tensor | None], chunk: Index) -> list[Tensor | None]:
    return [None if x is None else part(x, chunk) for x in tensors]


class _Sums(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        values: Callable[..., Tensor],
        gradient: Callable[..., Tensor] | None,
        over: tuple[int, ...],
        shape: tuple[int, ...],
        *tensors: Tensor | None,
    ) -> Tensor:
        student = tensors[0]
        assert student is not None
        ctx.save_for_backward(*tensors)
        ctx.values, ctx.gradient, ctx.over = values, gradient, over
        total = student.new_zeros(shape)
        for chunk in chunks(student, over):
            part(total, chunk).add_(values(*_parts(tensors, chunk)))
        return total

    @staticmethod
    @once_differentiable  # type: ignore[untyped-decorator]
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:
        tensors = ctx.saved_tensors
        needed = [0]  # indices of the tensors that need a gradient
        if ctx.gradient is None:
            needed += [place for place, needs in enumerate(ctx.needs_input_grad[4:]) if place and needs]
        totals: list[Tensor | None] = [None] * len(tensors)
        # Each element of the student is in exactly one chunk; elements of the other tensors may be in several.
        student_total = totals[0] = torch.empty_like(tensors[0])
        for place in needed[1:]:
            totals[place] = torch.zeros_like(tensors[place])
        with without_autocast(student_total.device.type):
            for chunk in chunks(student_total, ctx.over):
                parts = _parts(tensors, chunk)
                if ctx.gradient is None:
                    student_gradient, *other_gradients = _gradients(ctx.values, needed, part(upstream, chunk), parts)
                else:
                    student_gradient, other_gradients = ctx.gradient(part(upstream, chunk), *parts), []
                part(student_total, chunk).copy_(student_gradient)
                for place, gradient in zip(needed[1:], other_gradients, strict=True):
                    total = totals[place]
                    assert total is not None
                    part(total, chunk).add_(gradient)
        return (None, None, None, None, *totals)


def _gradients(
    values: Callable[..., Tensor], needed: Sequence[int], upstream: Tensor, parts: Sequence[Tensor | None]
) -> tuple[Tensor, ...]:
    """The gradients of the tensors with the indices ``needed``, by autograd in a second forward pass of the chunk."""
    with torch.enable_grad():
        inputs = [None if x is None else x.detach() for x in parts]
        sources = [x.requires_grad_() for place, x in enumerate(inputs) if place in needed and x is not None]
        computed = values(*inputs)
    return torch.autograd.grad(computed, sources, upstream)


@torch.no_grad()
def maxima(values: Callable[..., Tensor], *tensors: Tensor | None, over: Sequence[int], shape: Sequence[int]) -> Tensor:
    """Like :func:`sums`, but takes the maximum instead of the sum, without a gradient."""
    first = tensors[0]
    assert first is not None
    largest = first.new_full(tuple(shape), -torch.inf)
    for chunk in chunks(first, over):
        place = part(largest, chunk)
        torch.maximum(place, values(*_parts(tensors, chunk)), out=place)
    return largest

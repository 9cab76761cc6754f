"""Sums over full-size tensors, computed chunk by chunk: no temporary of full size but the student's gradient.

A loss written as a row of tensor operations makes a full-size tensor for each of them, and autograd keeps most of them
until the backward pass. Here the same operations run on a small chunk at a time; the backward pass computes each chunk
again. That is more arithmetic, and quicker on a CPU all the same, since a chunk stays in the processor's cache.
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
# What is computed of a chunk takes a few times its size: this stays in a core's cache.
BYTES_A_THREAD = 256 * 1024
# An accelerator wants fewer and larger kernels.
BYTES_OF_ACCELERATOR = 32 * 1024 * 1024


def sums(
    values: Callable[..., Tensor],
    student: Tensor,
    *others: Tensor | None,
    over: Sequence[int],
    shape: Sequence[int],
    gradient: Callable[..., Tensor] | None = None,
) -> Tensor:
    """``values(student, *others)`` of each chunk, added up or put side by side; differentiable.

    Args:
        values: of the chunks of ``student`` and ``others``. Where a dimension that is cut has one entry in its result,
            the results are added up along it; otherwise they are put side by side.
        student: N x C x H x W.
        others: of as many dimensions each, with the size of ``student`` or 1 where it is cut. None is passed on.
        over: the dimensions that may be cut; the first ones are cut first.
        shape: of the result; with one entry in each dimension that is added up along.
        gradient: ``gradient(upstream, student, *others)``, the chunk's gradient given that of its values; none
            reaches ``others`` then. Without, it is that of autograd, for ``student`` and the others that require it.
    """
    total: Tensor = _Sums.apply(values, gradient, tuple(over), tuple(shape), student, *others)  # type: ignore[no-untyped-call]
    return total


def chunks(x: Tensor, over: Sequence[int]) -> Iterator[Index]:
    """The places of the chunks in ``x``, of about :data:`BYTES_A_THREAD`; cut in no other dimension than ``over``."""
    limit = BYTES_A_THREAD * torch.get_num_threads() if x.device.type == "cpu" else BYTES_OF_ACCELERATOR
    slices = [[slice(None)]] * x.ndim
    size = x.numel() * x.element_size()
    for dim in over:
        entry = max(1, size // max(1, x.shape[dim]))
        step = max(1, limit // entry)
        slices[dim] = [slice(start, start + step) for start in range(0, x.shape[dim], step)]
        size = entry
        if step > 1:
            break
    return itertools.product(*slices)


def part(x: Tensor, chunk: Index) -> Tensor:
    """What ``x`` has at ``chunk``; all of a dimension of one entry, which is broadcast."""
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
        needed = [0]  # the places of those that a gradient is for
        if ctx.gradient is None:
            needed += [place for place, needs in enumerate(ctx.needs_input_grad[4:]) if place and needs]
        totals: list[Tensor | None] = [None] * len(tensors)
        # Each of its elements is in one chunk; those of the others may be in several.
        student_total = totals[0] = torch.empty_like(tensors[0])
        for place in needed[1:]:
            totals[place] = torch.zeros_like(tensors[place])
        with without_autocast(student_total.device.type):
            for chunk in chunks(student_total, ctx.over):
                parts = _parts(tensors, chunk)
                if ctx.gradient is None:
                    of_student, *of_others = _gradients(ctx.values, needed, part(upstream, chunk), parts)
                else:
                    of_student, of_others = ctx.gradient(part(upstream, chunk), *parts), []
                part(student_total, chunk).copy_(of_student)
                for place, gradient in zip(needed[1:], of_others, strict=True):
                    total = totals[place]
                    assert total is not None
                    part(total, chunk).add_(gradient)
        return (None, None, None, None, *totals)


def _gradients(
    values: Callable[..., Tensor], needed: Sequence[int], upstream: Tensor, parts: Sequence[Tensor | None]
) -> tuple[Tensor, ...]:
    """The gradients by autograd for the tensors at ``needed``, from a second forward pass of the chunk."""
    with torch.enable_grad():
        inputs = [None if x is None else x.detach() for x in parts]
        sources = [x.requires_grad_() for place, x in enumerate(inputs) if place in needed and x is not None]
        computed = values(*inputs)
    return torch.autograd.grad(computed, sources, upstream)


@torch.no_grad()
def maxima(values: Callable[..., Tensor], *tensors: Tensor | None, over: Sequence[int], shape: Sequence[int]) -> Tensor:
    """As :func:`sums`, with the maximum in the sum's place; without a gradient."""
    first = tensors[0]
    assert first is not None
    largest = first.new_full(tuple(shape), -torch.inf)
    for chunk in chunks(first, over):
        place = part(largest, chunk)
        torch.maximum(place, values(*_parts(tensors, chunk)), out=place)
    return largest

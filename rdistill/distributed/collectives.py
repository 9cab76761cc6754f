"""Collectives within a training step, which make the step of several workers equal to that of one with the whole batch.

DDP averages the gradients of the workers. For a mean over images this is the gradient of the whole batch, because all
workers have the same number of images. Other parts of a loss, such as a mean over valid pixels, or statistics and
relations across images, need the counts, statistics or images of all workers; :func:`mean` and :func:`gather` provide
them. With one worker they return their argument and cost nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from rdistill.core.errors import UserError

# The loss that is being computed, and the kinds of exchange that it declares; None outside of losses.
_declared: ContextVar[tuple[str, tuple[str, ...]] | None] = ContextVar("declared", default=None)
_local: ContextVar[bool] = ContextVar("local", default=False)
stop_signal = 0  # the signal that this worker received; it is sent to the other workers with the logged values
_agreed_signal: Tensor | None = None


def count() -> int:
    """The number of workers that train together."""
    if _local.get() or not (dist.is_available() and dist.is_initialized()):
        return 1
    return dist.get_world_size()


@contextmanager
def local_only() -> Iterator[None]:
    """Within the context, this worker computes losses without the others, which may be doing something else."""
    token = _local.set(True)
    try:
        yield
    finally:
        _local.reset(token)


@contextmanager
def exchanging(loss: str, kinds: tuple[str, ...]) -> Iterator[None]:
    """Within the context, a loss is computed, and may exchange only the kinds of values that it declares.

    This is checked with one worker too, where nothing is exchanged, so that the first test of a loss shows a wrong
    declaration.
    """
    token = _declared.set((loss, kinds))
    try:
        yield
    finally:
        _declared.reset(token)


def _require_declared(*kinds: str) -> None:
    declared = _declared.get()
    if declared is not None and not set(kinds) & set(declared[1]):
        named = " or ".join(repr(kind) for kind in kinds)
        raise UserError(
            f"loss {declared[0]!r}: exchanges {named} between workers, and does not declare it; register it with "
            f"exchanges=({kinds[0]!r},)"
        )


def mean(x: Tensor) -> Tensor:
    """The elementwise mean of ``x`` over all workers; the gradient reaches the ``x`` of each worker."""
    _require_declared("counts", "statistics")
    workers = count()
    return x if workers == 1 else _Sum.apply(x) / workers


def gather(x: Tensor) -> Tensor:
    """The ``x`` (N x ..., of equal shapes) of all workers, joined along N; the gradient reaches each worker's ``x``."""
    _require_declared("embeddings")
    return x if count() == 1 else _Gather.apply(x)


def gather_objects(value: Any) -> list[Any]:
    """The ``value`` of each worker, in the order of ranks. It is pickled, which is too slow for every step."""
    if count() == 1:
        return [value]
    values: list[Any] = [None] * count()
    dist.all_gather_object(values, value)
    return values


def mean_of_logs(values: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The mean over workers of scalars for the log, in one exchange; NaN on one worker becomes NaN on all."""
    global _agreed_signal
    if count() == 1 or not values:
        return dict(values)
    scalars = [value.detach().float().mean() for value in values.values()]
    stacked = torch.stack([*scalars, torch.full_like(scalars[0], float(stop_signal))])
    dist.all_reduce(stacked)
    *means, _agreed_signal = (stacked / count()).unbind()
    return dict(zip(values, means, strict=True))


def agreed_to_stop() -> int:
    """The signal that a worker received before the last :func:`mean_of_logs`, equal on all workers; 0: none."""
    return 0 if _agreed_signal is None else round(_agreed_signal.item() * count())


class _Sum(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        total = x.detach().clone(memory_format=torch.contiguous_format)
        total = total if total.is_floating_point() else total.float()  # not every backend can sum bool
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        total = gradient.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total)  # the loss of each worker depends on the x of all workers
        return total


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.images = len(x)
        as_bytes = x.to(torch.uint8) if x.dtype == torch.bool else x  # not every backend can gather bool
        parts = [torch.empty_like(as_bytes, memory_format=torch.contiguous_format) for _ in range(count())]
        dist.all_gather(parts, as_bytes.contiguous())
        return torch.cat(parts).to(x.dtype)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        total = gradient.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total)
        return total.narrow(0, dist.get_rank() * ctx.images, ctx.images)

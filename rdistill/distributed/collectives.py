"""What training workers exchange within a step, so that a step is that of one worker with the whole batch.

DDP averages the workers' gradients. That is the whole batch's gradient for a mean over images, which all workers
have equally many of. Whatever else is in a loss (a mean over valid pixels, a statistic or a relation across images)
needs its counts, its statistics or its other images from all workers; :func:`mean` and :func:`gather` fetch them.
On one worker they return what they are given, and cost nothing.
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

# The loss that is being computed, and what it declares to exchange; None outside of losses.
_declared: ContextVar[tuple[str, tuple[str, ...]] | None] = ContextVar("declared", default=None)
_alone: ContextVar[bool] = ContextVar("alone", default=False)
stop_signal = 0  # the signal that this worker received; goes to the other workers with what is logged
_agreed: Tensor | None = None


def count() -> int:
    """How many workers train together."""
    if _alone.get() or not (dist.is_available() and dist.is_initialized()):
        return 1
    return dist.get_world_size()


@contextmanager
def alone() -> Iterator[None]:
    """Lets a worker compute a loss by itself, while the others may be doing something else."""
    token = _alone.set(True)
    try:
        yield
    finally:
        _alone.reset(token)


@contextmanager
def exchanging(loss: str, kinds: tuple[str, ...]) -> Iterator[None]:
    """Computes a loss within this: what it exchanges must be of the kinds that it declares.

    On one worker too, where nothing is exchanged: what is wrong with a declaration shows in the first test of a loss.
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
    """The mean of every worker's ``x``, elementwise; gradients reach each worker's own."""
    _require_declared("counts", "statistics")
    workers = count()
    return x if workers == 1 else _Sum.apply(x) / workers


def gather(x: Tensor) -> Tensor:
    """Every worker's ``x`` (N x ..., equally shaped), joined along N; gradients reach each worker's own."""
    _require_declared("embeddings")
    return x if count() == 1 else _Gather.apply(x)


def gather_objects(value: Any) -> list[Any]:
    """Every worker's ``value``, in the order of their ranks. Pickled: not for every step."""
    if count() == 1:
        return [value]
    values: list[Any] = [None] * count()
    dist.all_gather_object(values, value)
    return values


def mean_of_logs(values: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The mean over workers of scalars to be logged, in one exchange; NaN on one worker is NaN on all."""
    global _agreed
    if count() == 1 or not values:
        return dict(values)
    scalars = [value.detach().float().mean() for value in values.values()]
    stacked = torch.stack([*scalars, torch.full_like(scalars[0], float(stop_signal))])
    dist.all_reduce(stacked)
    *means, _agreed = (stacked / count()).unbind()
    return dict(zip(values, means, strict=True))


def agreed_to_stop() -> int:
    """The signal that some worker received before the last :func:`mean_of_logs`; 0: none. The same on all."""
    return 0 if _agreed is None else round(_agreed.item() * count())


class _Sum(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        total = x.detach().clone(memory_format=torch.contiguous_format)
        total = total if total.is_floating_point() else total.float()  # not every backend adds up bool
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        total = gradient.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total)  # each worker's loss depends on every worker's x
        return total


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.images = len(x)
        as_bytes = x.to(torch.uint8) if x.dtype == torch.bool else x  # not every backend gathers bool
        parts = [torch.empty_like(as_bytes, memory_format=torch.contiguous_format) for _ in range(count())]
        dist.all_gather(parts, as_bytes.contiguous())
        return torch.cat(parts).to(x.dtype)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        total = gradient.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total)
        return total.narrow(0, dist.get_rank() * ctx.images, ctx.images)

"""Activation checkpointing: layers compute their activations again in the backward pass (Chen et al., 2016)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from typing import Any

from torch import nn
from torch.utils.checkpoint import checkpoint

from rdistill._compat.torch import NormWithStatistics
from rdistill.core.errors import UserError, did_you_mean


def checkpoint_activations(model: nn.Module, names: str | Sequence[str]) -> None:
    """Makes layers keep only their input for the backward pass: less memory, for one more forward pass.

    This replaces mmengine's version, which uses reentrant checkpoints: with these, a backbone gets no gradients and is
    silently not trained, because its input images require no gradient. BatchNorm's running statistics are updated once
    in a step, although there are two forward passes.

    Args:
        model: the student; changed in place.
        names: dotted names of layers.

    Raises:
        UserError: the model has no such layer.
    """
    modules = dict(model.named_modules())
    for name in dict.fromkeys([names] if isinstance(names, str) else names):
        if name not in modules:
            raise UserError(
                f"activation_checkpointing: {type(model).__name__} has no layer {name!r}{did_you_mean(name, modules)}"
            )
        layer = modules[name]
        # A partial and not a closure, so that a deep copy of the model, as for an EMA teacher, runs its own layer.
        layer.forward = partial(_checkpointed, layer, layer.forward)  # type: ignore[method-assign]


def _checkpointed(layer: nn.Module, forward: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    return checkpoint(forward, *args, use_reentrant=False, context_fn=partial(_contexts, layer), **kwargs)


def _contexts(layer: nn.Module) -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
    """The contexts of the first forward pass and of the repeated one."""
    return nullcontext(), _frozen_statistics(layer)


@contextmanager
def _frozen_statistics(layer: nn.Module) -> Iterator[None]:
    """Within the context, a forward pass does not change BatchNorm's running statistics."""
    norms = [norm for norm in layer.modules() if isinstance(norm, NormWithStatistics)]
    before = [(norm.momentum, norm.num_batches_tracked) for norm in norms]
    try:
        for norm in norms:
            norm.momentum = 0.0  # not track_running_stats=False: both passes must save the same tensors
            if norm.num_batches_tracked is not None:
                norm.num_batches_tracked = norm.num_batches_tracked.clone()
        yield
    finally:
        for norm, (momentum, counted) in zip(norms, before, strict=True):
            norm.momentum, norm.num_batches_tracked = momentum, counted

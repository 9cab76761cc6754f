"""Layers that compute again in the backward pass what they would otherwise keep for it (Chen et al., 2016)."""

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
    """Makes layers keep nothing but their input: less memory for one more forward pass of theirs.

    In place of mmengine's, which checkpoints reentrantly: there a backbone, whose input is images and takes no
    gradient, gets no gradients itself, and stays as it was without a word. And BatchNorm's running statistics are those
    of one pass a step, not of two.

    Args:
        model: the student.
        names: of its layers, dotted.

    Raises:
        UserError: it has no such layer.
    """
    modules = dict(model.named_modules())
    for name in dict.fromkeys([names] if isinstance(names, str) else names):
        if name not in modules:
            raise UserError(
                f"activation_checkpointing: {type(model).__name__} has no layer {name!r}{did_you_mean(name, modules)}"
            )
        layer = modules[name]
        # Not a closure: a deep copy of the model, as EMA makes, is to run the copy's layer.
        layer.forward = partial(_checkpointed, layer, layer.forward)  # type: ignore[method-assign]


def _checkpointed(layer: nn.Module, forward: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    return checkpoint(forward, *args, use_reentrant=False, context_fn=partial(_first_and_again, layer), **kwargs)


def _first_and_again(layer: nn.Module) -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
    """What the two passes run in."""
    return nullcontext(), _statistics_kept(layer)


@contextmanager
def _statistics_kept(layer: nn.Module) -> Iterator[None]:
    norms = [norm for norm in layer.modules() if isinstance(norm, NormWithStatistics)]
    before = [(norm.momentum, norm.num_batches_tracked) for norm in norms]
    try:
        for norm in norms:
            norm.momentum = 0.0  # not track_running_stats: the two passes are to keep the same tensors
            if norm.num_batches_tracked is not None:
                norm.num_batches_tracked = norm.num_batches_tracked.clone()
        yield
    finally:
        for norm, (momentum, counted) in zip(norms, before, strict=True):
            norm.momentum, norm.num_batches_tracked = momentum, counted

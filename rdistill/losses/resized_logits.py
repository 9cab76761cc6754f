"""Logits that are resized once for all losses of a training step.

mmseg resizes a head's output to the label for the student's own loss, and each distillation loss on the same logits
needs the same tensor. Sharing it saves a resize with its backward pass, and a tensor of full size for each loss.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar

import torch
from torch import Tensor

from rdistill._compat.torch import version_of


class ResizedLogits:
    """The resized logits of one step, found by the tensor that was resized and the size.

    Args:
        is_shared: whether a tensor that mmseg resizes for the student's own loss is kept for the distillation losses.
    """

    def __init__(self, is_shared: Callable[[Tensor], bool]) -> None:
        self.is_shared = is_shared
        # The tensor itself is kept beside its id, which another tensor may get otherwise.
        self._kept: dict[tuple[int, tuple[int, ...]], tuple[Tensor, Tensor, int]] = {}

    def keep(self, logits: Tensor, resized: Tensor) -> None:
        """Remembers that ``resized`` is ``logits`` in the height and width that it has."""
        if not resized.is_inference():
            self._kept[id(logits), tuple(resized.shape[-2:])] = (logits, resized, version_of(resized))

    def find(self, logits: Tensor, size: Sequence[int]) -> Tensor | None:
        """``logits`` in ``size`` (height, width); None if they were not kept, or have been written into since."""
        _, resized, version = self._kept.get((id(logits), tuple(size)), (None, None, None))
        return resized if resized is None or version_of(resized) == version else None


_shared: ContextVar[ResizedLogits | None] = ContextVar("resized_logits", default=None)


@contextmanager
def sharing_resized_logits(is_shared: Callable[[Tensor], bool]) -> Iterator[ResizedLogits]:
    """Within the context, the same logits are resized only once; see :class:`ResizedLogits`."""
    shared = ResizedLogits(is_shared)
    token = _shared.set(shared)
    try:
        yield shared
    finally:
        _shared.reset(token)


def resized_logits(logits: Tensor, size: Sequence[int], resize: Callable[[Tensor, Sequence[int]], Tensor]) -> Tensor:
    """What ``resize(logits, size)`` returns: inside the context, it is computed once for each tensor and size."""
    shared = _shared.get()
    if shared is None or torch.compiler.is_compiling():
        return resize(logits, size)
    resized = shared.find(logits, size)
    if resized is None:
        resized = resize(logits, size)
        shared.keep(logits, resized)
    return resized


def keep_resized_for_task(logits: Tensor, resized: Tensor) -> None:
    """Keeps what mmseg resized for the student's own loss, bilinear and without aligned corners.

    Nothing is kept in lower precision, because a distillation loss would resize the same logits in float32.
    """
    shared = _shared.get()
    if shared is None or torch.compiler.is_compiling() or resized.dtype != torch.float32:
        return
    if shared.is_shared(logits):
        shared.keep(logits, resized)

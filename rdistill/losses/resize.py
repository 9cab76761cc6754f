"""Bilinear resizing with a fast gradient on the CPU."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from rdistill.losses.common import without_autocast

FULL_PRECISION = (torch.float32, torch.float64)
SMALLEST = 16_384  # numbers in a resized tensor from which the products are faster than PyTorch's gradient


def resize_bilinear(x: Tensor, size: Sequence[int]) -> Tensor:
    """N x C x h x w -> N x C x ``size``, with ``align_corners=False``; ``x`` itself if it has that size.

    The values are those of :func:`torch.nn.functional.interpolate`. On the CPU, its gradient adds up one pixel at a
    time; here it is the product with the weights of the rows and of the columns. That is the same gradient up to
    rounding, in a seventh of the time for logits of 16 x 16 and in less than two thirds for large ones.
    """
    size = tuple(size)
    if tuple(x.shape[-2:]) == size:
        return x
    large = len(x) * x.shape[1] * size[0] * size[1] >= SMALLEST
    if large and x.device.type == "cpu" and x.dtype in FULL_PRECISION:
        resized: Tensor = _Resize.apply(x, size)  # type: ignore[no-untyped-call]
        return resized
    return _interpolated(x, size)


def _interpolated(x: Tensor, size: tuple[int, ...]) -> Tensor:
    return F.interpolate(x, size=size, mode="bilinear", align_corners=False)


class _Resize(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, size: tuple[int, ...]) -> Tensor:
        ctx.size_before = tuple(x.shape[-2:])
        return _interpolated(x, size)

    @staticmethod
    @once_differentiable  # type: ignore[untyped-decorator]
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor, None]:
        (height, width), (new_height, new_width) = ctx.size_before, upstream.shape[-2:]
        rows, columns = _weights(height, new_height, upstream.dtype), _weights(width, new_width, upstream.dtype)
        # Begin with the side that leaves less to do for the other.
        rows_first = height * new_width * (new_height + width) <= new_height * width * (new_width + height)
        with without_autocast(upstream.device.type):  # a share is measured within the forward pass's autocast
            gradient = rows.T @ upstream @ columns if rows_first else rows.T @ (upstream @ columns)
        return gradient, None


@lru_cache(maxsize=64)
def _weights(length: int, new_length: int, dtype: torch.dtype) -> Tensor:
    """How much each of ``length`` entries counts in each new one, ``new_length`` x ``length``."""
    one_hot = torch.eye(length, dtype=dtype)[None, None]
    return _interpolated(one_hot, (new_length, length))[0, 0]

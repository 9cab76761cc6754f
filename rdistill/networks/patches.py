"""Images for networks that cut them into patches, and maps of what such networks give for the patches."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from rdistill.core.errors import UserError

MOST_BEFORE = 64  # tokens in front of those of the patches: class tokens and registers are a few


def fitted(images_nchw: Tensor, patch: int, fit: str) -> Tensor:
    """Images whose sides the patch divides; those whose sides it divides already as they are.

    Args:
        images_nchw: N x C x H x W.
        patch: side of a patch in pixels.
        fit: ``resize`` to the next larger multiple, or ``pad`` with zeros at the right and below.
    """
    height, width = images_nchw.shape[-2:]
    size = math.ceil(height / patch) * patch, math.ceil(width / patch) * patch
    if size == (height, width):
        return images_nchw
    if fit == "pad":
        return torch.nn.functional.pad(images_nchw, (0, size[1] - width, 0, size[0] - height))
    return resized(images_nchw, size)


def resized(x_nchw: Tensor, size: Sequence[int]) -> Tensor:
    """Bilinear, without aliasing where it becomes smaller."""
    if tuple(x_nchw.shape[-2:]) == tuple(size):
        return x_nchw
    return torch.nn.functional.interpolate(x_nchw, tuple(size), mode="bilinear", align_corners=False, antialias=True)


def in_proportion(map_nchw: Tensor, image: Sequence[int]) -> Tensor:
    """A map of an image that was resized: with the image's own proportions, and no finer than the image.

    Args:
        map_nchw: N x C x h x w, of the image at whatever size the network was given it.
        image: its height and width in pixels. A map of these proportions, but for rounding, is left as it is.
    """
    height, width = map_nchw.shape[-2:]
    share = min(1.0, math.sqrt(height * width / (image[0] * image[1])))
    size = max(1, round(image[0] * share)), max(1, round(image[1] * share))
    near = abs(size[0] - height) <= 1 and abs(size[1] - width) <= 1
    return map_nchw if near and share < 1 else resized(map_nchw, size)


def without_padding(map_nchw: Tensor, image: Sequence[int], padded: Sequence[int]) -> Tensor:
    """The part of a map that lies on the image.

    Args:
        map_nchw: of a padded image.
        image, padded: height and width in pixels without and with the padding; a cell belongs to the image that has
            half of itself or more there.
    """
    height, width = (
        max(1, round(cells * side / whole))
        for cells, side, whole in zip(map_nchw.shape[-2:], image, padded, strict=True)
    )
    return map_nchw[..., :height, :width]


def folded(tokens: Tensor, grid: tuple[int, int]) -> Tensor:
    """Tokens (N x L x C) of patches row by row as a map (N x C x h x w); class token and registers are left out.

    Args:
        tokens: those that are no patch's come first.
        grid: rows and columns of patches.

    Raises:
        UserError: there are fewer tokens than patches, or many more.
    """
    before = tokens.shape[1] - grid[0] * grid[1]
    if not 0 <= before <= MOST_BEFORE:
        raise UserError(
            f"the network gives {tokens.shape[1]} tokens for {grid[0]} x {grid[1]} patches: they are no map; "
            f"name a layer of it as the feature"
        )
    return tokens[:, before:].transpose(1, 2).reshape(len(tokens), -1, *grid)

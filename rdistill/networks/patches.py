"""Fits images to networks that cut them into patches, and turns the outputs for patches into maps."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from rdistill.core.errors import UserError

MAX_EXTRA_TOKENS = 64  # largest number of tokens before the patch tokens, such as class tokens and registers


def fitted(images_nchw: Tensor, patch: int, fit: str) -> Tensor:
    """Fits images so that their sides are multiples of the patch size; images that fit already are not changed.

    Args:
        images_nchw: N x C x H x W.
        patch: side of a patch in pixels.
        fit: ``resize`` to the next larger multiple, or ``pad`` with zeros at the right and at the bottom.
    """
    height, width = images_nchw.shape[-2:]
    size = math.ceil(height / patch) * patch, math.ceil(width / patch) * patch
    if size == (height, width):
        return images_nchw
    if fit == "pad":
        return torch.nn.functional.pad(images_nchw, (0, size[1] - width, 0, size[0] - height))
    return resized(images_nchw, size)


def resized(x_nchw: Tensor, size: Sequence[int]) -> Tensor:
    """Bilinear resizing, with antialiasing if the result is smaller."""
    if tuple(x_nchw.shape[-2:]) == tuple(size):
        return x_nchw
    return torch.nn.functional.interpolate(x_nchw, tuple(size), mode="bilinear", align_corners=False, antialias=True)


def in_proportion(map_nchw: Tensor, image: Sequence[int]) -> Tensor:
    """Resizes a map to the proportions of the original image, but not to more cells than the image has pixels.

    Args:
        map_nchw: N x C x h x w, the map of an image that was resized for the network.
        image: height and width of the original image in pixels. If the map has these proportions already, up to
            rounding, it is not changed.
    """
    height, width = map_nchw.shape[-2:]
    scale = min(1.0, math.sqrt(height * width / (image[0] * image[1])))
    size = max(1, round(image[0] * scale)), max(1, round(image[1] * scale))
    fits = abs(size[0] - height) <= 1 and abs(size[1] - width) <= 1
    return map_nchw if fits and scale < 1 else resized(map_nchw, size)


def without_padding(map_nchw: Tensor, image: Sequence[int], padded: Sequence[int]) -> Tensor:
    """Cuts the padding off a map.

    Args:
        map_nchw: the map of a padded image.
        image, padded: height and width of the image in pixels, without and with the padding. A cell is kept if at
            least half of it is on the image.
    """
    height, width = (
        max(1, math.floor(cells * side / whole + 0.5))  # `round` would round a half to the next even number
        for cells, side, whole in zip(map_nchw.shape[-2:], image, padded, strict=True)
    )
    return map_nchw[..., :height, :width]


def folded(tokens: Tensor, grid: tuple[int, int]) -> Tensor:
    """Folds tokens (N x L x C) into a map (N x C x h x w); class token and registers are dropped.

    Args:
        tokens: the tokens of the patches, row by row, after extra tokens such as a class token.
        grid: rows and columns of patches.

    Raises:
        UserError: there are fewer tokens than patches, or many more.
    """
    extra = tokens.shape[1] - grid[0] * grid[1]
    if not 0 <= extra <= MAX_EXTRA_TOKENS:
        raise UserError(
            f"the network gives {tokens.shape[1]} tokens for {grid[0]} x {grid[1]} patches: they are no map; "
            f"name a layer of it as the feature"
        )
    return tokens[:, extra:].transpose(1, 2).reshape(len(tokens), -1, *grid)

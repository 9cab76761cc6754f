"""Converts an image that a pipeline has loaded (any number of bands and bits) to RGB for display."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from rdistill.config.walk import kind_of

EIGHT_BIT_RANGE = (1.5, 255.0)  # if the largest value is between these, the image has 8 bits and is shown unchanged
BLACK_PERCENTILE, WHITE_PERCENTILE = 1, 99  # percentiles that become black and white in images of other ranges


def loading_steps(pipeline: Sequence[Mapping[str, Any]]) -> int:
    """Returns the number of steps at a pipeline's beginning that read files: the first, and following loaders."""
    count = 1
    while count < len(pipeline) and kind_of(pipeline[count]).startswith("Load"):
        count += 1
    return count


def loads_bgr(pipeline: Sequence[Mapping[str, Any]]) -> bool:
    """Returns whether a pipeline loads channels in the order BGR, like mmcv's readers do except tifffile."""
    first = pipeline[0]
    return kind_of(first) == "LoadImageFromFile" and first.get("imdecode_backend", "cv2") != "tifffile"


def as_rgb(pixels: np.ndarray, *, bgr: bool) -> np.ndarray:
    """Returns an image for display: height x width x 3, uint8.

    Of one or two bands the first is shown in grey; of more bands the first three are shown as red, green, blue. Values
    outside the range of 8 bits are stretched from their 1st to their 99th percentile.

    Args:
        pixels: height x width, or height x width x bands; integers or floats.
        bgr: whether the first three bands are blue, green, red.
    """
    if pixels.ndim == 2:
        pixels = pixels[..., None]
    shown = pixels[..., :1].repeat(3, axis=-1) if pixels.shape[-1] < 3 else pixels[..., :3]
    if bgr:
        shown = shown[..., ::-1]
    if shown.dtype == np.uint8:
        return np.ascontiguousarray(shown)
    values = np.nan_to_num(shown.astype(np.float32), nan=0.0, posinf=0.0, neginf=0.0)
    if values.min() < 0 or not EIGHT_BIT_RANGE[0] < values.max() <= EIGHT_BIT_RANGE[1]:
        low, high = np.percentile(values, (BLACK_PERCENTILE, WHITE_PERCENTILE))
        values = (values - low) / max(high - low, np.finfo(np.float32).tiny) * 255
    return np.ascontiguousarray(values.clip(0, 255).round().astype(np.uint8))

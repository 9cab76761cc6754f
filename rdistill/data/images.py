"""An image as a pipeline loads it, made visible: any number of bands, 8 bits or more."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from rdistill.config.walk import kind_of

EIGHT_BITS = (1.5, 255.0)  # the largest value of an image of 8 bits lies between: such an image is shown as it is
DARKEST, BRIGHTEST = 1, 99  # percentiles of the values that become black and white, where they are no 8 bits


def loading_steps(pipeline: Sequence[Mapping[str, Any]]) -> int:
    """How many steps at a pipeline's beginning read files: the first, and the loaders right after it."""
    count = 1
    while count < len(pipeline) and kind_of(pipeline[count]).startswith("Load"):
        count += 1
    return count


def loads_bgr(pipeline: Sequence[Mapping[str, Any]]) -> bool:
    """Whether a pipeline loads blue, green, red in this order: by mmcv's readers, but for tifffile's."""
    first = pipeline[0]
    return kind_of(first) == "LoadImageFromFile" and first.get("imdecode_backend", "cv2") != "tifffile"


def as_rgb(pixels: np.ndarray, *, bgr: bool) -> np.ndarray:
    """What a person is shown of an image: height x width x 3, uint8.

    One or two bands are shown as grey, the first of them; of more, the first three as red, green, blue. Values that
    are no 8 bits are stretched from their 1st to their 99th percentile.

    Args:
        pixels: height x width, or height x width x bands; whole numbers or floats.
        bgr: the first three bands are blue, green, red.
    """
    if pixels.ndim == 2:
        pixels = pixels[..., None]
    shown = pixels[..., :1].repeat(3, axis=-1) if pixels.shape[-1] < 3 else pixels[..., :3]
    if bgr:
        shown = shown[..., ::-1]
    if shown.dtype == np.uint8:
        return np.ascontiguousarray(shown)
    values = np.nan_to_num(shown.astype(np.float32), nan=0.0, posinf=0.0, neginf=0.0)
    if values.min() < 0 or not EIGHT_BITS[0] < values.max() <= EIGHT_BITS[1]:
        low, high = np.percentile(values, (DARKEST, BRIGHTEST))
        values = (values - low) / max(high - low, np.finfo(np.float32).tiny) * 255
    return np.ascontiguousarray(values.clip(0, 255).round().astype(np.uint8))

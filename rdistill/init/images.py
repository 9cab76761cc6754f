"""What the images of a data set are: sizes, channels, bits, and how each channel is distributed."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import cv2
import numpy as np
from PIL import ExifTags, Image

from rdistill.core.errors import UserError, message_line
from rdistill.init.masks import in_threads
from rdistill.models.packages import absent_packages
from rdistill.schemas.mappings import PlainConfig

MOST_MEASURED = 200  # images whose pixels are read, a seeded sample of more
OF_TIFF = (".tif", ".tiff")
RGB = 3
OPENCV_CHANNELS = 4  # OpenCV reads no more
FLOAT_BITS = 32
UNLIKE = 10  # times the smallest deviation of a band: more are of another scale
ON_THEIR_SIDE = (5, 6, 7, 8)  # orientations that exchange width and height


@dataclass(frozen=True)
class ImageSurvey:
    """What the images of a data set are together."""

    sizes: Counter[tuple[int, int]]  # width, height -> images
    channels: int  # that a model gets
    bits: int  # bits of a value; 32 for floats
    loader: PlainConfig  # the pipeline's step that reads them
    mean: tuple[float, ...] | None = None  # each channel's, or one for all; None: the model's own
    std: tuple[float, ...] | None = None
    reasons: tuple[str, ...] = ()

    @property
    def typical(self) -> tuple[int, int]:
        """Width and height of the median."""
        return (
            round(median(width for width, _ in self.sizes.elements())),
            round(median(height for _, height in self.sizes.elements())),
        )

    @property
    def shortest(self) -> int:
        """The shorter side of the median image, in pixels."""
        return round(median(min(size) for size in self.sizes.elements()))


@dataclass(frozen=True)
class _Header:
    size: tuple[int, int]  # width, height
    channels: int
    bits: int
    paged: bool = False  # a TIFF of several pages, of which OpenCV reads the first alone


def survey(train: Sequence[Path], paths: Sequence[Path]) -> ImageSurvey:
    """Reads the headers of all images, and the pixels of some of those for training.

    Raises:
        UserError: one cannot be read, they do not have the same channels, or a package is missing that reads them.
    """
    headers = in_threads(_header, paths)
    kinds = Counter(header.channels for header in headers)
    sizes = Counter(header.size for header in headers)
    largest, bits = max(kinds), max(header.bits for header in headers)
    in_tiff = all(path.suffix.lower() in OF_TIFF for path in paths)
    paged = any(header.paged for header in headers)
    if bits <= 8 and not paged and (largest <= RGB or (largest == OPENCV_CHANNELS and not in_tiff)):
        reasons = []
        if set(kinds) == {1}:
            reasons.append("images are grey: each is read as red = green = blue, so that any model takes it")
        if largest == OPENCV_CHANNELS:
            reasons.append("images have an alpha channel, which is left out; four bands of data belong into a TIFF")
        return ImageSurvey(sizes, RGB, 8, {"type": "LoadImageFromFile"}, reasons=tuple(reasons))
    if len(kinds) > 1:
        counts = ", ".join(f"{count} of {channels}" for channels, count in kinds.most_common(3))
        usual = kinds.most_common(1)[0][0]
        path = next(path for path, header in zip(paths, headers, strict=True) if header.channels != usual)
        raise UserError(f"{path}: images differ in their number of channels ({counts}); a model takes one number")
    with_tifffile = paged or bits == FLOAT_BITS or largest > OPENCV_CHANNELS
    backend = "tifffile" if with_tifffile else "cv2"
    loader: PlainConfig = {
        "type": "LoadImageFromFile", "color_type": "unchanged", "to_float32": True, "imdecode_backend": backend,
    }  # fmt: skip
    if absent := absent_packages(loader):
        raise UserError(f"{paths[0]}: {absent}")
    chosen = sorted(random.Random(0).sample(list(train), min(len(train), MOST_MEASURED)))
    mean, std = _statistics(chosen, largest, loader)
    of_all = f"mean and deviation are those of {len(chosen)} training images"
    if largest not in (1, RGB):
        levels = ", ".join(f"{value:.3g}" for value in mean)
        of_all += f", all bands together (mmengine takes one of each, or three): the bands' means are {levels}"
        if max(std) > UNLIKE * min(std):
            of_all += "; they differ much: give the bands one scale in the files"
        mean, std = _together(mean, std)
    what = f"{largest} channel{'s are' if largest > 1 else ' is'} read as in the file"
    return ImageSurvey(sizes, largest, bits, loader, mean, std, (f"{what}; {of_all}",))


def _together(mean: Sequence[float], std: Sequence[float]) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and deviation of all channels as one."""
    whole = sum(mean) / len(mean)
    square = sum(value**2 + deviation**2 for value, deviation in zip(mean, std, strict=True)) / len(mean)
    return (float(f"{whole:.6g}"),), (float(f"{max(square - whole**2, 0) ** 0.5 or 1.0:.6g}"),)


def _header(path: Path) -> _Header:
    if path.suffix.lower() in OF_TIFF:
        with suppress(ImportError):
            return _tiff_header(path)
    try:
        with Image.open(path) as image:
            bits = 16 if image.mode.startswith("I") else FLOAT_BITS if image.mode == "F" else 8
            channels = RGB if image.mode == "P" else len(image.getbands())
            if image.format == "PNG" and channels >= RGB and image.mode != "P":
                bits = _bits_of_png(path)  # Pillow reads 16 bits of a colour as 8
            width, height = image.size
            if image.format != "PNG" and image.getexif().get(ExifTags.Base.Orientation, 1) in ON_THEIR_SIDE:
                width, height = height, width
            return _Header((width, height), channels, bits)
    except Exception as error:  # decoders raise anything from OSError to struct.error
        pixels = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
        if pixels is None:
            raise UserError(f"{path}: cannot be read: {message_line(error)}") from None
        channels = 1 if pixels.ndim == 2 else int(pixels.shape[2])
        return _Header((int(pixels.shape[1]), int(pixels.shape[0])), channels, 8 * pixels.dtype.itemsize)


def _tiff_header(path: Path) -> _Header:
    import tifffile

    try:
        with tifffile.TiffFile(path) as file:
            series = file.series[0]
            shape, kind, paged = series.shape, np.dtype(series.dtype), len(series.pages) > 1
    except Exception as error:  # whatever tifffile raises for a damaged file
        raise UserError(f"{path}: cannot be read: {message_line(error)}") from None
    if len(shape) not in (2, 3) or (len(shape) == 3 and shape[2] > min(shape[:2])):
        text = " x ".join(map(str, shape))
        raise UserError(f"{path}: is {text}, bands or images one after the other; store each pixel's bands together")
    channels = 1 if len(shape) == 2 else int(shape[2])
    bits = FLOAT_BITS if kind.kind == "f" else 8 * kind.itemsize
    return _Header((int(shape[1]), int(shape[0])), channels, bits, paged)


def _bits_of_png(path: Path) -> int:
    with path.open("rb") as file:
        return file.read(25)[24]


def _statistics(
    paths: Sequence[Path], channels: int, loader: PlainConfig
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of each channel, as the pipeline's step reads it."""
    total, squares, count = np.zeros(channels), np.zeros(channels), 0
    for path in paths:
        pixels = read_pixels(path, loader).reshape(-1, channels).astype(np.float64)
        pixels = pixels[np.isfinite(pixels).all(axis=1)]
        total, squares, count = total + pixels.sum(0), squares + (pixels**2).sum(0), count + len(pixels)
    mean = total / max(count, 1)
    std = np.sqrt(np.maximum(squares / max(count, 1) - mean**2, 0))
    std[std == 0] = 1  # a channel that is the same everywhere
    return tuple(float(f"{value:.6g}") for value in mean), tuple(float(f"{value:.6g}") for value in std)


def read_pixels(path: Path, loader: PlainConfig) -> np.ndarray:
    """H x W x channels, as the pipeline's step reads it. Raises UserError where it cannot be read."""
    if loader.get("imdecode_backend") == "tifffile":
        import tifffile

        pixels: Any = tifffile.imread(path)
    else:
        pixels = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    if pixels is None:
        raise UserError(f"{path}: cannot be read as an image")
    return np.asarray(pixels[..., None] if pixels.ndim == 2 else pixels)

"""Surveys the images of a data set: sizes, channels, bits, mean and deviation of each channel."""

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
from rdistill.core.files import in_threads
from rdistill.core.words import counted
from rdistill.models.packages import absent_packages
from rdistill.schemas.mappings import PlainConfig

MAX_MEASURED = 200  # the pixels of at most this many images are read, as a seeded sample
TIFF_SUFFIXES = (".tif", ".tiff")
RGB = 3
OPENCV_CHANNELS = 4  # OpenCV reads at most this many
FLOAT_BITS = 32
MAX_DEVIATION_RATIO = 10  # largest deviation of a band / smallest: above it, the bands have different scales
ROTATED_ORIENTATIONS = (5, 6, 7, 8)  # EXIF orientations that exchange width and height


@dataclass(frozen=True)
class ImageSurvey:
    """Properties of all images of a data set."""

    sizes: Counter[tuple[int, int]]  # (width, height) -> number of images
    channels: int  # the model's input channels
    bits: int  # bits of a value; 32 for floats
    loader: PlainConfig  # the pipeline step that reads the images
    mean: tuple[float, ...] | None = None  # one value for each channel, or one for all; None keeps the model's
    std: tuple[float, ...] | None = None
    reasons: tuple[str, ...] = ()

    @property
    def typical(self) -> tuple[int, int]:
        """Median width and median height, in pixels."""
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
    has_pages: bool = False  # a TIFF of several pages; OpenCV reads only the first
    cmyk: bool = False  # colours of print, which OpenCV converts to RGB; `channels` is 3


def survey(train: Sequence[Path], paths: Sequence[Path]) -> ImageSurvey:
    """Reads the headers of all images, and the pixels of some training images if their mean is needed.

    Args:
        train: training images.
        paths: all images.

    Raises:
        UserError: an image cannot be read, images differ in their channels, or the package that reads them is missing.
    """
    headers = in_threads(_header, paths)
    channel_counts = Counter(header.channels for header in headers)
    sizes = Counter(header.size for header in headers)
    largest, bits = max(channel_counts), max(header.bits for header in headers)
    in_tiff = all(path.suffix.lower() in TIFF_SUFFIXES for path in paths)
    has_pages = any(header.has_pages for header in headers)
    if bits <= 8 and not has_pages and (largest <= RGB or (largest == OPENCV_CHANNELS and not in_tiff)):
        reasons = []
        if set(channel_counts) == {1}:
            reasons.append("images are grey: each is read as red = green = blue, so that any model accepts it")
        if largest == OPENCV_CHANNELS:
            reasons.append("images have an alpha channel, which is left out; store four bands of data as TIFF")
        if cmyk := sum(header.cmyk for header in headers):
            reasons.append(f"{cmyk} of {len(headers)} images are in CMYK, which is converted to red, green and blue")
        return ImageSurvey(sizes, RGB, 8, {"type": "LoadImageFromFile"}, reasons=tuple(reasons))
    if len(channel_counts) > 1:
        counts = ", ".join(f"{count} of {channels}" for channels, count in channel_counts.most_common(3))
        usual = channel_counts.most_common(1)[0][0]
        path = next(path for path, header in zip(paths, headers, strict=True) if header.channels != usual)
        raise UserError(f"{path}: images differ in their number of channels ({counts}); a model takes one number")
    with_tifffile = has_pages or bits == FLOAT_BITS or largest > OPENCV_CHANNELS
    backend = "tifffile" if with_tifffile else "cv2"
    loader: PlainConfig = {
        "type": "LoadImageFromFile", "color_type": "unchanged", "to_float32": True, "imdecode_backend": backend,
    }  # fmt: skip
    if absent := absent_packages(loader):
        raise UserError(f"{paths[0]}: {absent}")
    chosen = sorted(random.Random(0).sample(list(train), min(len(train), MAX_MEASURED)))
    mean, std = _statistics(chosen, largest, loader)
    reason = f"mean and deviation are those of {counted(len(chosen), 'training image')}"
    if largest not in (1, RGB):
        levels = ", ".join(f"{value:.3g}" for value in mean)
        reason += f", one value for all bands, because mmengine takes one or three: the bands' means are {levels}"
        if max(std) > MAX_DEVIATION_RATIO * min(std):
            reason += "; their deviations differ much: bring the bands to one scale in the files"
        mean, std = _pooled(mean, std)
    channel_text = f"{largest} channel{'s are' if largest > 1 else ' is'} read as in the file"
    return ImageSurvey(sizes, largest, bits, loader, mean, std, (f"{channel_text}; {reason}",))


def _pooled(mean: Sequence[float], std: Sequence[float]) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Returns mean and deviation over the values of all channels together."""
    mean_value = sum(mean) / len(mean)
    square = sum(value**2 + deviation**2 for value, deviation in zip(mean, std, strict=True)) / len(mean)
    return (float(f"{mean_value:.6g}"),), (float(f"{max(square - mean_value**2, 0) ** 0.5 or 1.0:.6g}"),)


def _header(path: Path) -> _Header:
    if path.suffix.lower() in TIFF_SUFFIXES:
        with suppress(ImportError):
            return _tiff_header(path)
    try:
        with Image.open(path) as image:
            bits = 16 if image.mode.startswith("I") else FLOAT_BITS if image.mode == "F" else 8
            channels = RGB if image.mode in ("P", "CMYK") else len(image.getbands())
            if image.format == "PNG" and channels >= RGB and image.mode != "P":
                bits = _bits_of_png(path)  # Pillow reduces colours of 16 bits to 8
            width, height = image.size
            if image.format != "PNG" and image.getexif().get(ExifTags.Base.Orientation, 1) in ROTATED_ORIENTATIONS:
                width, height = height, width
            return _Header((width, height), channels, bits, cmyk=image.mode == "CMYK")
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
            shape, kind, has_pages = series.shape, np.dtype(series.dtype), len(series.pages) > 1
    except Exception as error:  # tifffile raises different errors for damaged files
        raise UserError(f"{path}: cannot be read: {message_line(error)}") from None
    if len(shape) not in (2, 3) or (len(shape) == 3 and shape[2] > min(shape[:2])):
        text = " x ".join(map(str, shape))
        raise UserError(f"{path}: is {text}, which is a stack of bands or images; store it as height x width x bands")
    channels = 1 if len(shape) == 2 else int(shape[2])
    bits = FLOAT_BITS if kind.kind == "f" else 8 * kind.itemsize
    return _Header((int(shape[1]), int(shape[0])), channels, bits, has_pages)


def _bits_of_png(path: Path) -> int:
    with path.open("rb") as file:
        return file.read(25)[24]


def _statistics(
    paths: Sequence[Path], channels: int, loader: PlainConfig
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Returns mean and standard deviation of each channel of the images, read like in the pipeline."""
    total, squares, count = np.zeros(channels), np.zeros(channels), 0
    for path in paths:
        pixels = read_pixels(path, loader).reshape(-1, channels).astype(np.float64)
        pixels = pixels[np.isfinite(pixels).all(axis=1)]
        total, squares, count = total + pixels.sum(0), squares + (pixels**2).sum(0), count + len(pixels)
    mean = total / max(count, 1)
    std = np.sqrt(np.maximum(squares / max(count, 1) - mean**2, 0))
    std[std == 0] = 1  # a constant channel
    return tuple(float(f"{value:.6g}") for value in mean), tuple(float(f"{value:.6g}") for value in std)


def read_pixels(path: Path, loader: PlainConfig) -> np.ndarray:
    """Reads an image (H x W x channels) like the pipeline does. Raises UserError if it cannot be read."""
    if loader.get("imdecode_backend") == "tifffile":
        import tifffile

        pixels: Any = tifffile.imread(path)
    else:
        pixels = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    if pixels is None:
        raise UserError(f"{path}: cannot be read as an image")
    return np.asarray(pixels[..., None] if pixels.ndim == 2 else pixels)

"""``pictures/pictures.json``: the images that a sweep has drawn at its end, and the score of each image."""

from __future__ import annotations

from typing import TypedDict


class _Scored(TypedDict):
    name: str  # name of the image file


class ImageScores(_Scored, total=False):
    """mIoU of one validation image for each model, in percent; None if all pixels are ignored."""

    teacher: float | None
    baseline: float | None
    best: float | None


class ChosenImage(TypedDict):
    """An image that is drawn."""

    which: str  # 'worst', 'median' or 'best'
    name: str
    files: dict[str, str]  # panel of the strip -> PNG file in the same folder
    IoU: dict[str, float | None]  # keys are models


class ModelSize(TypedDict, total=False):
    """The cost of a model, as far as it can be measured."""

    params: float
    flops: float  # operations for one image at validation size
    latency_ms: float  # median of one image alone
    problem: str  # the reason in one line if FLOPs or latency are absent


class Pictures(TypedDict, total=False):
    """Either ``reason`` or all the others; a file of an older version lacks the last three."""

    reason: str  # the reason why there are no images
    best: str  # id of a trial
    baseline: str | None
    images: int  # number of validation images
    scored: int  # number of validation images with a score
    classes: list[str]
    palette: list[list[int]]
    chosen: list[ChosenImage]
    per_image: list[ImageScores]
    models: dict[str, ModelSize]  # keys are 'teacher', 'baseline' and 'best'
    size: list[int]  # height and width of the image for which `models` were measured
    device: str  # the device on which the latency was measured
    busy: str  # other load on the machine at that time, in words; empty for none

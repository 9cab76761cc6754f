"""``pictures/pictures.json``: which images a sweep has drawn at its end, and each image's score."""

from __future__ import annotations

from typing import TypedDict


class _Scored(TypedDict):
    name: str  # the file's


class ImageScores(_Scored, total=False):
    """mIoU of one validation image by each model, in percent; None where all of it is ignored."""

    teacher: float | None
    baseline: float | None
    best: float | None


class ChosenImage(TypedDict):
    """An image that is drawn."""

    which: str  # 'worst', 'median' or 'best'
    name: str
    files: dict[str, str]  # part of the strip -> PNG file beside pictures.json
    IoU: dict[str, float | None]  # keys are models


class ModelSize(TypedDict, total=False):
    """What a model costs, as far as it can be measured."""

    params: float
    flops: float  # operations for one image at validation size
    latency_ms: float  # median of one image alone
    problem: str  # why FLOPs or latency are absent; one line


class Pictures(TypedDict, total=False):
    """Either ``reason`` or all the others; a file of an older version lacks the last three."""

    reason: str  # why there are none
    best: str  # id of a trial
    baseline: str | None
    images: int  # how many the validation data has
    scored: int  # how many of them have a score
    classes: list[str]
    palette: list[list[int]]
    chosen: list[ChosenImage]
    per_image: list[ImageScores]
    models: dict[str, ModelSize]  # keys are 'teacher', 'baseline' and 'best'
    size: list[int]  # height and width of the image that these are of
    device: str  # that the latency was measured on
    busy: str  # what else the machine did meanwhile, in words; empty for nothing

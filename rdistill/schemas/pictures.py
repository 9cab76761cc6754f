"""``pictures/pictures.json``: which images a sweep has drawn at its end, and each image's score."""

from __future__ import annotations

from typing import TypedDict


class _Scored(TypedDict):
    name: str  # of the file


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
    IoU: dict[str, float | None]  # by model


class Pictures(TypedDict, total=False):
    """Either ``reason`` or all the others."""

    reason: str  # why there are none
    best: str  # id of a trial
    baseline: str | None
    images: int  # of the validation data
    scored: int  # of them
    classes: list[str]
    palette: list[list[int]]
    chosen: list[ChosenImage]
    per_image: list[ImageScores]

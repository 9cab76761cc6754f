"""Images on their way into a model and out of it, as mmengine and mmseg hand them around; and what a data set says.

Tensors and samples are theirs, without types that mypy could see.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypedDict


class Packed(TypedDict):
    """One image as ``PackSegInputs`` ends a pipeline."""

    inputs: Any  # tensor, bands x height x width
    data_samples: Any  # mmseg's SegDataSample: the mask and where the image came from


class Batch(TypedDict):
    """Several of them, as mmengine's ``pseudo_collate`` puts them together."""

    inputs: list[Any]
    data_samples: list[Any]


class Pixels(TypedDict):
    """mmengine's PixelData as a dict."""

    data: Any  # tensor, channels x height x width


class ScoredSample(TypedDict):
    """A SegDataSample as a dict, which is how mmengine's evaluator hands it to a metric."""

    gt_sem_seg: Pixels
    pred_sem_seg: Pixels


class DatasetMeta(TypedDict, total=False):
    """A data set's ``metainfo``, also as a checkpoint keeps it in ``meta.dataset_meta``. A data set may add keys."""

    classes: Sequence[str]
    palette: Sequence[Sequence[int]] | None  # RGB of each class

"""Images and samples in the forms that mmengine and mmseg pass around, and the metainfo of a data set.

Tensors and mmseg's samples have the type Any, since mypy does not read the types of these packages.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypedDict


class Packed(TypedDict):
    """One image, as mmseg's ``PackSegInputs`` returns it at the end of a pipeline."""

    inputs: Any  # tensor, bands x height x width
    data_samples: Any  # mmseg's SegDataSample, with the mask and the image's path


class Batch(TypedDict):
    """A batch of images, as mmengine's ``pseudo_collate`` returns it."""

    inputs: list[Any]
    data_samples: list[Any]


class Pixels(TypedDict):
    """mmengine's PixelData as a dict."""

    data: Any  # tensor, channels x height x width


class ScoredSample(TypedDict):
    """A SegDataSample as a dict, the form in which mmengine's evaluator passes it to a metric."""

    gt_sem_seg: Pixels
    pred_sem_seg: Pixels


class DatasetMeta(TypedDict, total=False):
    """The ``metainfo`` of a data set, also in a checkpoint's ``meta.dataset_meta``. A data set may add keys."""

    classes: Sequence[str]
    palette: Sequence[Sequence[int]] | None  # RGB of each class

"""The labels of a batch: which pixels have a label, and which pixels the losses on logits use."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from mmengine.structures import PixelData
from torch import Tensor, nn

from rdistill.data.unlabeled import MARK, NO_LABEL
from rdistill.losses.functional import with_logit_channels
from rdistill.models.class_map import mapped_share

MIN_MAPPED = 0.5  # a pixel counts if the teacher's classes that the student has get at least this probability


@dataclass(frozen=True)
class BatchLabels:
    """The labels of N images of height H and width W; images with a mask come first."""

    samples: list[Any]  # mmseg's data samples; a pixel without a label has the ignored label
    label_nhw: Tensor  # the labels of `samples` as one tensor
    seen_nhw: Tensor | None  # bool: the pixels that losses on logits use; None: the pixels with a label
    labeled: int  # number of images with a mask


def batch_labels(data_samples: Sequence[Any], ignore: int, *, on_ignored: bool = False) -> BatchLabels:
    """Reads the labels of a batch. If every image has a mask and ``on_ignored`` is False, they stay unchanged.

    Args:
        data_samples: mmseg's data samples after preprocessing; they are not modified.
        ignore: the label of pixels that no loss uses (``ignore_index``).
        on_ignored: whether the transform ``MarkIgnored`` has marked the ignored pixels that are not padding, for the
            losses on logits to use them.
    """
    labeled = sum(not sample.get(MARK) for sample in data_samples)
    assert not any(sample.get(MARK) for sample in data_samples[:labeled])
    raw = torch.stack([sample.gt_sem_seg.data.squeeze(0) for sample in data_samples])
    if labeled == len(data_samples) and not on_ignored:
        return BatchLabels(list(data_samples), raw, None, labeled)
    with_mask, without_mask = raw[:labeled], raw[labeled:]
    label = torch.where(with_mask == NO_LABEL, ignore, with_mask) if on_ignored else with_mask
    label_nhw = torch.cat([label, torch.full_like(without_mask, ignore)])
    seen_nhw = torch.cat([with_mask != ignore, without_mask == NO_LABEL])
    return BatchLabels(with_labels(data_samples, label_nhw), label_nhw, seen_nhw, labeled)


def restrict_to_classes(labels: BatchLabels, classes: Sequence[int], ignore: int) -> BatchLabels:
    """The labels restricted to ``classes``, renumbered in that order; pixels of other classes are ignored."""
    label_nhw = labels.label_nhw
    numbers = label_nhw.new_full((max(classes) + 1,), ignore)
    numbers[list(classes)] = torch.arange(len(classes), dtype=numbers.dtype, device=numbers.device)
    inside = (label_nhw >= 0) & (label_nhw < len(numbers)) & (label_nhw != ignore)
    renumbered = torch.where(inside, numbers[torch.where(inside, label_nhw, 0).long()], ignore)
    seen_nhw = labels.seen_nhw
    if seen_nhw is not None:
        seen_nhw = seen_nhw & ((label_nhw == ignore) | (renumbered != ignore))
    return replace(labels, label_nhw=renumbered, seen_nhw=seen_nhw)


def drop_unmapped_pixels(labels: BatchLabels, mapped_nhw: Tensor, ignore: int) -> BatchLabels:
    """The labels without the pixels where ``mapped_nhw`` (N x H x W, bool) is False.

    These pixels get the ignored label as well, so that losses that use the labels skip them too.
    """
    seen_nhw = labels.label_nhw != ignore if labels.seen_nhw is None else labels.seen_nhw
    label_nhw = torch.where(mapped_nhw, labels.label_nhw, ignore)
    return replace(labels, label_nhw=label_nhw, seen_nhw=seen_nhw & mapped_nhw)


def mapped_mask(logits_nchw: Tensor, size: Sequence[int]) -> Tensor:
    """The pixels, N x H x W bool, where a teacher with a class map mostly predicts classes that the student has.

    A pixel counts if these classes get a probability of at least one half in total.

    Args:
        logits_nchw: the teacher's logits after its class map, of any resolution.
        size: H and W of the result.
    """
    share = mapped_share(logits_nchw)[:, None]
    return nn.functional.interpolate(share, tuple(size), mode="bilinear", align_corners=False)[:, 0] >= MIN_MAPPED


def with_labels(data_samples: Sequence[Any], label_nhw: Tensor) -> list[Any]:
    """Copies of mmseg's data samples with the labels ``label_nhw``."""
    copies = []
    for sample, label in zip(data_samples, label_nhw, strict=True):
        copied = sample.new()
        copied.gt_sem_seg = PixelData(data=label[None])
        copies.append(copied)
    return copies


def select_images(value: Any, selected: slice, images: int) -> Any:
    """The entries of the selected images.

    Args:
        value: a tensor, or a list of tensors. One whose first dimension is not ``images``, such as a parameter of the
            model, belongs to all images and is returned whole.
        selected: which images.
        images: number of images in the batch.
    """
    if isinstance(value, Tensor):
        return value[selected] if value.ndim and len(value) == images else value
    return [select_images(item, selected, images) for item in value]


def confident_mask(logits_nchw: Tensor, size: Sequence[int], min_confidence: float) -> Tensor:
    """The pixels, N x H x W bool, whose largest class probability is at least ``min_confidence``.

    Args:
        logits_nchw: logits of any resolution; a single channel is the logit of a sigmoid over two classes.
        size: H and W of the result.
        min_confidence: probability, 0 to 1.
    """
    logits_nchw = with_logit_channels(logits_nchw.float(), max(2, logits_nchw.shape[1]))
    resized = nn.functional.interpolate(logits_nchw, tuple(size), mode="bilinear", align_corners=False)
    return resized.softmax(dim=1).amax(dim=1) >= min_confidence

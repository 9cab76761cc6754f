"""What a batch says of its pixels: which have a label, and at which the losses on logits look."""

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

MAPPED = 0.5  # probability that classes with one of the student's must have for a pixel to count


@dataclass(frozen=True)
class BatchLabels:
    """The labels of N images of height H and width W, those with a mask first."""

    samples: list[Any]  # mmseg's, with the ignored label wherever there is none
    label_nhw: Tensor  # the same, as one tensor
    seen_nhw: Tensor | None  # where losses on logits look, bool; None: where there is a label
    labeled: int  # images with a mask


def batch_labels(data_samples: Sequence[Any], ignore: int, *, on_ignored: bool = False) -> BatchLabels:
    """Reads the masks of a batch. Without images of no mask, and without ``on_ignored``, they stay as they are.

    Args:
        data_samples: mmseg's, preprocessed; left as they are.
        ignore: the label that counts nowhere.
        on_ignored: ``MarkIgnored`` has marked the ignored pixels that are no padding.
    """
    labeled = sum(not sample.get(MARK) for sample in data_samples)
    assert not any(sample.get(MARK) for sample in data_samples[:labeled])
    raw = torch.stack([sample.gt_sem_seg.data.squeeze(0) for sample in data_samples])
    if labeled == len(data_samples) and not on_ignored:
        return BatchLabels(list(data_samples), raw, None, labeled)
    with_mask, without = raw[:labeled], raw[labeled:]
    label = torch.where(with_mask == NO_LABEL, ignore, with_mask) if on_ignored else with_mask
    label_nhw = torch.cat([label, torch.full_like(without, ignore)])
    seen_nhw = torch.cat([with_mask != ignore, without == NO_LABEL])
    return BatchLabels(with_labels(data_samples, label_nhw), label_nhw, seen_nhw, labeled)


def of_classes(labels: BatchLabels, classes: Sequence[int], ignore: int) -> BatchLabels:
    """The labels of a batch by some classes alone, numbered anew in that order; no loss sees pixels of the others."""
    label_nhw = labels.label_nhw
    numbers = label_nhw.new_full((max(classes) + 1,), ignore)
    numbers[list(classes)] = torch.arange(len(classes), dtype=numbers.dtype, device=numbers.device)
    inside = (label_nhw >= 0) & (label_nhw < len(numbers)) & (label_nhw != ignore)
    renumbered = torch.where(inside, numbers[torch.where(inside, label_nhw, 0).long()], ignore)
    seen_nhw = labels.seen_nhw
    if seen_nhw is not None:
        seen_nhw = seen_nhw & ((label_nhw == ignore) | (renumbered != ignore))
    return replace(labels, label_nhw=renumbered, seen_nhw=seen_nhw)


def seen_by(labels: BatchLabels, mapped_nhw: Tensor, ignore: int) -> BatchLabels:
    """The labels of a batch where no loss on logits sees what is false in ``mapped_nhw``, N x H x W.

    Those that are about the labels look where there is one: there is none in these pixels then.
    """
    seen_nhw = labels.label_nhw != ignore if labels.seen_nhw is None else labels.seen_nhw
    label_nhw = torch.where(mapped_nhw, labels.label_nhw, ignore)
    return replace(labels, label_nhw=label_nhw, seen_nhw=seen_nhw & mapped_nhw)


def mapped_enough(logits_nchw: Tensor, size: Sequence[int]) -> Tensor:
    """Where a teacher with a class map gives half or more to classes that have one of the student's: N x H x W bool.

    Args:
        logits_nchw: the teacher's, mapped, of any resolution.
        size: H and W, to which they are resized.
    """
    share = mapped_share(logits_nchw)[:, None]
    return nn.functional.interpolate(share, tuple(size), mode="bilinear", align_corners=False)[:, 0] >= MAPPED


def with_labels(data_samples: Sequence[Any], label_nhw: Tensor) -> list[Any]:
    """Copies of mmseg's samples with other labels."""
    copies = []
    for sample, label in zip(data_samples, label_nhw, strict=True):
        copied = sample.new()
        copied.gt_sem_seg = PixelData(data=label[None])
        copies.append(copied)
    return copies


def rows_of(value: Any, rows: slice, images: int) -> Any:
    """Those of some images, of tensors that have one entry for each of ``images``, or of lists of such tensors.

    What has not, such as a parameter of a model, is the same for all images.
    """
    if isinstance(value, Tensor):
        return value[rows] if value.ndim and len(value) == images else value
    return [rows_of(item, rows, images) for item in value]


def confident(logits_nchw: Tensor, size: Sequence[int], least: float) -> Tensor:
    """Where the largest probability is at least ``least``: N x H x W bool.

    Args:
        logits_nchw: of any resolution; one channel is a sigmoid's of two classes.
        size: H and W, to which the logits are resized.
    """
    logits_nchw = with_logit_channels(logits_nchw.float(), max(2, logits_nchw.shape[1]))
    resized = nn.functional.interpolate(logits_nchw, tuple(size), mode="bilinear", align_corners=False)
    return resized.softmax(dim=1).amax(dim=1) >= least

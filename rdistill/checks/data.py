"""Checks the files of a run's data before training or scoring."""

from __future__ import annotations

import os
import random
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from mmengine.config import Config

from rdistill.checks.scored_training_images import scored_training_images
from rdistill.checks.unused_files import broken_entries, files_in_use, unused_files
from rdistill.core.errors import message_line
from rdistill.core.files import in_threads
from rdistill.core.words import listed
from rdistill.data.reading import Size
from rdistill.data.splits import IGNORED, OUTSIDE, Split, data_classes, data_splits, describe_data, describe_layouts

DECODED_IMAGES = 2000  # a quick check decodes at most this many images of a split, as a seeded sample
MASKS_PER_ROUND = 256  # masks that are decoded before the search for missing classes is checked again
MAX_SHOWN = 5  # number of classes or labels that a line lists

__all__ = [
    "DECODED_IMAGES",
    "DataReport",
    "Split",
    "data_classes",
    "data_problems",
    "data_splits",
    "describe_data",
    "describe_layouts",
    "inspect_data",
]  # fmt: skip


@dataclass
class DataReport:
    """Result of the checks of a config's data."""

    problems: list[str] = field(default_factory=list)  # one line each
    notes: list[str] = field(default_factory=list)  # worth knowing, but no errors
    sizes: dict[str, dict[str, Size]] = field(default_factory=dict)  # split -> image file -> (width, height)


@dataclass(frozen=True)
class _Finding:
    kind: str  # name of the group that such problems are counted in
    line: str


@dataclass
class _FileReport:
    """Result of the checks of one image and its mask."""

    findings: list[_Finding] = field(default_factory=list)
    size: Size | None = None  # size of the image
    values: np.ndarray | None = None  # number of pixels for each mask value, 0 to 255; None if not decoded


def data_problems(
    cfg: Config, *, max_lines: int = 10, full: bool = False, splits: Sequence[Split] | None = None
) -> list[str]:
    """Returns only the problems of :func:`inspect_data`, by default for the splits of training and validation."""
    return inspect_data(data_splits(cfg) if splits is None else splits, max_lines=max_lines, full=full).problems


def inspect_data(splits: Sequence[Split], *, max_lines: int = 10, full: bool = False) -> DataReport:
    """Opens the files of some datasets like their pipelines do, and reports problems and notes.

    Problems: an empty split, an image without a mask, a mask of another size, a label outside the classes, an
    unreadable file, a broken link, a class that no training mask contains, validation masks without any class.
    Notes: files that are not used, masks without an image, a class that no validation mask contains, training images
    that are scored as well.

    Args:
        splits: from :func:`rdistill.data.splits.data_splits`.
        max_lines: problems that are listed for each kind and dataset; further ones are only counted.
        full: decode every file. Otherwise all headers are read, but of more than 2,000 images only a sample is
            decoded, and then more masks until every class is found.
    """
    report = DataReport()
    counts: dict[str, list[tuple[Split, np.ndarray]]] = {}
    splits_with_problems, used = set(), files_in_use(splits)
    for split in splits:
        where = f"{split.name} data"
        report.notes += [f"{where}: {line}" for line in unused_files(split, used)]
        lines = broken_entries(split) + ([split.problem] if split.problem is not None else [])
        report.problems += _limited(where, lines, max_lines, "broken links and folders")
        if split.problem is not None:
            splits_with_problems.add(split.name)
            continue
        if split.loaders is None:
            report.notes.append(f"{where}: {len(split.entries)} images of a remote storage are not checked")
            continue
        inspected = _inspect_files(split, full)
        findings = [finding for file in inspected for finding in file.findings]
        for kind in dict.fromkeys(finding.kind for finding in findings):
            report.problems += _limited(where, [file.line for file in findings if file.kind == kind], max_lines, kind)
        if findings:
            splits_with_problems.add(split.name)
        report.sizes.setdefault(split.name, {}).update(
            {entry["img_path"]: file.size for entry, file in zip(split.entries, inspected, strict=True) if file.size}
        )
        if split.table is not None:
            counts.setdefault(split.name, []).append((split, _value_counts(split, inspected, complete=not findings)))
    report.notes += scored_training_images(splits)
    for name, parts in counts.items():
        if name not in splits_with_problems:  # an unreadable mask may contain the missing class
            problem, note = _absent_classes(name, parts)
            report.problems += problem
            report.notes += note
    return report


def _limited(where: str, lines: Sequence[str], max_lines: int, kind: str) -> list[str]:
    shown = [f"{where}: {line}" for line in lines[:max_lines]]
    return [*shown, f"{where}: ... and {len(lines) - max_lines} more {kind}"] if len(lines) > max_lines else shown


def _decoded(work: Callable[[Any], Any], items: Iterable[Any]) -> list[Any]:
    """Applies a function that decodes images to items, in threads and without warnings."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow warns about large images
        return in_threads(work, items)


def _inspect_files(split: Split, full: bool) -> list[_FileReport]:
    """Opens every file, and decodes all files or a seeded sample."""
    count = len(split.entries)
    decoded = (
        set(range(count))
        if full or count <= DECODED_IMAGES
        else set(random.Random(0).sample(range(count), DECODED_IMAGES))
    )
    return _decoded(lambda index: _inspect_file(split, split.entries[index], decode=index in decoded), range(count))


def _inspect_file(split: Split, entry: Mapping[str, Any], *, decode: bool) -> _FileReport:
    image, mask = entry["img_path"], entry.get("seg_map_path")
    for path in (image, mask):
        if "\0" in (path or ""):
            return _FileReport(
                [
                    _Finding(
                        "names with a NUL byte", f"{path!r}: contains a NUL byte, which is not allowed in file names"
                    )
                ]
            )
    broken = [path for path in (image, mask) if path and Path(path).is_symlink() and not os.path.exists(path)]
    if broken:
        return _FileReport(
            [_Finding("broken links", f"{broken[0]}: is a link to {os.readlink(broken[0])}, which does not exist")]
        )
    if not Path(image).is_file():
        return _FileReport([_Finding("missing images", f"{image}: no such file")])
    if mask is not None and not Path(mask).is_file():
        return _FileReport([_Finding("images without a mask", f"{image}: has no mask; expected {mask}")])
    inspected = _FileReport()
    assert split.loaders is not None
    if split.loaders.image is not None:
        try:
            inspected.size = split.loaders.image_size(entry, decode=decode)
        except Exception as error:  # decoders raise anything from OSError to struct.error
            inspected.findings.append(_unreadable(image, error))
    if mask is not None and split.loaders.mask is not None:
        _inspect_mask(split, entry, decode, inspected)
    return inspected


def _mask_report(split: Split, entry: Mapping[str, Any]) -> _FileReport:
    inspected = _FileReport()
    _inspect_mask(split, entry, True, inspected)
    return inspected


def _inspect_mask(split: Split, entry: Mapping[str, Any], decode: bool, inspected: _FileReport) -> None:
    path = entry["seg_map_path"]
    assert split.loaders is not None
    try:
        labels = split.loaders.labels(entry) if decode else None
        size = split.loaders.mask_size(entry) if labels is None else (labels.shape[1], labels.shape[0])
    except Exception as error:
        inspected.findings.append(_unreadable(path, error))
        return
    if labels is not None and split.table is not None:
        if labels.ndim != 2:
            text = f"{path}: has {labels.shape[-1]} channels; a mask has one channel of class numbers"
            inspected.findings.append(_Finding("masks in colour", text))
        else:
            inspected.values, outside = _count_values(labels, split)
            if outside:
                shown = ", ".join(map(str, outside[:MAX_SHOWN])) + (", ..." if len(outside) > MAX_SHOWN else "")
                text = f"{path}: holds label {shown}; there are {len(split.classes)} classes"
                inspected.findings.append(_Finding("masks with labels outside the classes", text))
    if inspected.size and tuple(size) != inspected.size:
        text = f"{path}: is {size[0]} x {size[1]} pixels, its image {inspected.size[0]} x {inspected.size[1]}"
        inspected.findings.append(_Finding("masks of another size", text))


def _count_values(labels: np.ndarray, split: Split) -> tuple[np.ndarray, list[int]]:
    """Returns the number of pixels for each value (0 to 255), and the values that are neither a class nor ignored."""
    assert split.table is not None and split.loaders is not None
    if labels.dtype == np.uint8:
        counts = cv2.calcHist([np.ascontiguousarray(labels)], [0], None, [256], [0, 256]).ravel().astype(np.int64)
        out_of_range: list[int] = []
    else:
        values, pixels = np.unique(labels.astype(np.int64), return_counts=True)
        inside = (values >= 0) & (values < 256)
        counts = np.zeros(256, np.int64)
        counts[values[inside]] = pixels[inside]
        out_of_range = values[~inside].tolist()
    if not split.loaders.plain_masks:  # the loading step has mapped the labels already
        return counts, [value for value in np.flatnonzero(counts).tolist() if not _is_class_or_ignored(value, split)]
    return counts, sorted([*np.flatnonzero((counts > 0) & (split.table == OUTSIDE)).tolist(), *out_of_range])


def _is_class_or_ignored(label: int, split: Split) -> bool:
    return label < len(split.classes) or label == 255


def _value_counts(split: Split, inspected: Sequence[_FileReport], *, complete: bool) -> np.ndarray:
    """Counts pixels by value in the decoded masks; if ``complete``, decodes more masks until each class is found."""
    assert split.table is not None and split.loaders is not None
    total = np.zeros(256, np.int64)
    undecoded = []
    for entry, file in zip(split.entries, inspected, strict=True):
        if file.values is not None:
            total += file.values
        elif entry.get("seg_map_path") is not None:
            undecoded.append(entry)
    random.Random(0).shuffle(undecoded)
    while complete and undecoded and (_class_pixels(split, total) == 0).any():
        chunk, undecoded = undecoded[:MASKS_PER_ROUND], undecoded[MASKS_PER_ROUND:]
        for file in _decoded(lambda entry: _mask_report(split, entry), chunk):
            total += 0 if file.values is None else file.values
    return total


def _class_pixels(split: Split, values: np.ndarray) -> np.ndarray:
    """Converts pixels by mask value to pixels by class."""
    assert split.table is not None and split.loaders is not None
    count = len(split.classes)
    if not split.loaders.plain_masks:
        return values[:count]
    classes = split.table >= 0
    return np.bincount(split.table[classes], weights=values[classes], minlength=count).astype(np.int64)


def _absent_classes(name: str, parts: Sequence[tuple[Split, np.ndarray]]) -> tuple[list[str], list[str]]:
    """Returns problems and notes about classes that are in no mask of a split, over all its datasets."""
    first = parts[0][0]
    if any(len(split.classes) != len(first.classes) for split, _ in parts):
        return [], []  # another check reports it
    pixels = sum(_class_pixels(split, values) for split, values in parts)
    values = np.flatnonzero(sum(values for _, values in parts))
    assert isinstance(pixels, np.ndarray) and first.table is not None
    masks = sum(sum(entry.get("seg_map_path") is not None for entry in split.entries) for split, _ in parts)
    missing = [index for index in np.flatnonzero(pixels == 0).tolist() if first.classes[index] not in first.absent]
    if not masks or not missing:
        return [], []
    ignored = [value for value in values.tolist() if first.table[value] == IGNORED]
    content = f"they hold {listed(values.tolist(), MAX_SHOWN)}"
    if ignored:
        content += f", of which {listed(ignored, MAX_SHOWN)} is ignored"
    hint = _hint(first, missing, ignored)
    if not pixels.any():
        return [f"{name} data: none of the {masks} masks holds a pixel of any class: {content}{hint}"], []
    kind = {"train": "training", "val": "validation"}.get(name, name)
    shown = listed([f"{index} ({first.classes[index]})" for index in missing], MAX_SHOWN)
    text = f"{name} data: class {shown} is in none of the {masks} {kind} masks"
    if name != "train":
        return [], [f"{text}: it counts for mIoU only where it is predicted{hint}"]
    names = [first.classes[index] for index in missing][:MAX_SHOWN]
    fix = hint or (
        f"; add masks with it, or, where that is meant, name it: --set +train_dataloader.dataset.metainfo."
        f"absent_classes={names!r}"
    )
    return [f"{text}: {content}{fix}"], []


def _hint(split: Split, missing: Sequence[int], ignored: Sequence[int]) -> str:
    if split.reduce_zero_label:
        return "; reduce_zero_label=True ignores 0 and makes 1 the first class: take it out where 0 is a class"
    if len(split.classes) != 2 or len(missing) != 1 or len(ignored) != 1:
        return ""
    name = split.classes[missing[0]]
    return f"; where {ignored[0]} means {name}, pass --label-map {ignored[0]}={missing[0]}"


def _unreadable(path: str, error: Exception) -> _Finding:
    return _Finding("unreadable files", f"{path}: cannot be read: {message_line(error)}")

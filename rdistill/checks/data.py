"""Looks at the files of a run's data before training or scoring does."""

from __future__ import annotations

import os
import random
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from mmengine.config import Config

from rdistill.checks.unused_files import broken_entries, files_in_use, unused_files
from rdistill.core.errors import message_line
from rdistill.core.words import listed
from rdistill.data.reading import Size
from rdistill.data.splits import IGNORED, OUTSIDE, Split, data_classes, data_splits, describe_data, describe_layouts

ALL_BELOW = 2000  # images of a split that are decoded even in a quick check; a sample of that many if there are more
AT_ONCE = 256  # masks that are decoded, before it is looked whether a class is still missing
SHOWN = 5  # classes or labels named in a line

__all__ = [
    "ALL_BELOW", "DataReport", "Split", "check_data", "data_classes", "data_splits", "describe_data",
    "describe_layouts", "look_at_data",
]  # fmt: skip


@dataclass
class DataReport:
    """What was found out about a config's data."""

    problems: list[str] = field(default_factory=list)  # one line each
    notes: list[str] = field(default_factory=list)  # worth knowing, wrong with nothing
    sizes: dict[str, dict[str, Size]] = field(default_factory=dict)  # split -> image file -> width, height in pixels


@dataclass(frozen=True)
class _Finding:
    kind: str  # what several such problems are called together
    line: str


@dataclass
class _Seen:
    """What one image and its mask show."""

    findings: list[_Finding] = field(default_factory=list)
    size: Size | None = None  # the image's
    values: np.ndarray | None = None  # pixels of each value, 0 to 255, in the mask's file; None: not decoded


def check_data(cfg: Config, *, most: int = 10, full: bool = False, splits: Sequence[Split] | None = None) -> list[str]:
    """What is wrong with the files that training and validation read: the problems of :func:`look_at_data`."""
    return look_at_data(data_splits(cfg) if splits is None else splits, most=most, full=full).problems


def look_at_data(splits: Sequence[Split], *, most: int = 10, full: bool = False) -> DataReport:
    """Opens the files of some datasets as their pipelines do.

    Problems: an empty split, an image without a mask, a mask of another size, a label outside the classes, a file
    that cannot be read, a link to nothing, a class that no training mask holds, validation masks without any class.
    Notes: files that are not used, masks without an image, a class that no validation mask holds.

    Args:
        splits: from :func:`rdistill.data.splits.data_splits`.
        most: problems named for each kind and dataset; the others are counted.
        full: decode every file; otherwise of more than 2,000 images only a sample, and the headers of all. More masks
            are decoded where the sample lacks a class, until it is found.
    """
    report = DataReport()
    counts: dict[str, list[tuple[Split, np.ndarray]]] = {}
    unsound, used = set(), files_in_use(splits)
    for split in splits:
        where = f"{split.name} data"
        report.notes += [f"{where}: {line}" for line in unused_files(split, used)]
        lines = broken_entries(split) + ([split.problem] if split.problem is not None else [])
        report.problems += _first(where, lines, most, "broken links and folders")
        if split.problem is not None:
            unsound.add(split.name)
            continue
        if split.loaders is None:
            report.notes.append(f"{where}: {len(split.entries)} images of a remote storage are not looked at")
            continue
        seen = _look_at_all(split, full)
        findings = [finding for file in seen for finding in file.findings]
        for kind in dict.fromkeys(finding.kind for finding in findings):
            report.problems += _first(where, [file.line for file in findings if file.kind == kind], most, kind)
        if findings:
            unsound.add(split.name)
        report.sizes.setdefault(split.name, {}).update(
            {entry["img_path"]: file.size for entry, file in zip(split.entries, seen, strict=True) if file.size}
        )
        if split.table is not None:
            counts.setdefault(split.name, []).append((split, _values(split, seen, whole=not findings)))
    for name, parts in counts.items():
        if name not in unsound:  # a mask that cannot be read may hold the class
            problem, note = _absent_classes(name, parts)
            report.problems += problem
            report.notes += note
    return report


def _first(where: str, lines: Sequence[str], most: int, kind: str) -> list[str]:
    shown = [f"{where}: {line}" for line in lines[:most]]
    return [*shown, f"{where}: ... and {len(lines) - most} more {kind}"] if len(lines) > most else shown


def _in_threads(work: Callable[[Any], Any], items: Iterable[Any]) -> list[Any]:
    """Decoders let go of the interpreter's lock."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow's, of large images
        with ThreadPoolExecutor(max_workers=min(8, 2 * (os.cpu_count() or 1))) as pool:
            return list(pool.map(work, items))


def _look_at_all(split: Split, full: bool) -> list[_Seen]:
    """Opens every file, decodes them or a seeded sample of them."""
    count = len(split.entries)
    decoded = set(range(count)) if full or count <= ALL_BELOW else set(random.Random(0).sample(range(count), ALL_BELOW))
    return _in_threads(lambda index: _look_at(split, split.entries[index], decode=index in decoded), range(count))


def _look_at(split: Split, entry: Mapping[str, Any], *, decode: bool) -> _Seen:
    image, mask = entry["img_path"], entry.get("seg_map_path")
    for path in (image, mask):
        if "\0" in (path or ""):
            return _Seen([_Finding("names with a NUL byte", f"{path!r}: has a NUL byte, which no file name can have")])
    loop = [path for path in (image, mask) if path and Path(path).is_symlink() and not os.path.exists(path)]
    if loop:
        return _Seen(
            [_Finding("broken links", f"{loop[0]}: is a link to {os.readlink(loop[0])}, which leads to no file")]
        )
    if not Path(image).is_file():
        return _Seen([_Finding("missing images", f"{image}: no such file")])
    if mask is not None and not Path(mask).is_file():
        return _Seen([_Finding("images without a mask", f"{image}: has no mask; expected {mask}")])
    seen = _Seen()
    assert split.loaders is not None
    if split.loaders.image is not None:
        try:
            seen.size = split.loaders.image_size(entry, decode=decode)
        except Exception as error:  # decoders raise anything from OSError to struct.error
            seen.findings.append(_unreadable(image, error))
    if mask is not None and split.loaders.mask is not None:
        _look_at_mask(split, entry, decode, seen)
    return seen


def _of_the_mask(split: Split, entry: Mapping[str, Any]) -> _Seen:
    seen = _Seen()
    _look_at_mask(split, entry, True, seen)
    return seen


def _look_at_mask(split: Split, entry: Mapping[str, Any], decode: bool, seen: _Seen) -> None:
    path = entry["seg_map_path"]
    assert split.loaders is not None
    try:
        labels = split.loaders.labels(entry) if decode else None
        size = split.loaders.mask_size(entry) if labels is None else (labels.shape[1], labels.shape[0])
    except Exception as error:
        seen.findings.append(_unreadable(path, error))
        return
    if labels is not None and split.table is not None:
        if labels.ndim != 2:
            text = f"{path}: has {labels.shape[-1]} channels; a mask has one, of class numbers"
            seen.findings.append(_Finding("masks in colour", text))
        else:
            seen.values, outside = _count(labels, split)
            if outside:
                shown = ", ".join(map(str, outside[:SHOWN])) + (", ..." if len(outside) > SHOWN else "")
                text = f"{path}: holds label {shown}; there are {len(split.classes)} classes"
                seen.findings.append(_Finding("masks with labels outside the classes", text))
    if seen.size and tuple(size) != seen.size:
        text = f"{path}: is {size[0]} x {size[1]} pixels, its image {seen.size[0]} x {seen.size[1]}"
        seen.findings.append(_Finding("masks of another size", text))


def _count(labels: np.ndarray, split: Split) -> tuple[np.ndarray, list[int]]:
    """Pixels of each value from 0 to 255, and the values that are neither a class nor ignored."""
    assert split.table is not None and split.loaders is not None
    if labels.dtype == np.uint8:
        counts = cv2.calcHist([np.ascontiguousarray(labels)], [0], None, [256], [0, 256]).ravel().astype(np.int64)
        far: list[int] = []
    else:
        values, pixels = np.unique(labels.astype(np.int64), return_counts=True)
        inside = (values >= 0) & (values < 256)
        counts = np.zeros(256, np.int64)
        counts[values[inside]] = pixels[inside]
        far = values[~inside].tolist()
    if not split.loaders.plain_masks:  # such a step has mapped the labels already
        return counts, [value for value in np.flatnonzero(counts).tolist() if not _of_a_class(value, split)]
    return counts, sorted([*np.flatnonzero((counts > 0) & (split.table == OUTSIDE)).tolist(), *far])


def _of_a_class(label: int, split: Split) -> bool:
    return label < len(split.classes) or label == 255


def _values(split: Split, seen: Sequence[_Seen], *, whole: bool) -> np.ndarray:
    """Pixels of each value in all masks that were decoded; of those that were not, until each class is found."""
    assert split.table is not None and split.loaders is not None
    total = np.zeros(256, np.int64)
    rest = []
    for entry, file in zip(split.entries, seen, strict=True):
        if file.values is not None:
            total += file.values
        elif entry.get("seg_map_path") is not None:
            rest.append(entry)
    random.Random(0).shuffle(rest)
    while whole and rest and (_pixels(split, total) == 0).any():
        some, rest = rest[:AT_ONCE], rest[AT_ONCE:]
        for file in _in_threads(lambda entry: _of_the_mask(split, entry), some):
            total += 0 if file.values is None else file.values
    return total


def _pixels(split: Split, values: np.ndarray) -> np.ndarray:
    """Pixels of each class."""
    assert split.table is not None and split.loaders is not None
    count = len(split.classes)
    if not split.loaders.plain_masks:
        return values[:count]
    classes = split.table >= 0
    return np.bincount(split.table[classes], weights=values[classes], minlength=count).astype(np.int64)


def _absent_classes(name: str, parts: Sequence[tuple[Split, np.ndarray]]) -> tuple[list[str], list[str]]:
    """Problems and notes of the classes that no mask of a split holds, all its datasets together."""
    first = parts[0][0]
    if any(len(split.classes) != len(first.classes) for split, _ in parts):
        return [], []  # another check reports it
    pixels = sum(_pixels(split, values) for split, values in parts)
    values = np.flatnonzero(sum(values for _, values in parts))
    assert isinstance(pixels, np.ndarray) and first.table is not None
    masks = sum(sum(entry.get("seg_map_path") is not None for entry in split.entries) for split, _ in parts)
    missing = [index for index in np.flatnonzero(pixels == 0).tolist() if first.classes[index] not in first.absent]
    if not masks or not missing:
        return [], []
    ignored = [value for value in values.tolist() if first.table[value] == IGNORED]
    content = f"they hold {listed(values.tolist(), SHOWN)}"
    if ignored:
        content += f", of which {listed(ignored, SHOWN)} is ignored"
    hint = _hint(first, missing, ignored)
    if not pixels.any():
        return [f"{name} data: none of the {masks} masks holds a pixel of any class: {content}{hint}"], []
    kind = {"train": "training", "val": "validation"}.get(name, name)
    shown = listed([f"{index} ({first.classes[index]})" for index in missing], SHOWN)
    text = f"{name} data: class {shown} is in none of the {masks} {kind} masks"
    if name != "train":
        return [], [f"{text}: it counts for mIoU only where it is predicted{hint}"]
    names = [first.classes[index] for index in missing][:SHOWN]
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

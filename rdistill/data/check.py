"""Looks at the files of a run's data before training does."""

from __future__ import annotations

import copy
import os
import random
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from mmengine.config import Config, ConfigDict
from mmengine.registry import init_default_scope
from PIL import Image

from rdistill.config_walk import kind_of, leaf_datasets
from rdistill.errors import UserError
from rdistill.quiet_mmseg import DATASETS

SPLITS = {"train": "train_dataloader", "val": "val_dataloader"}  # what training reads
ALL_BELOW = 2000  # images of a split that are decoded even in a quick check; of more, a sample of so many
ORIENTATION = 0x0112  # EXIF tag; from 5 up the loader turns the picture by a quarter


@dataclass(frozen=True)
class Split:
    """The files of one dataset, and how mmseg will read them."""

    name: str  # 'train' or 'val'
    entries: list[dict[str, Any]]  # mmseg's: img_path, seg_map_path
    allowed: np.ndarray | None  # raw label, 0 to 255 -> whether it is a class or ignored; None: not known
    num_classes: int
    decodable: bool  # whether Pillow reads what the pipeline's loaders read
    problem: str | None = None  # why there are no files


@dataclass(frozen=True)
class _Finding:
    kind: str  # what several such problems are called together
    line: str


def check_data(cfg: Config, *, most: int = 10, full: bool = False, splits: Sequence[Split] | None = None) -> list[str]:
    """What is wrong with the files that training and validation read.

    An empty split, an image without a mask, a mask of another size, a label outside the classes, a file that
    cannot be read. A mask without an image is fine.

    Args:
        cfg: from :func:`rdistill.config.load_config`.
        most: problems named for each kind and split; the others are counted.
        full: decode every file; otherwise of more than 2,000 images only a sample, and the headers of all.

        splits: of the config, where :func:`data_splits` has listed them already.

    Returns:
        One line a problem, in the order of the files.
    """
    problems: list[str] = []
    for split in data_splits(cfg) if splits is None else splits:
        if split.problem is not None:
            problems.append(f"{split.name} data: {split.problem}")
            continue
        findings = _look_at_all(split, full)
        for kind in dict.fromkeys(finding.kind for finding in findings):
            lines = [finding.line for finding in findings if finding.kind == kind]
            problems += [f"{split.name} data: {line}" for line in lines[:most]]
            if len(lines) > most:
                problems.append(f"{split.name} data: ... and {len(lines) - most} more {kind}")
    return problems


def data_splits(cfg: Config) -> list[Split]:
    """The training and validation data of a config, each dataset of a concatenation by itself."""
    init_default_scope("mmseg")
    splits = []
    for name, loader in SPLITS.items():
        if cfg.get(loader) is not None:
            splits += [_split(name, dataset) for dataset in leaf_datasets(cfg, loader)]
    return splits


def data_classes(cfg: Config, split: str) -> list[tuple[str, ...]]:
    """The class names of each dataset of a split ('train' or 'val') that has any."""
    init_default_scope("mmseg")
    found = []
    for one in leaf_datasets(cfg, SPLITS[split]):
        with suppress(Exception):  # a dataset that does not build is check_data's to report
            found.append(_without_files(one).metainfo.get("classes"))
    return [tuple(classes) for classes in found if classes]


def _without_files(dataset: Mapping[str, Any]) -> Any:
    """An mmseg dataset that has not looked for its files: knows its classes and where they would be."""
    plain = copy.deepcopy(ConfigDict(dataset))
    plain.update(lazy_init=True, pipeline=[])
    return DATASETS.build(plain)


def _split(name: str, cfg: ConfigDict) -> Split:
    try:
        dataset = _without_files(cfg)
        entries = _entries(dataset)
    except Exception as error:  # a dataset's own code: from FileNotFoundError to AssertionError
        text = str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}"
        return Split(name, [], None, 0, False, f"cannot be listed: {' '.join(text.split())[:300]}")
    if not entries:
        place = cfg.get("ann_file") or (cfg.get("data_prefix") or {}).get("img_path") or ""
        where = os.path.join(cfg.get("data_root") or "", place)
        suffix = getattr(dataset, "img_suffix", "")
        listed = "" if cfg.get("ann_file") else f" that end in {suffix}"
        return Split(name, [], None, 0, False, f"is empty: {where} has no images{listed}")
    steps = [kind_of(step) for step in cfg.get("pipeline") or ()]
    decodable = "LoadImageFromFile" in steps and not cfg.get("backend_args")
    classes = dataset.metainfo.get("classes") or ()
    allowed = _allowed_labels(dataset, len(classes)) if classes and "LoadAnnotations" in steps else None
    return Split(name, entries, allowed, len(classes), decodable)


def _entries(dataset: Any) -> list[dict[str, Any]]:
    """The files of a dataset, as its ``full_init`` would list them; that one fails where there are none."""
    dataset.data_list = dataset.load_data_list()
    entries = list(dataset.filter_data())
    wanted = dataset._indices
    if wanted is None:
        return entries
    if isinstance(wanted, int):
        return entries[:wanted] if wanted >= 0 else entries[wanted:]
    return [entries[index] for index in wanted]


def _allowed_labels(dataset: Any, num_classes: int) -> np.ndarray:
    """For each raw value of a mask, whether what mmseg's ``LoadAnnotations`` makes of it is a class or ignored."""
    labels = np.arange(256)
    if dataset.reduce_zero_label:
        labels = np.where((labels == 0) | (labels == 255), 255, labels - 1)
    before = labels.copy()
    for old, new in (dataset.label_map or {}).items():
        labels[before == old] = new
    return (labels < num_classes) | (labels == dataset.ignore_index)


def _look_at_all(split: Split, full: bool) -> list[_Finding]:
    """Opens every file, decodes them or a seeded sample of them; in threads, since Pillow lets go of the lock."""
    count = len(split.entries)
    decoded = set(range(count)) if full or count <= ALL_BELOW else set(random.Random(0).sample(range(count), ALL_BELOW))
    with ThreadPoolExecutor(max_workers=min(8, 2 * (os.cpu_count() or 1))) as pool:
        found = pool.map(lambda index: _look_at(split, split.entries[index], decode=index in decoded), range(count))
        return [finding for findings in found for finding in findings]


def _look_at(split: Split, entry: Mapping[str, Any], *, decode: bool) -> list[_Finding]:
    image, mask = entry["img_path"], entry.get("seg_map_path")
    if mask is not None and not Path(mask).is_file():
        if not Path(image).is_file():
            return [_Finding("missing images", f"{image}: no such file")]
        return [_Finding("images without a mask", f"{image}: has no mask; expected {mask}")]
    if not split.decodable:
        return [] if Path(image).is_file() else [_Finding("missing images", f"{image}: no such file")]
    findings: list[_Finding] = []
    image_size = _read_image(image, decode, findings)
    if mask is None:
        return findings
    mask_size = _read_mask(split, mask, decode, findings)
    if image_size and mask_size and image_size != mask_size:
        findings.append(
            _Finding(
                "masks of another size",
                f"{mask}: is {mask_size[0]} x {mask_size[1]} pixels, its image {image_size[0]} x {image_size[1]}",
            )
        )
    return findings


def _read_image(path: str, decode: bool, findings: list[_Finding]) -> tuple[int, int] | None:
    """Width and height as the loader gives them; None, and a finding, for a file that cannot be read."""
    try:
        with Image.open(path) as image:
            width, height = image.size
            turned = image.format in ("JPEG", "MPO") and image.getexif().get(ORIENTATION, 1) >= 5
            if decode:
                image.draft("L", (max(1, width // 8), max(1, height // 8)))  # reads all of a JPEG, computes an eighth
                image.load()
        return (height, width) if turned else (width, height)
    except FileNotFoundError:
        findings.append(_Finding("missing images", f"{path}: no such file"))
    except Exception as error:  # Pillow's decoders raise anything from OSError to struct.error
        findings.append(_unreadable(path, error))
    return None


def _read_mask(split: Split, path: str, decode: bool, findings: list[_Finding]) -> tuple[int, int] | None:
    try:
        with Image.open(path) as mask:
            size = mask.size
            if not decode:
                return size
            labels = np.asarray(mask)
    except Exception as error:
        findings.append(_unreadable(path, error))
        return None
    if split.allowed is None:
        return size
    if labels.ndim != 2:
        findings.append(
            _Finding("masks in colour", f"{path}: has {labels.shape[-1]} channels; a mask has one, of class numbers")
        )
    elif outside := _labels_outside(labels, split.allowed):
        shown = ", ".join(map(str, outside[:5])) + (", ..." if len(outside) > 5 else "")
        findings.append(
            _Finding(
                "masks with labels outside the classes",
                f"{path}: holds label {shown}; there are {split.num_classes} classes",
            )
        )
    return size


def _labels_outside(labels: np.ndarray, allowed: np.ndarray) -> list[int]:
    if labels.dtype == np.uint8 and allowed[labels].all():
        return []
    values = np.unique(labels.astype(np.int64))
    return [int(value) for value in values if not 0 <= value < len(allowed) or not allowed[value]]


def _unreadable(path: str, error: Exception) -> _Finding:
    return _Finding("unreadable files", f"{path}: cannot be read: {' '.join(str(error).split())[:200]}")


def describe_data(splits: Sequence[Split]) -> str:
    """``6 training and 3 validation images``."""
    counts = {name: sum(len(split.entries) for split in splits if split.name == name) for name in SPLITS}
    return f"{counts['train']} training and {counts['val']} validation images"

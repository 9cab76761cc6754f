"""The files of a run's data, as the config's datasets list them, before any of them is opened."""

from __future__ import annotations

import copy
import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypedDict

import numpy as np
from mmengine.config import Config, ConfigDict

from rdistill._compat.mmengine import wanted_entries
from rdistill.config.walk import class_names, kind_of, leaf_datasets
from rdistill.core.errors import error_line
from rdistill.data.reading import Loaders
from rdistill.layouts import describe_folder
from rdistill.models.quiet_mmseg import DATASETS

LOADERS = {"train": "train_dataloader", "val": "val_dataloader", "test": "test_dataloader"}
READ_BY_TRAINING = ("train", "val")
IGNORED, OUTSIDE = -1, -2  # a table of labels has these for what is no class


class SampleFiles(TypedDict, total=False):
    """The files of a sample, in mmseg's words; it has more keys for its own use."""

    img_path: str
    seg_map_path: str | None  # absent where there are no masks


@dataclass(frozen=True)
class Split:
    """The files of one dataset, and how mmseg will read them."""

    name: str  # 'train', 'val' or 'test'
    entries: list[SampleFiles]
    classes: tuple[str, ...] = ()
    table: np.ndarray | None = None  # value in a mask's file, 0 to 255 -> class, IGNORED or OUTSIDE; None: not known
    reduce_zero_label: bool = False  # mmseg's: label 0 is ignored, 1 is class 0
    absent: tuple[str, ...] = ()  # classes that are meant to be in no mask: metainfo.absent_classes
    loaders: Loaders | None = None  # None: files of a remote storage, which are not looked at
    layout: str = ""  # where the files are, in words
    folders: Folders | None = None  # None: a list names the files
    problem: str | None = None  # why there are no files


@dataclass(frozen=True)
class Folders:
    """Where a dataset without a list looks for its files."""

    images: Path
    masks: Path | None
    img_suffix: str
    seg_map_suffix: str


def data_splits(cfg: Config, names: Sequence[str] = READ_BY_TRAINING) -> list[Split]:
    """The data of a config, each dataset of a concatenation by itself."""
    splits = []
    for name in names:
        if cfg.get(LOADERS[name]) is not None:
            splits += [_split(name, dataset) for dataset in leaf_datasets(cfg, LOADERS[name])]
    return splits


def training_images(cfg: Config) -> int:
    """Training images on the disk; at least 1."""
    return max(1, sum(len(split.entries) for split in data_splits(cfg, ("train",))))


def data_classes(cfg: Config, split: str) -> list[tuple[str, ...]]:
    """The class names of each dataset of a split ('train' or 'val') that has any."""
    classes = []
    for dataset in leaf_datasets(cfg, LOADERS[split]):
        with suppress(Exception):  # a dataset that does not build is data_splits' to report
            classes.append(class_names(dataset))
    return [names for names in classes if names]


def describe_data(splits: Sequence[Split]) -> str:
    """``6 training and 3 validation images``."""
    counts = {name: sum(len(split.entries) for split in splits if split.name == name) for name in READ_BY_TRAINING}
    return f"{counts['train']} training and {counts['val']} validation images"


def describe_layouts(splits: Sequence[Split]) -> list[str]:
    """A line for each dataset: its kind, and where its images and masks are."""
    return [f"{split.name}: {split.layout}" for split in splits if split.layout]


def _without_files(dataset: Mapping[str, Any]) -> Any:
    """An mmseg dataset that has not looked for its files: knows its classes and where they would be."""
    plain = copy.deepcopy(ConfigDict(dataset))
    plain.update(lazy_init=True, pipeline=[])
    return DATASETS.build(plain)


def _split(name: str, cfg: ConfigDict) -> Split:
    try:
        dataset = _without_files(cfg)
        entries = _entries(dataset)
        loaders = Loaders(cfg.get("pipeline") or ())
    except Exception as error:  # a dataset's own code: from FileNotFoundError to AssertionError
        return Split(name, [], problem=f"cannot be listed: {_why_not_listed(cfg, error)}")
    folders = _folders(dataset)
    if not entries:
        place = cfg.get("ann_file") or (cfg.get("data_prefix") or {}).get("img_path") or ""
        where = os.path.join(cfg.get("data_root") or "", place)
        listed = "" if cfg.get("ann_file") else f" that end in {getattr(dataset, 'img_suffix', '')} (img_suffix)"
        return Split(name, [], folders=folders, problem=f"is empty: {where} has no images{listed}")
    metainfo = dataset.metainfo
    classes = tuple(metainfo.get("classes") or ())
    if loaders.label_map and dataset.reduce_zero_label:
        text = "a label map and reduce_zero_label=True exclude each other; with reduce_zero_label=False map 0=255, 1=0"
        return Split(name, entries, problem=f"{text} and so on")
    local = loaders.local and not cfg.get("backend_args")
    return Split(
        name,
        entries,
        classes,
        _label_table(dataset, loaders.label_map, len(classes)) if classes and loaders.mask is not None else None,
        bool(dataset.reduce_zero_label),
        tuple(metainfo.get("absent_classes") or ()),
        loaders if local else None,
        _layout(dataset, cfg),
        folders if local else None,
    )


def _entries(dataset: Any) -> list[SampleFiles]:
    """The files of a dataset, as its ``full_init`` would list them; that one fails where there are none."""
    dataset.data_list = dataset.load_data_list()
    return wanted_entries(dataset, list(dataset.filter_data()))


def _label_table(dataset: Any, label_map: Mapping[int, int], num_classes: int) -> np.ndarray:
    """For each value of a mask's file the class that mmseg's ``LoadAnnotations`` makes of it."""
    labels = np.arange(256)
    for old, new in label_map.items():
        labels[old] = new
    if dataset.reduce_zero_label:
        labels = np.where((labels == 0) | (labels == 255), 255, labels - 1)
    before = labels.copy()
    for old, new in (dataset.label_map or {}).items():
        labels[before == old] = new
    table = np.where(labels < num_classes, labels, OUTSIDE)
    table[labels == dataset.ignore_index] = IGNORED
    return table


def _folders(dataset: Any) -> Folders | None:
    prefix = getattr(dataset, "data_prefix", None) or {}
    suffixes = getattr(dataset, "img_suffix", None), getattr(dataset, "seg_map_suffix", None)
    if not prefix.get("img_path") or (dataset.ann_file and not os.path.isdir(dataset.ann_file)) or not all(suffixes):
        return None
    masks = prefix.get("seg_map_path")
    return Folders(Path(prefix["img_path"]), Path(masks) if masks else None, str(suffixes[0]), str(suffixes[1]))


def _layout(dataset: Any, cfg: ConfigDict) -> str:
    kind = kind_of(cfg)
    root = cfg.get("data_root") or "."

    def below(path: Any) -> str:
        return os.path.relpath(str(path), root) if str(path).startswith(str(root)) else str(path)

    folders = _folders(dataset)
    if folders is None:
        text = f"{kind} in {root}: listed in {below(dataset.ann_file)}" if dataset.ann_file else f"{kind} in {root}"
    else:
        masks = "" if folders.masks is None else f", masks {below(folders.masks)}/**/*{folders.seg_map_suffix}"
        text = f"{kind} in {root}: images {below(folders.images)}/**/*{folders.img_suffix}{masks}"
    return text + (", label 0 is ignored (reduce_zero_label)" if dataset.reduce_zero_label else "")


def _why_not_listed(cfg: ConfigDict, error: Exception) -> str:
    """Why a dataset has no list of its files, and what its folder looks like."""
    where = cfg.get("data_root")
    about = f"; {describe_folder(Path(where))}" if where else ""
    absent = isinstance(error, (FileNotFoundError, NotADirectoryError)) and error.filename
    return f"{f'there is no {absent}, where {kind_of(cfg)} looks' if absent else error_line(error)}{about}"

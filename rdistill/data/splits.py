"""Lists the files of a run's data with the config's datasets, without opening them."""

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
IGNORED, OUTSIDE = -1, -2  # values of a label table that are no class


class SampleFiles(TypedDict, total=False):
    """The files of a sample, with mmseg's keys; mmseg's entries have further keys."""

    img_path: str
    seg_map_path: str | None  # absent if there are no masks


@dataclass(frozen=True)
class Split:
    """The files of one dataset, and how mmseg reads them."""

    name: str  # 'train', 'val' or 'test'
    entries: list[SampleFiles]
    classes: tuple[str, ...] = ()
    table: np.ndarray | None = None  # mask value (0 to 255) -> class, IGNORED or OUTSIDE; None if unknown
    reduce_zero_label: bool = False  # label 0 is ignored, 1 is class 0
    absent: tuple[str, ...] = ()  # classes that need not occur in a mask: metainfo.absent_classes
    loaders: Loaders | None = None  # None for files in a remote storage, which are not checked
    layout: str = ""  # text that says where the files are
    folders: Folders | None = None  # None if a list names the files
    problem: str | None = None  # the reason why there are no files


@dataclass(frozen=True)
class Folders:
    """The folders in which a dataset without a list searches its files."""

    images: Path
    masks: Path | None
    img_suffix: str
    seg_map_suffix: str


def data_splits(cfg: Config, names: Sequence[str] = READ_BY_TRAINING) -> list[Split]:
    """Returns the datasets of a config; each dataset of a concatenation is an entry."""
    splits = []
    for name in names:
        if cfg.get(LOADERS[name]) is not None:
            splits += [_split(name, dataset) for dataset in leaf_datasets(cfg, LOADERS[name])]
    return splits


def training_images(cfg: Config) -> int:
    """Returns the number of training images; at least 1."""
    return max(1, sum(len(split.entries) for split in data_splits(cfg, ("train",))))


def passes_over_images(cfg: Config) -> float:
    """Returns how many passes over its images with masks a training makes; above 0."""
    max_iters = cfg.train_cfg.get("max_iters")
    if max_iters is None:
        return float(cfg.train_cfg.max_epochs)
    return float(max_iters * int(cfg.train_dataloader.batch_size) / training_images(cfg))


def data_classes(cfg: Config, split: str) -> list[tuple[str, ...]]:
    """Returns the class names of each dataset of a split ('train' or 'val') that has some."""
    classes = []
    for dataset in leaf_datasets(cfg, LOADERS[split]):
        with suppress(Exception):  # data_splits reports a dataset that does not build
            classes.append(class_names(dataset))
    return [names for names in classes if names]


def describe_data(splits: Sequence[Split]) -> str:
    """Returns a text such as ``6 training and 3 validation images``."""
    counts = {name: sum(len(split.entries) for split in splits if split.name == name) for name in READ_BY_TRAINING}
    return f"{counts['train']} training and {counts['val']} validation images"


def describe_layouts(splits: Sequence[Split]) -> list[str]:
    """Returns a line for each dataset with its type and the folders of its images and masks."""
    return [f"{split.name}: {split.layout}" for split in splits if split.layout]


def _without_files(dataset: Mapping[str, Any]) -> Any:
    """Builds an mmseg dataset that does not list its files yet."""
    plain = copy.deepcopy(ConfigDict(dataset))
    plain.update(lazy_init=True, pipeline=[])
    return DATASETS.build(plain)


def _split(name: str, cfg: ConfigDict) -> Split:
    try:
        dataset = _without_files(cfg)
        entries = _entries(dataset)
        loaders = Loaders(cfg.get("pipeline") or ())
    except Exception as error:  # datasets raise anything from FileNotFoundError to AssertionError
        return Split(name, [], problem=f"cannot be listed: {_listing_problem(cfg, error)}")
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
    """Lists the files of a dataset like its ``full_init``, which however fails if there are none."""
    dataset.data_list = dataset.load_data_list()
    return wanted_entries(dataset, list(dataset.filter_data()))


def _label_table(dataset: Any, label_map: Mapping[int, int], num_classes: int) -> np.ndarray:
    """Returns the class that mmseg's ``LoadAnnotations`` makes of each mask value (0 to 255)."""
    labels = np.arange(256)
    for old, new in label_map.items():
        labels[old] = new
    if dataset.reduce_zero_label:
        labels = np.where((labels == 0) | (labels == 255), 255, labels - 1)
    original = labels.copy()
    for old, new in (dataset.label_map or {}).items():
        labels[original == old] = new
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


def _listing_problem(cfg: ConfigDict, error: Exception) -> str:
    """Returns why a dataset cannot list its files, and the layout that its folder seems to have."""
    where = cfg.get("data_root")
    layout_hint = f"; {describe_folder(Path(where))}" if where else ""
    absent = isinstance(error, (FileNotFoundError, NotADirectoryError)) and error.filename
    return f"{f'there is no {absent}, where {kind_of(cfg)} looks' if absent else error_line(error)}{layout_hint}"

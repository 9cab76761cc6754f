"""Checks whether images of different sizes can be batched, with the images that differ most."""

from __future__ import annotations

import copy
import math
import warnings
from collections.abc import Mapping
from pathlib import Path

from mmengine.config import Config, ConfigDict
from mmengine.dataset import pseudo_collate

from rdistill.config.walk import without_stream
from rdistill.core.errors import error_line
from rdistill.data.random_state import random_state_of
from rdistill.data.reading import Size
from rdistill.data.splits import LOADERS
from rdistill.models.quiet_mmseg import DATASETS, MODELS
from rdistill.schemas.data import Packed

MAX_IMAGES = 4  # images in a tried batch: two extremes of the aspect, two of the area
SEED = 0


def check_batches(cfg: Config, sizes: Mapping[str, Mapping[str, Size]], *, workers: int = 1) -> list[str]:
    """Puts the images of each split whose sizes differ most through the pipeline, and into one batch.

    Training images are tried even if their sizes are equal, because augmentation may change them.

    Args:
        cfg: config of the run.
        sizes: split -> image file -> (width, height), from :func:`rdistill.checks.data.inspect_data`.
        workers: number of workers that a training batch is divided among.
    """
    problems = []
    for split, files in sizes.items():
        images = int(cfg[LOADERS[split]].get("batch_size", 1)) // (workers if split == "train" else 1)
        count = min(images, MAX_IMAGES)
        chosen = most_different(files, count)
        if split == "train":  # augmentation may change equal sizes to different ones
            chosen = chosen or list(files)[:count]
        if len(chosen) > 1 and cfg.model.get("data_preprocessor") is not None:
            problems += _try_batch(cfg, split, chosen, images)
    return problems


def aspect_note(cfg: Config, sizes: Mapping[str, Mapping[str, Size]]) -> str | None:
    """Returns a note such as ``images of 240 x 180 reach the model as 128 x 128`` if validation changes the aspect.

    Args:
        cfg: config of the run.
        sizes: like in :func:`check_batches`; only the first validation image is tried.
    """
    file, (width, height) = next(iter(sizes.get("val", {}).items()), ("", (0, 0)))
    if not file:
        return None
    try:
        with warnings.catch_warnings(), random_state_of(SEED):
            warnings.simplefilter("ignore")
            items = _items(cfg[LOADERS["val"]].dataset, [file])
    except Exception:  # check_batches or the run reports the problem
        return None
    for item in items.values():
        new_height, new_width = map(int, item["inputs"].shape[-2:])
        rounding = 1 / min(new_height, new_width) + 1 / min(height, width)  # each side is rounded to whole pixels
        if abs(math.log(new_width * height / (new_height * width))) > rounding:
            return (
                f"images of {width} x {height} reach the model as {new_width} x {new_height}: their aspect changes; a "
                f"Resize with keep_ratio=True keeps it, and so does --size HEIGHTxWIDTH of their aspect"
            )
    return None


def most_different(files: Mapping[str, Size], count: int) -> list[str]:
    """Returns the images whose sizes differ most: extremes of the aspect first, then of the area.

    Args:
        files: image file -> (width, height).
        count: maximum number of images.
    """
    by_size = {size: file for file, size in reversed(list(files.items()))}
    if len(by_size) < 2:
        return []
    aspect = sorted(by_size, key=lambda size: (math.log(size[0] / size[1]), size))
    area = sorted(by_size, key=lambda size: (size[0] * size[1], size))
    extremes = [aspect[0], aspect[-1], area[0], area[-1]]
    if aspect[0][0] * aspect[-1][1] == aspect[-1][0] * aspect[0][1]:  # all images have the same aspect
        extremes = [area[0], area[-1]]
    return [by_size[size] for size in dict.fromkeys(extremes)][:count]


def _try_batch(cfg: Config, split: str, files: list[str], images: int) -> list[str]:
    key = LOADERS[split]
    training = split == "train"
    try:
        with warnings.catch_warnings(), random_state_of(SEED):
            warnings.simplefilter("ignore")
            items_by_file = _items(cfg[key].dataset, files)
    except Exception as error:  # a user's dataset or pipeline may raise anything
        return [f"{key}.dataset: the pipeline fails on {_names(files)}: {error_line(error)}"]
    files, items = list(items_by_file), list(items_by_file.values())
    if len(items) < 2:
        return []
    try:
        preprocessor = MODELS.build(copy.deepcopy(cfg.model.data_preprocessor))
        with random_state_of(SEED):
            preprocessor(pseudo_collate(copy.deepcopy(items)), training)
    except Exception as error:  # PyTorch and mmseg raise different errors if images do not stack
        shapes = [tuple(item["inputs"].shape[-2:]) for item in items]
        if len(set(shapes)) < 2:
            return [f"{key}: {_names(files)} do not make a batch: {error_line(error)}"]
        text = ", ".join(f"{Path(file).name} {w} x {h}" for file, (h, w) in zip(files, shapes, strict=True))
        fix = (
            "add RandomCrop or a Resize with keep_ratio=False to its pipeline, or let model.data_preprocessor.size pad"
            if training
            else f"set {key}.batch_size=1, or give its pipeline a Resize with keep_ratio=False"
        )
        return [f"{key}: images of different sizes do not make a batch of {images}: {text} after the pipeline; {fix}"]
    return []


def _items(dataset: ConfigDict, files: list[str]) -> dict[str, Packed]:
    """Returns file -> pipeline's output for some images of a dataset; a subset may lack some of them."""
    built = DATASETS.build(without_stream(dataset))
    indices: dict[str, int] = {}
    for index in range(len(built)):
        if len(indices) == len(files):
            break
        path = built.get_data_info(index)["img_path"]
        if path in files:
            indices.setdefault(path, index)
    return {file: built[indices[file]] for file in files if file in indices}


def _names(files: list[str]) -> str:
    return ", ".join(Path(file).name for file in files)

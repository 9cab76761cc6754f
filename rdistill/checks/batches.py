"""Whether images of different sizes make a batch: tried with those that differ most."""

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

MOST = 4  # images of a batch that is tried: two extremes of the aspect, two of the area
SEED = 0


def check_batches(cfg: Config, sizes: Mapping[str, Mapping[str, Size]], *, workers: int = 1) -> list[str]:
    """Puts the images of each split whose sizes differ most through the pipeline, and into one batch.

    Training images are tried in any case: their augmentation may give each a size of its own.

    Args:
        cfg: of the run.
        sizes: split -> image file -> width and height, as :func:`rdistill.checks.data.look_at_data` found them.
        workers: among which a training batch is divided.
    """
    problems = []
    for split, files in sizes.items():
        images = int(cfg[LOADERS[split]].get("batch_size", 1)) // (workers if split == "train" else 1)
        count = min(images, MOST)
        chosen = most_different(files, count)
        if split == "train":  # whose augmentation may make different sizes of equal ones
            chosen = chosen or list(files)[:count]
        if len(chosen) > 1 and cfg.model.get("data_preprocessor") is not None:
            problems += _try_batch(cfg, split, chosen, images)
    return problems


def squashed_note(cfg: Config, sizes: Mapping[str, Mapping[str, Size]]) -> str | None:
    """``images of 240 x 180 reach the model as 128 x 128``, where validation changes their aspect; else None.

    Args:
        cfg: of the run.
        sizes: as for :func:`check_batches`; the first image is put through the pipeline.
    """
    file, (width, height) = next(iter(sizes.get("val", {}).items()), ("", (0, 0)))
    if not file:
        return None
    try:
        with warnings.catch_warnings(), random_state_of(SEED):
            warnings.simplefilter("ignore")
            items = _items(cfg[LOADERS["val"]].dataset, [file])
    except Exception:  # a problem, which the check of batches or the run says
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
    """Images whose sizes differ most, one of each size: extremes of the aspect first, then of the area.

    Args:
        files: image file -> width and height.
        count: images at most.
    """
    by_size = {size: file for file, size in reversed(list(files.items()))}
    if len(by_size) < 2:
        return []
    aspect = sorted(by_size, key=lambda size: (math.log(size[0] / size[1]), size))
    area = sorted(by_size, key=lambda size: (size[0] * size[1], size))
    extremes = [aspect[0], aspect[-1], area[0], area[-1]]
    if aspect[0][0] * aspect[-1][1] == aspect[-1][0] * aspect[0][1]:  # all of one aspect
        extremes = [area[0], area[-1]]
    return [by_size[size] for size in dict.fromkeys(extremes)][:count]


def _try_batch(cfg: Config, split: str, files: list[str], images: int) -> list[str]:
    key = LOADERS[split]
    training = split == "train"
    try:
        with warnings.catch_warnings(), random_state_of(SEED):
            warnings.simplefilter("ignore")
            items_by_file = _items(cfg[key].dataset, files)
    except Exception as error:  # a dataset's and its pipeline's own code
        return [f"{key}.dataset: the pipeline fails on {_names(files)}: {error_line(error)}"]
    files, items = list(items_by_file), list(items_by_file.values())
    if len(items) < 2:
        return []
    try:
        preprocessor = MODELS.build(copy.deepcopy(cfg.model.data_preprocessor))
        with random_state_of(SEED):
            preprocessor(pseudo_collate(copy.deepcopy(items)), training)
    except Exception as error:  # PyTorch or mmseg says in its own words why images do not stack
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
    """The wanted images of a dataset, each through its whole pipeline; without those that a subset leaves out."""
    built = DATASETS.build(without_stream(dataset))
    places: dict[str, int] = {}
    for index in range(len(built)):
        if len(places) == len(files):
            break
        path = built.get_data_info(index)["img_path"]
        if path in files:
            places.setdefault(path, index)
    return {file: built[places[file]] for file in files if file in places}


def _names(files: list[str]) -> str:
    return ", ".join(Path(file).name for file in files)

"""Writes masks as PNG files of class numbers, and lists that name images with their masks."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import cv2
import numpy as np

from rdistill.core.errors import UserError
from rdistill.core.files import in_threads, write_whole
from rdistill.init.masks import IGNORED, Color, Labels, read_mask
from rdistill.init.pairs import Pair


def render_masks(splits: Mapping[str, Sequence[Pair]], root: Path, labels: Labels, out: Path) -> dict[str, list[Pair]]:
    """Writes each mask as class numbers below ``out``, and returns the pairs with the written masks.

    Args:
        splits: 'train', 'val', 'test' -> pairs.
        root: folder of the data; the path of a mask below it becomes the name of the written file.
        labels: the class of each value or colour.
        out: folder to write to.
    """
    rendered = {}
    for split, pairs in splits.items():
        targets = [out / split / _name(pair.mask, root) for pair in pairs]
        if duplicate := next((target for index, target in enumerate(targets) if target in targets[:index]), None):
            raise UserError(f"{duplicate.name}: two masks of {split} would be written to this name; rename one of them")
        jobs = [(pair.mask, target, labels) for pair, target in zip(pairs, targets, strict=True)]
        in_threads(_render, jobs)
        rendered[split] = [Pair(pair.image, target) for pair, target in zip(pairs, targets, strict=True)]
    return rendered


def _name(mask: Path, root: Path) -> str:
    try:
        relative = mask.relative_to(root)
    except ValueError:  # a mask outside the folder, drawn from COCO
        relative = Path(mask.name)
    return relative.with_suffix(".png").as_posix().replace("/", "_")


def _render(job: tuple[Path, Path, Labels]) -> None:
    mask, target, labels = job
    content = class_numbers(read_mask(mask), labels)
    write_whole(target, cv2.imencode(".png", content)[1].tobytes())


def class_numbers(values: np.ndarray, labels: Labels) -> np.ndarray:
    """Returns the class of each pixel (H x W, uint8); ``IGNORED`` for a value without a class.

    Args:
        values: H x W, or H x W x 3 for colours.
        labels: the class of each value or colour.
    """
    in_color = any(len(color) > 1 for color in labels.table)
    if in_color and values.ndim == 2:
        values = np.repeat(values[..., None], 3, axis=2)
    if not in_color and values.ndim == 3:
        raise UserError("a mask is in colour, but the others are grey; save all masks in the same way")
    codes = _codes(values) if in_color else values.astype(np.int64)
    table = {_code(color): label for color, label in labels.table.items()}
    keys = np.array(sorted(table), np.int64)
    numbers = np.array([table[int(key)] for key in keys], np.uint8)
    present, inverse = np.unique(codes, return_inverse=True)
    nearest_keys = np.searchsorted(keys, present).clip(max=len(keys) - 1)
    classes = np.where(keys[nearest_keys] == present, numbers[nearest_keys], IGNORED).astype(np.uint8)
    if labels.lossy and in_color:
        classes = numbers[_nearest(present, keys)]
    return classes[inverse].reshape(codes.shape)


def _codes(values: np.ndarray) -> np.ndarray:
    red, green, blue = (values[..., band].astype(np.int64) for band in range(3))
    return (red << 16) | (green << 8) | blue


def _code(color: Color) -> int:
    return color[0] if len(color) == 1 else color[0] << 16 | color[1] << 8 | color[2]


def _nearest(present: np.ndarray, keys: np.ndarray) -> np.ndarray:
    """Returns, for each colour, the index of the nearest colour in ``keys``."""
    shifts = np.array([16, 8, 0])
    colors, key_colors = (codes[:, None] >> shifts & 255 for codes in (present, keys))
    distances = [((key_colors - color) ** 2).sum(axis=1).argmin() for color in colors]
    return np.array(distances, np.int64)


def write_list(file: Path, pairs: Sequence[Pair], root: Path) -> None:
    """Writes a list with a line ``IMAGE<tab>MASK`` for each pair, with paths relative to ``root`` if below it."""
    lines = [f"{_relative(pair.image, root)}\t{_relative(pair.mask, root)}\n" for pair in pairs]
    if invalid := next((line for line in lines if line.count("\t") > 1 or line.count("\n") > 1), None):
        raise UserError(
            f"{invalid.strip()!r}: a name with a tab or a line break cannot be written to a list; rename the file"
        )
    write_whole(file, "".join(lines))


def _relative(file: Path, root: Path) -> str:
    try:
        return file.relative_to(root).as_posix()
    except ValueError:
        return Path(os.path.abspath(file)).as_posix()

"""What the masks of a folder hold: class numbers, levels of grey, colours, gaps."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from init_folders import assert_refused, binary, labels_of, mmseg, pixels_of, save
from PIL import Image

from rdistill.init.data import read_data


def test_levels_of_grey_and_gaps_of_classes_are_told_apart(tmp_path: Path) -> None:
    for name, levels, label_map, count in (
        ("grey", (0, 128, 255), {128: 1, 255: 2}, 3),
        ("gap", (0, 1, 3), {}, 4),
        ("void", (0, 1, 255), {}, 2),
    ):
        for index in range(4):
            labels = np.array(levels, np.uint8)[labels_of(index)]
            save(tmp_path / name / f"images/{index}.png", pixels_of(labels_of(index)))
            save(tmp_path / name / f"masks/{index}.png", labels)
        data = read_data(tmp_path / name, tmp_path / f"{name}_out")
        assert (data.labels.label_map, len(data.labels.classes)) == (label_map, count), name
        assert data.absent == (("class 2",) if name == "gap" else ())


def test_palette_masks_are_class_numbers(tmp_path: Path) -> None:
    binary(tmp_path)
    for mask in tmp_path.rglob("masks/*.png"):
        labels = np.asarray(Image.open(mask)) // 255
        indexed = Image.fromarray(labels)
        indexed.putpalette([10, 20, 30, 200, 0, 0] + [0] * 762)
        indexed.save(mask)
    data = read_data(tmp_path, tmp_path / "out")
    assert (data.labels.label_map, data.labels.render, len(data.labels.classes)) == ({}, False, 2)


def _photographs(root: Path) -> None:
    for index in range(3):
        noise = np.random.default_rng(index).integers(0, 255, (36, 48, 3)).astype(np.uint8)
        save(root / f"images/{index}.png", noise)
        save(root / f"masks/{index}.png", noise)


def _one_value(root: Path) -> None:
    for index in range(3):
        save(root / f"images/{index}.png", pixels_of(labels_of(index)))
        save(root / f"masks/{index}.png", labels_of(index) * 0)


def _smeared(root: Path) -> None:
    for index in range(3):
        save(root / f"images/{index}.png", pixels_of(labels_of(index)))
        save(root / f"masks/{index}.jpg", labels_of(index) * 60)


def _damaged(root: Path) -> None:
    mmseg(root)
    (root / "ann_dir/train/1.png").write_bytes(b"no image")


@pytest.mark.parametrize(
    ("fill", "line"),
    [
        (_photographs, r"masks/0.png: holds \d+ different values; is it an image\? A mask has class numbers$"),
        (_one_value, r"masks/0.png: and all other masks contain only 0; two classes are needed$"),
        (_smeared, r"masks/0.jpg: is compressed with losses, which changes class numbers; save masks as PNG$"),
        (_damaged, r"ann_dir/train/1.png: cannot be read: "),
    ],
)
def test_what_is_not_understood_is_one_line(fill: Any, line: str, tmp_path: Path) -> None:
    root = tmp_path / "data"
    fill(root)
    assert_refused(root, tmp_path / "out", line)

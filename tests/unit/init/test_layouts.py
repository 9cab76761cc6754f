"""Every layout of a folder: what is recognised, and which class a dataset then gives each pixel."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from init_folders import LAYOUTS, assert_refused, labels_of, pair, pixels_of, save
from init_samples import samples

from rdistill.init.data import read_data

# layout's name -> what it is called, images in train, val and test, classes, 255 or not
EXPECTED: dict[str, tuple[str, dict[str, int], int]] = {
    "mmseg": ("mmseg", {"train": 4, "val": 2}, 3),
    "cityscapes": ("Cityscapes", {"train": 3, "val": 2}, 19),
    "cityscapes_ids": ("Cityscapes", {"train": 3, "val": 2}, 19),
    "voc": ("VOC", {"train": 3, "val": 2}, 21),
    "ade20k": ("ADE20K", {"train": 3, "val": 2}, 150),
    "paddleseg": ("PaddleSeg", {"train": 3, "val": 2}, 3),
    "lists": ("lists of images and masks", {"train": 3, "val": 2}, 3),
    "coco": ("COCO", {"train": 3, "val": 2}, 3),
    "suffixes": ("pairs of images and masks", {"train": 8, "val": 2}, 3),
    "one_folder": ("pairs of images and masks", {"train": 5, "val": 1}, 2),
    "binary": ("pairs of images and masks", {"train": 3, "val": 1, "test": 2}, 2),
    "binary_jpeg": ("pairs of images and masks", {"train": 5, "val": 1}, 2),
    "colors": ("pairs of images and masks", {"train": 4, "val": 2}, 3),
    "colors_alone": ("pairs of images and masks", {"train": 4, "val": 2}, 3),
    "many_sizes": ("pairs of images and masks", {"train": 6, "val": 6}, 2),
    "grey_8": ("pairs of images and masks", {"train": 3, "val": 3}, 2),
    "grey_16": ("pairs of images and masks", {"train": 3, "val": 3}, 2),
    "rgb_tiff": ("pairs of images and masks", {"train": 3, "val": 3}, 2),
    "four_16": ("pairs of images and masks", {"train": 3, "val": 3}, 2),
    "six_floats": ("pairs of images and masks", {"train": 3, "val": 3}, 2),
}


@pytest.mark.parametrize("name", LAYOUTS)
def test_layouts(name: str, tmp_path: Path) -> None:
    if name == "coco":
        pytest.importorskip("pycocotools", reason="pip install pycocotools")
    root, out = tmp_path / "data", tmp_path / "out"
    root.mkdir()
    LAYOUTS[name](root)
    before = sorted(root.rglob("*"))
    data = read_data(root, out)
    layout, counts, classes = EXPECTED[name]
    assert data.decisions[0] == ("layout", data.decisions[0][1]) and data.decisions[0][1].startswith(f"{layout} in ")
    assert {split: len(samples(data, root, split)) for split in data.datasets} == counts
    assert len(data.labels.classes) == len(data.labels.palette) == classes
    present = {int(value) for split in counts for sample in samples(data, root, split)
               for value in np.unique(sample["gt_seg_map"])}  # fmt: skip
    assert present - {255} == set(range(classes))
    assert (255 in present) == (name in ("ade20k", "coco"))
    assert sum(data.pixels) > 0 and data.train_images == counts["train"]
    assert sorted(root.rglob("*")) == before  # nothing is written there


@pytest.mark.parametrize("name", ["mmseg", "cityscapes_ids", "suffixes", "paddleseg", "lists", "colors", "binary"])
def test_labels_are_those_that_were_drawn(name: str, tmp_path: Path) -> None:
    """Not only how many there are: pixel by pixel, whatever stood in the files."""
    root = tmp_path / "data"
    root.mkdir()
    LAYOUTS[name](root)
    data = read_data(root, tmp_path / "out")
    classes = EXPECTED[name][2]
    for sample in samples(data, root, "train"):
        stem = "".join(filter(str.isdigit, Path(sample["img_path"]).stem))
        index = int(stem[:6] if name.startswith("cityscapes") else stem)
        assert np.array_equal(sample["gt_seg_map"], labels_of(index, classes)), sample["img_path"]


def _nothing(root: Path) -> None:
    root.mkdir()


def _text(root: Path) -> None:
    root.mkdir()
    (root / "readme.txt").write_text("hello")


def _images(root: Path) -> None:
    for index in range(3):
        save(root / f"photos/{index}.jpg", pixels_of(labels_of(index)))


def _single(root: Path) -> None:
    pair(root / "images/1.png", root / "masks/1.png", 1)


@pytest.mark.parametrize(
    ("fill", "line"),
    [
        (None, r"^--data .*: no such folder$"),
        (_nothing, r"^--data .*: is empty; looked for PaddleSeg \(train_list.txt\); .*COCO .*NAME_mask.png"),
        (_text, r"^--data .*: holds no images, but readme.txt; looked for "),
        (_images, r"^--data .*: 3 images in photos, and no masks that belong to them; looked for "),
        (_single, r"contains only one image with a mask; at least two are needed, to train and to score$"),
    ],
)
def test_what_is_not_understood_is_one_line(fill: Any, line: str, tmp_path: Path) -> None:
    root = tmp_path / "data"
    if fill is not None:
        fill(root)
    assert_refused(root, tmp_path / "out", line)

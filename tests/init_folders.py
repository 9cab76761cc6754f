"""Small folders of images and masks in every layout that `init` recognises."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from PIL import Image

from rdistill.core.errors import UserError
from rdistill.init.data import read_data

WIDTH, HEIGHT = 48, 36
COLORS = ((0, 0, 0), (128, 64, 128), (220, 20, 60))


def assert_refused(root: Path, out: Path, line: str) -> None:
    """`init` refuses the folder in one line, which holds the expression."""
    with pytest.raises(UserError, match=line) as error:
        read_data(root, out)
    assert len(error.value.problems) == 1


def labels_of(index: int, classes: int = 3, size: tuple[int, int] = (WIDTH, HEIGHT)) -> np.ndarray:
    """Stripes of every class, another order for each index; the last class has a corner alone."""
    width, height = size
    labels = np.zeros((height, width), np.uint8)
    for label in range(1, classes):
        start = width * label // classes
        labels[index % 3 : height - 2, start : start + max(2, width // classes)] = label
    return labels


def pixels_of(labels: np.ndarray, bands: int = 3, dtype: Any = np.uint8) -> np.ndarray:
    """An image in which each class has a level of its own."""
    top = np.iinfo(dtype).max if np.dtype(dtype).kind == "u" else 1.0
    levels = (labels.astype(np.float64) * 0.2 + 0.2)[..., None] * np.linspace(0.5, 1, bands)
    noise = np.random.default_rng(int(labels.sum())).normal(0, 0.02, levels.shape)
    return ((levels + noise).clip(0, 1) * top).astype(dtype)


def save(path: Path, pixels: np.ndarray, **options: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix in (".tif", ".tiff"):
        tifffile.imwrite(path, pixels.squeeze(), **options)
    else:
        Image.fromarray(pixels.squeeze()).save(path, **options)


def pair(image: Path, mask: Path, index: int, classes: int = 3, size: tuple[int, int] = (WIDTH, HEIGHT)) -> np.ndarray:
    labels = labels_of(index, classes, size)
    save(image, pixels_of(labels))
    save(mask, labels)
    return labels


def mmseg(root: Path) -> None:
    for split, count in (("train", 4), ("val", 2)):
        for index in range(count):
            pair(root / f"img_dir/{split}/{index}.jpg", root / f"ann_dir/{split}/{index}.png", index)


def cityscapes(root: Path, end: str = "_gtFine_labelTrainIds.png") -> None:
    for split, count in (("train", 3), ("val", 2)):
        for index in range(count):
            name = f"{split}/{'ulm' if index else 'bonn'}/c_{index:06d}_000019"
            labels = pair(root / f"leftImg8bit/{name}_leftImg8bit.png", root / f"gtFine/{name}{end}", index, 19)
            if end == "_gtFine_labelIds.png":
                ids = np.array([7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33], np.uint8)
                save(root / f"gtFine/{name}{end}", ids[labels])
            save(root / f"gtFine/{name}_gtFine_color.png", pixels_of(labels))
            save(root / f"gtFine/{name}_gtFine_instanceIds.png", labels.astype(np.uint16) * 1000)


def cityscapes_ids(root: Path) -> None:
    cityscapes(root, "_gtFine_labelIds.png")


def voc(root: Path) -> None:
    for index in range(5):
        labels = pair(root / f"JPEGImages/2007_{index}.jpg", root / f"SegmentationClass/2007_{index}.png", index, 21)
        indexed = Image.fromarray(labels, mode="P")
        indexed.putpalette([value for number in range(256) for value in (number, 255 - number, 7)])
        indexed.save(root / f"SegmentationClass/2007_{index}.png")
    lists = root / "ImageSets/Segmentation"
    lists.mkdir(parents=True)
    (lists / "train.txt").write_text("2007_0\n2007_1\n2007_3\n")
    (lists / "val.txt").write_text("2007_2\n2007_4\n")
    (lists / "trainval.txt").write_text("2007_0\n2007_1\n2007_2\n2007_3\n2007_4\n")


def ade20k(root: Path) -> None:
    for split, count in (("training", 3), ("validation", 2)):
        for index in range(count):
            name = f"{split}/ADE_{index:08d}"
            labels = np.arange(200 * 152, dtype=np.int64).reshape(200, 152) % 151
            save(root / f"images/{name}.jpg", pixels_of(labels % 3))
            save(root / f"annotations/{name}.png", labels.astype(np.uint8))


def paddleseg(root: Path) -> None:
    for index in range(5):
        pair(root / f"JPEGImages/my {index}.jpg", root / f"Annotations/my {index}.png", index)
    lines = [f"JPEGImages/my {index}.jpg|Annotations/my {index}.png" for index in range(5)]
    (root / "train_list.txt").write_text("\n".join(lines[:3]))
    (root / "val_list.txt").write_text("\n".join(lines[3:]))


def lists(root: Path) -> None:
    for index in range(5):
        pair(root / f"x/{index}.JPG", root / f"y/m{index * 7}.png", index)
    lines = [f"x\\{index}.JPG,y\\m{index * 7}.png" for index in range(5)]
    (root / "train.txt").write_text("\ufeff" + "\n".join(lines[:3]))
    (root / "val.txt").write_text("\n".join(lines[3:]))


def coco(root: Path) -> None:
    for split, count in (("train", 3), ("val", 2)):
        images, annotations = [], []
        for index in range(count):
            save(root / f"{split}2017/{index:012d}.jpg", pixels_of(labels_of(index)))
            images.append(dict(id=index, file_name=f"{index:012d}.jpg", width=WIDTH, height=HEIGHT))
            box = [4, 4, 24, 4, 24, 20, 4, 20]
            annotations.append(dict(image_id=index, category_id=7, segmentation=[box], iscrowd=0))
            inner = [10, 8, 16, 8, 16, 14, 10, 14]
            annotations.append(dict(image_id=index, category_id=90, segmentation=[inner], iscrowd=0))
            runs = dict(size=[HEIGHT, WIDTH], counts=[HEIGHT * (WIDTH - 2), HEIGHT * 2])
            annotations.append(dict(image_id=index, category_id=7, segmentation=runs, iscrowd=1))
        content = dict(images=images, annotations=annotations)
        content["categories"] = [dict(id=90, name="cup"), dict(id=7, name="disc")]
        (root / "annotations").mkdir(parents=True, exist_ok=True)
        (root / f"annotations/instances_{split}2017.json").write_text(json.dumps(content))


def suffixes(root: Path) -> None:
    """No validation images, other suffixes, a folder each."""
    for index in range(10):
        pair(root / f"photos/IMG_{index}_sat.jpg", root / f"labels/IMG_{index}_mask.png", index)


def one_folder(root: Path) -> None:
    for index in range(6):
        pair(root / f"case{index // 3}/{index}.png", root / f"case{index // 3}/{index}_mask.png", index, 2)


def binary(root: Path) -> None:
    for split, count in (("train", 4), ("test", 2)):
        for index in range(count):
            labels = labels_of(index, 2)
            save(root / f"{split}/images/{index}.jpg", pixels_of(labels))
            save(root / f"{split}/masks/{index}.png", labels * 255)


def binary_jpeg(root: Path) -> None:
    for index in range(6):
        labels = labels_of(index, 2)
        save(root / f"images/{index}.jpg", pixels_of(labels))
        save(root / f"masks/{index}.jpg", labels * 255, quality=90)


def colors(root: Path, table: bool = True) -> None:
    palette = np.array(COLORS, np.uint8)
    for split, count in (("train", 4), ("val", 2)):
        for index in range(count):
            labels = labels_of(index)
            save(root / f"{split}/{index}.png", pixels_of(labels))
            save(root / f"{split}_labels/{index}_L.png", palette[labels])
    if table:
        (root / "class_dict.csv").write_text("name,r,g,b\nRest,0,0,0\nRoad,128,64,128\nPerson,220,20,60\n")


def colors_alone(root: Path) -> None:
    colors(root, table=False)


def many_sizes(root: Path) -> None:
    sizes = [(48, 36), (64, 36), (36, 50), (40, 40), (80, 40), (48, 36)]
    for split in ("train", "val"):
        for index, size in enumerate(sizes):
            pair(root / f"images/{split}/{index}.png", root / f"masks/{split}/{index}.png", index, 2, size)


def bands(root: Path, count: int, dtype: Any, suffix: str) -> None:
    for split in ("train", "val"):
        for index in range(3):
            labels = labels_of(index, 2)
            save(root / f"images/{split}/{index}{suffix}", pixels_of(labels, count, dtype))
            save(root / f"masks/{split}/{index}.png", labels)


LAYOUTS: dict[str, Callable[[Path], None]] = {
    "mmseg": mmseg, "cityscapes": cityscapes, "cityscapes_ids": cityscapes_ids, "voc": voc, "ade20k": ade20k,
    "paddleseg": paddleseg, "lists": lists, "coco": coco, "suffixes": suffixes, "one_folder": one_folder,
    "binary": binary, "binary_jpeg": binary_jpeg, "colors": colors, "colors_alone": colors_alone,
    "many_sizes": many_sizes,
    "grey_8": lambda root: bands(root, 1, np.uint8, ".png"),
    "grey_16": lambda root: bands(root, 1, np.uint16, ".png"),
    "rgb_tiff": lambda root: bands(root, 3, np.uint8, ".tif"),
    "four_16": lambda root: bands(root, 4, np.uint16, ".tif"),
    "six_floats": lambda root: bands(root, 6, np.float32, ".tif"),
}  # fmt: skip


def classes_drawn(masks: Sequence[np.ndarray]) -> set[int]:
    return {int(value) for mask in masks for value in np.unique(mask)}

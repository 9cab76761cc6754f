"""Every layout of a folder: what is recognised, and which class a dataset then gives each pixel."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from init_folders import LAYOUTS, bands, binary, colors, labels_of, mmseg, pair, pixels_of, save
from PIL import Image

from rdistill.core.errors import UserError
from rdistill.init import proposals
from rdistill.init.data import Data, read_data
from rdistill.models.quiet_mmseg import DATASETS

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


def samples(data: Data, root: Path, split: str) -> list[dict[str, Any]]:
    """What a pipeline's loading steps make of a split."""
    pipeline: list[dict[str, Any]] = [dict(data.images.loader)]
    if data.labels.label_map:
        pipeline.append({"type": "MapLabels", "label_map": sorted(data.labels.label_map.items())})
    pipeline.append({"type": "LoadAnnotations"})
    metainfo = {"classes": data.labels.classes, "palette": data.labels.palette}
    keys = {"type": "BaseSegDataset", "data_root": str(root), "metainfo": metainfo, **data.datasets[split]}
    if data.labels.reduce_zero_label:
        keys["reduce_zero_label"] = True
    dataset = DATASETS.build({**keys, "pipeline": pipeline})
    return [dataset[index] for index in range(len(dataset))]


@pytest.mark.parametrize("name", LAYOUTS)
def test_layouts(name: str, tmp_path: Path) -> None:
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


def test_bands_are_read_as_they_are(tmp_path: Path) -> None:
    for name, count, dtype, suffix in (
        ("grey", 1, np.uint16, ".png"), ("four", 4, np.uint16, ".tif"), ("six", 6, np.float32, ".tif"),
    ):  # fmt: skip
        bands(tmp_path / name, count, dtype, suffix)
        data = read_data(tmp_path / name, tmp_path / "out" / name)
        image = samples(data, tmp_path / name, "train")[0]["img"]
        assert data.images.channels == count and (image.shape[2] if image.ndim == 3 else 1) == count
        assert image.dtype == np.float32
        expected = pixels_of(labels_of(0, 2), count, dtype).astype(np.float32)
        assert np.allclose(np.sort(image.reshape(-1)), np.sort(expected.reshape(-1)))
        assert data.images.mean is not None and data.images.std is not None
        values = np.concatenate([sample["img"].reshape(-1) for sample in samples(data, tmp_path / name, "train")])
        assert data.images.mean[0] == pytest.approx(values.mean(), rel=1e-4)
        assert data.images.std[0] == pytest.approx(values.std(), rel=1e-3)


def test_names_and_a_table_of_colours_are_taken(tmp_path: Path) -> None:
    mmseg(tmp_path / "a")
    assert read_data(tmp_path / "a", tmp_path / "out", classes=["x", "y", "z"]).labels.classes == ("x", "y", "z")
    (tmp_path / "a/classes.txt").write_text("sky\nroad\ncar\n")
    assert read_data(tmp_path / "a", tmp_path / "out").labels.classes == ("sky", "road", "car")
    colors(tmp_path / "b", table=False)
    table = tmp_path / "table.txt"
    table.write_text("0 0 0 Void\n128 64 128\tRoad\n220 20 60\tPerson\n")
    data = read_data(tmp_path / "b", tmp_path / "b_out", colors=table)
    assert data.labels.classes == ("Road", "Person")
    present = {int(value) for sample in samples(data, tmp_path / "b", "train")
               for value in np.unique(sample["gt_seg_map"])}  # fmt: skip
    assert present == {0, 1, 255}


def test_the_split_by_chance_is_seeded_and_keeps_rare_classes_in_training(tmp_path: Path) -> None:
    for index in range(10):
        labels = labels_of(index, 2)
        labels[0, 0] = 2 if index == 4 else 0
        save(tmp_path / f"images/{index}.png", pixels_of(labels))
        save(tmp_path / f"masks/{index}.png", labels)
    lists = []
    for name in ("one", "two"):
        data = read_data(tmp_path, tmp_path / name)
        lists.append((tmp_path / name / "val.txt").read_text())
        assert data.pixels[2] == 1 and "images/4.png" not in lists[-1]
    assert lists[0] == lists[1] and len(lists[0].splitlines()) == 2


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


def _nothing(root: Path) -> None:
    root.mkdir()


def _text(root: Path) -> None:
    root.mkdir()
    (root / "readme.txt").write_text("hello")


def _images(root: Path) -> None:
    for index in range(3):
        save(root / f"photos/{index}.jpg", pixels_of(labels_of(index)))


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


def _mixed(root: Path) -> None:
    bands(root, 4, np.uint16, ".tif")
    save(root / "images/train/1.tif", pixels_of(labels_of(1, 2), 3, np.uint16))


def _planar(root: Path) -> None:
    bands(root, 4, np.uint16, ".tif")
    save(root / "images/train/1.tif", np.moveaxis(pixels_of(labels_of(1, 2), 4, np.uint16), 2, 0))


def _single(root: Path) -> None:
    pair(root / "images/1.png", root / "masks/1.png", 1)


def _colors_and_names(root: Path) -> None:
    colors(root, table=False)


@pytest.mark.parametrize(
    ("fill", "line"),
    [
        (None, r"^--data .*: no such folder$"),
        (_nothing, r"^--data .*: is empty; looked for PaddleSeg \(train_list.txt\); .*COCO .*NAME_mask.png"),
        (_text, r"^--data .*: holds no images, but readme.txt; looked for "),
        (_images, r"^--data .*: 3 images in photos, and no masks that belong to them; looked for "),
        (_photographs, r"masks/0.png: holds \d+ different values; is it an image\? A mask has class numbers$"),
        (_one_value, r"masks/0.png: and all other masks hold 0 alone; there is one class$"),
        (_smeared, r"masks/0.jpg: is saved with losses, which smears class numbers; save masks as PNG$"),
        (_damaged, r"ann_dir/train/1.png: cannot be read: "),
        (_mixed, r"images differ in their number of channels \(5 of 4, 1 of 3\); a model takes one number$"),
        (_planar, r"1.tif: is 4 x 36 x 48, bands or images one after the other; store each pixel's bands together$"),
        (_single, r"holds one image with a mask; two are needed, to train on and to score$"),
    ],
)
def test_what_is_not_understood_is_one_line(fill: Any, line: str, tmp_path: Path) -> None:
    root = tmp_path / "data"
    if fill is not None:
        fill(root)
    with pytest.raises(UserError, match=line) as error:
        read_data(root, tmp_path / "out")
    assert len(error.value.problems) == 1


def test_too_few_names_are_refused(tmp_path: Path) -> None:
    mmseg(tmp_path / "a")
    with pytest.raises(UserError, match=r"^--classes: names 2 classes, but the masks hold 3: name them all$"):
        read_data(tmp_path / "a", tmp_path / "out", classes=["x", "y"])
    _colors_and_names(tmp_path / "b")
    with pytest.raises(UserError, match=r"^--classes: names 2 classes, but the masks hold 3 colours: black, #dc143c"):
        read_data(tmp_path / "b", tmp_path / "out", classes=["x", "y"])


def test_pixels_and_weights_of_a_rare_class(tmp_path: Path) -> None:
    for index in range(10):
        labels = np.zeros((50, 40), np.uint8)
        labels[:4, :10] = 255  # 2 % of the pixels
        save(tmp_path / f"img/{index}.png", pixels_of(labels // 255))
        save(tmp_path / f"gt/{index}.png", labels)
    data = read_data(tmp_path, tmp_path / "out")
    assert data.pixels == [8 * 1960, 8 * 40]
    assert data.weights == proposals.class_weights(data.pixels) == (1.0, 7.0)
    assert dict(data.decisions)["pixels"].endswith("class weights for those below 3 %: foreground 7")


def test_palette_masks_are_class_numbers(tmp_path: Path) -> None:
    binary(tmp_path)
    for mask in tmp_path.rglob("masks/*.png"):
        labels = np.asarray(Image.open(mask)) // 255
        indexed = Image.fromarray(labels)
        indexed.putpalette([10, 20, 30, 200, 0, 0] + [0] * 762)
        indexed.save(mask)
    data = read_data(tmp_path, tmp_path / "out")
    assert (data.labels.label_map, data.labels.render, len(data.labels.classes)) == ({}, False, 2)

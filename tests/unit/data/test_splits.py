"""The layouts of docs/configs.md, as they stand there, each on a small folder."""

from __future__ import annotations

import re
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from conftest import Tiny
from mmengine.config import Config
from PIL import Image

from rdistill.checks.data import inspect_data
from rdistill.config.load import load_config
from rdistill.config.read import read_config_file
from rdistill.data.splits import data_splits, describe_layouts

PAGE = Path(__file__).parents[3] / "docs" / "configs.md"
SECTION = PAGE.read_text().partition("## Data in other layouts\n")[2].partition("\n## ")[0]
BLOCKS = dict(
    zip(
        ("cityscapes", "voc", "ade", "suffixes", "lists"),
        re.findall(r"```python\n(.*?)```", SECTION, re.S),
        strict=True,
    )
)


def _pair(image: Path, mask: Path, values: range, first: int = 0) -> None:
    """An image in a colour of its own, and a mask that holds each value once and the first one elsewhere."""
    for path in (image, mask):
        path.parent.mkdir(parents=True, exist_ok=True)
    red, green, blue = zlib.crc32("/".join(image.parts[-3:]).encode()).to_bytes(4, "big")[:3]
    Image.new("RGB", (24, 16), (red, green, blue)).save(image, format="PNG" if image.suffix == ".png" else "JPEG")
    labels = np.full(16 * 24, first, np.uint8)
    labels[: len(values)] = values
    picture = Image.fromarray(labels.reshape(16, 24))
    if "SegmentationClass" in mask.parts:  # VOC's are of palette colours
        picture.putpalette([value for index in range(256) for value in (index, 255 - index, 7)])
    picture.save(mask)


def _cityscapes(root: Path) -> None:
    for split in ("train", "val"):
        name = f"{split}/ulm/ulm_000000_000019"
        _pair(root / f"leftImg8bit/{name}_leftImg8bit.png", root / f"gtFine/{name}_gtFine_labelTrainIds.png", range(19))


def _voc(root: Path) -> None:
    (root / "ImageSets/Segmentation").mkdir(parents=True)
    for split, name in (("train", "2007_000032"), ("val", "2007_000033")):
        _pair(root / f"JPEGImages/{name}.jpg", root / f"SegmentationClass/{name}.png", range(21))
        (root / f"ImageSets/Segmentation/{split}.txt").write_text(f"{name}\n")


def _ade(root: Path) -> None:
    for split in ("training", "validation"):
        name = f"ADE_{split}_00000001"
        _pair(root / f"images/{split}/{name}.jpg", root / f"annotations/{split}/{name}.png", range(151))


def _suffixes(root: Path) -> None:
    for folder in "ab":
        _pair(root / f"photos/{folder}/1.JPG", root / f"labels/{folder}/1_mask.png", range(2))


def _lists(root: Path) -> None:
    for number in (1, 2):
        _pair(root / f"x/{number}.JPG", root / f"y/{number}.png", range(2))
    _pair(root / "x/my 2.png", root / "y/my 2.png", range(2))
    (root / "a.txt").write_text("\ufeffx\\1.JPG,y\\1.png\n")
    (root / "b.txt").write_text("x/2.JPG|y/2.png\nx/my 2.png\ty/my 2.png\n")


@pytest.mark.parametrize(
    ("name", "fill", "classes", "images"),
    [
        ("cityscapes", _cityscapes, 19, (1, 1)),
        ("voc", _voc, 21, (1, 1)),
        ("ade", _ade, 150, (1, 1)),
        ("suffixes", _suffixes, 2, (1, 1)),
        ("lists", _lists, 2, (1, 2)),
    ],
)
def test_the_pages_layouts(
    tiny_without_teacher: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str,
    fill: Callable[[Path], None], classes: int, images: tuple[int, int],
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    (folder,) = set(re.findall(r"""data_root=["']([^"']+)""", BLOCKS[name]))
    fill(tmp_path / folder)
    base = read_config_file(tiny_without_teacher.folder / "student.py")
    mmsegs = re.findall(r"mmseg::[\w/]+\.py", BLOCKS[name])
    if mmsegs:  # whose data sections must not stand in two bases
        base = Config({key: base[key] for key in ("model", "optim_wrapper", "train_cfg", "param_scheduler")})
    base.dump(tmp_path / "base.py")
    text = re.sub(r"^_base_ = .*\n", "", BLOCKS[name])
    (tmp_path / "mine.py").write_text(f"_base_ = {['./base.py', *mmsegs]}\n{text}")
    splits = data_splits(load_config(tmp_path / "mine.py"))
    assert tuple(len(split.entries) for split in splits) == images
    assert [len(split.classes) for split in splits] == [classes] * 2
    report = inspect_data(splits, full=True)
    assert (report.problems, report.notes) == ([], [])
    assert all(folder in line for line in describe_layouts(splits))

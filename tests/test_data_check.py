"""Broken data is found at the start and named; real files, broken one by one."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from conftest import Tiny
from mmengine.config import Config
from PIL import Image

from rdistill.data import check
from rdistill.data.check import check_data


@pytest.fixture
def root(data_root: Path, tmp_path: Path) -> Path:
    """A copy of the data, to be broken."""
    return Path(shutil.copytree(data_root, tmp_path / "data"))


@pytest.fixture
def config(tiny_without_teacher: Tiny, root: Path) -> Callable[..., Config]:
    return lambda **overrides: tiny_without_teacher.load("student", overrides, data_root=str(root))


def images(root: Path, split: str = "train") -> list[Path]:
    return sorted((root / "img_dir" / split).iterdir())


def mask_of(image: Path) -> Path:
    return Path(str(image).replace("img_dir", "ann_dir")).with_suffix(".png")


def test_sound_data(config: Callable[..., Config], root: Path) -> None:
    shutil.copy(mask_of(images(root)[0]), root / "ann_dir/train/nobody.png")  # a mask without an image is fine
    assert check_data(config(), full=True) == []


def test_empty_and_missing_splits(config: Callable[..., Config], root: Path) -> None:
    for image in images(root, "val"):
        image.unlink()
    shutil.rmtree(root / "img_dir/train")
    train, val = check_data(config())
    assert train.startswith("train data: cannot be listed") and "img_dir/train" in train
    assert val.startswith("val data: is empty") and "no images that end in .jpg" in val


def test_image_without_mask(config: Callable[..., Config], root: Path) -> None:
    image = images(root)[1]
    mask_of(image).unlink()
    assert check_data(config()) == [f"train data: {image}: has no mask; expected {mask_of(image)}"]


def test_at_most_the_first_are_named(config: Callable[..., Config], root: Path) -> None:
    for image in images(root):
        mask_of(image).unlink()
    lines = check_data(config(), most=4)
    assert len(lines) == 5 and lines[-1] == "train data: ... and 2 more images without a mask"
    assert images(root)[0].name in lines[0] and images(root)[3].name in lines[3]


def test_label_outside_the_classes(config: Callable[..., Config], root: Path) -> None:
    mask = mask_of(images(root)[2])
    labels = np.array(Image.open(mask))
    labels[0, :3] = [255, 2, 200]  # 255 is ignored
    Image.fromarray(labels).save(mask)
    assert check_data(config()) == [f"train data: {mask}: holds label 2, 200; there are 2 classes"]


def test_the_ignored_label_is_the_configs(config: Callable[..., Config], root: Path) -> None:
    mask = mask_of(images(root)[0])
    labels = np.array(Image.open(mask))
    labels[0, 0] = 7
    Image.fromarray(labels).save(mask)
    assert check_data(config(**{"+train_dataloader.dataset.ignore_index": 7})) == []


def test_reduced_zero_label(config: Callable[..., Config], root: Path) -> None:
    cfg = config(**{"+train_dataloader.dataset.reduce_zero_label": True})
    assert check_data(cfg) == []  # 0 is ignored, 1 is class 0
    mask = mask_of(images(root)[0])
    labels = np.full_like(np.array(Image.open(mask)), 2)
    labels[0, 0] = 3
    Image.fromarray(labels).save(mask)
    assert [line.split(": ")[-1] for line in check_data(cfg)] == ["holds label 3; there are 2 classes"]


def test_label_map(config: Callable[..., Config], root: Path) -> None:
    """A dataset of which only some classes are wanted: mmseg maps their labels, and the others to 255."""
    cfg = config()
    cfg.train_dataloader.dataset.update(type="LoveDADataset", img_suffix=".jpg", reduce_zero_label=False)
    cfg.train_dataloader.dataset.metainfo = dict(classes=("road", "building"))
    mask = mask_of(images(root)[0])
    labels = np.array(Image.open(mask))
    labels[:] = 6  # the original has labels 0 to 6
    labels[0, 0] = 9
    Image.fromarray(labels).save(mask)
    found = [line for line in check_data(cfg) if line.startswith("train")]
    assert [line.split(": ")[-1] for line in found] == ["holds label 9; there are 2 classes"]


def test_mask_of_another_size(config: Callable[..., Config], root: Path) -> None:
    mask = mask_of(images(root, "val")[0])
    Image.open(mask).resize((20, 30)).save(mask)
    assert check_data(config()) == [f"val data: {mask}: is 20 x 30 pixels, its image 48 x 48"]


def test_turned_photograph(config: Callable[..., Config], root: Path) -> None:
    """OpenCV turns an image as its EXIF says, and the mask is of the turned one."""
    image = images(root)[0]
    picture = Image.open(image).resize((48, 32))
    exif = picture.getexif()
    exif[check.ORIENTATION] = 6
    picture.save(image, exif=exif)
    Image.open(mask_of(image)).resize((32, 48)).save(mask_of(image))
    assert check_data(config()) == []


@pytest.mark.parametrize("keep", [0, 30, -200])
def test_unreadable_and_truncated_files(config: Callable[..., Config], root: Path, keep: int) -> None:
    image = images(root)[0]
    mask = mask_of(images(root)[1])
    for file in (image, mask):
        content = file.read_bytes()
        file.write_bytes(content[: max(keep, 40) if keep >= 0 else len(content) + max(keep, -len(content) // 2)])
    if keep == 0:
        image.write_bytes(b"")
    found = check_data(config())
    assert len(found) == 2 and all("cannot be read" in line for line in found)
    assert str(image) in found[0] and str(mask) in found[1]


def test_mask_in_colour(config: Callable[..., Config], root: Path) -> None:
    mask = mask_of(images(root)[0])
    Image.open(mask).convert("RGB").save(mask)
    assert "has 3 channels" in check_data(config())[0]
    Image.open(mask).convert("L").convert("P").save(mask)
    assert check_data(config()) == []  # a palette is one channel


def test_paddleseg_lists(tiny_without_teacher: Tiny, root: Path) -> None:
    for split in ("train", "val"):
        lines = [f"{path.relative_to(root)} {mask_of(path).relative_to(root)}" for path in images(root, split)]
        (root / f"{split}_list.txt").write_text("\n".join([*lines, "img_dir/gone.jpg ann_dir/gone.png"]))
    for split in ("train", "val"):
        (root / "img_dir" / split).rename(root / "img_dir" / f"{split}_images")
        text = (root / f"{split}_list.txt").read_text().replace(f"img_dir/{split}/", f"img_dir/{split}_images/")
        (root / f"{split}_list.txt").write_text(text)
    cfg = tiny_without_teacher.load("student", data_root=str(root))
    assert cfg.train_dataloader.dataset.type == "PaddleSegDataset"
    assert check_data(cfg) == [f"{split} data: {root}/img_dir/gone.jpg: no such file" for split in ("train", "val")]
    (root / "train_list.txt").write_text("only-one-path\n")
    assert "train_list.txt:1: must be `IMAGE MASK`" in check_data(cfg)[0]


def test_wrapped_datasets(config: Callable[..., Config], root: Path) -> None:
    cfg = config()
    leaf = cfg.train_dataloader.dataset
    mask_of(images(root)[0]).unlink()
    cfg.train_dataloader.dataset = dict(type="RepeatDataset", times=3, dataset=leaf)
    assert len(check_data(cfg)) == 1
    cfg.train_dataloader.dataset = dict(type="ConcatDataset", datasets=[leaf, leaf])
    assert len(check_data(cfg)) == 2


def test_quick_check_of_many_images(config: Callable[..., Config], root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of more than the limit, a sample is decoded, the same each time; headers are those of all."""
    monkeypatch.setattr(check, "ALL_BELOW", 2)
    for image in images(root):
        mask_of(image).write_bytes(mask_of(image).read_bytes()[:60])  # the header is whole
    decoded = check_data(config())
    assert len(decoded) == 2 and decoded == check_data(config())
    assert len(check_data(config(), full=True)) == 6
    Image.new("L", (5, 5)).save(mask_of(images(root)[0]))
    assert any("is 5 x 5 pixels" in line for line in check_data(config()))


def test_quick(config: Callable[..., Config], root: Path) -> None:
    for index in range(100):
        for file in (images(root)[0], mask_of(images(root)[0])):
            shutil.copy(file, file.with_stem(f"copy{index}"))
    start = time.perf_counter()
    assert check_data(config(), full=True) == []
    assert time.perf_counter() - start < 2

"""Files of a data folder that nothing reads are named: images of other suffixes, masks without an image."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

from mmengine.config import Config

from rdistill.checks.data import data_problems, data_splits, inspect_data


def images(root: Path, split: str = "train") -> list[Path]:
    return sorted((root / "img_dir" / split).iterdir())


def mask_of(image: Path) -> Path:
    return Path(str(image).replace("img_dir", "ann_dir")).with_suffix(".png")


def notes(cfg: Config) -> list[str]:
    return inspect_data(data_splits(cfg)).notes


def test_images_of_other_suffixes(config: Callable[..., Config], root: Path) -> None:
    for image, suffix in zip(images(root), (".JPG", ".jpeg", ".png"), strict=False):
        image.rename(image.with_suffix(suffix))
    mask_of(images(root)[0]).unlink()
    cfg = config()
    assert data_problems(cfg) == []
    (note,) = notes(cfg)
    assert note.startswith("train data: 3 images are not used (1 .")
    assert "; 2 have a mask), since img_suffix is '.jpg'; train_dataloader.dataset.img_suffix='." in note


def test_no_image_of_the_suffix(config: Callable[..., Config], root: Path) -> None:
    for image in images(root):
        image.rename(image.with_suffix(".png"))
    report = inspect_data(data_splits(config()))
    assert "train data: is empty" in report.problems[0]
    assert report.notes == [
        "train data: 6 images are not used (6 .png; 6 have a mask), since img_suffix is '.jpg'; "
        "train_dataloader.dataset.img_suffix='.png' takes 6 of them"
    ]


def test_each_suffix_a_data_set(config: Callable[..., Config], root: Path) -> None:
    images(root)[0].rename(images(root)[0].with_suffix(".png"))
    cfg = config()
    leaf = cfg.train_dataloader.dataset
    cfg.train_dataloader.dataset = dict(type="ConcatDataset", datasets=[leaf, {**leaf, "img_suffix": ".png"}])
    assert data_problems(cfg) == [] and notes(cfg) == []


def test_masks_without_an_image(config: Callable[..., Config], root: Path) -> None:
    extra = root / "ann_dir/train/nobody.png"
    shutil.copy(mask_of(images(root)[0]), extra)
    assert notes(config()) == [f"train data: 1 mask has no image that is used, such as {extra}"]
    assert notes(config(**{"+train_dataloader.dataset.indices": 3})) == []  # a subset leaves some out by design


def test_masks_beside_their_images(config: Callable[..., Config], root: Path) -> None:
    for split in ("train", "val"):
        for image in images(root, split):
            mask_of(image).rename(image.with_name(f"{image.stem}_mask.png"))
    cfg = config()
    for loader in (cfg.train_dataloader, cfg.val_dataloader):
        loader.dataset.data_prefix.seg_map_path = loader.dataset.data_prefix.img_path
        loader.dataset.seg_map_suffix = "_mask.png"
    assert data_problems(cfg) == [] and notes(cfg) == []

"""Images of several sizes: whether they make a batch is found before a run, and said with a way out."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
from conftest import Tiny
from mmengine.config import Config
from PIL import Image

from rdistill.checks.batches import check_batches, most_different
from rdistill.checks.data import inspect_data
from rdistill.checks.run import check_run
from rdistill.data.splits import data_splits


@pytest.fixture
def root(data_root: Path, tmp_path: Path) -> Path:
    """A copy of the data in which one image of each split is wide and one is high."""
    root = Path(shutil.copytree(data_root, tmp_path / "data"))
    for split in ("train", "val"):
        for image, size in zip(sorted((root / "img_dir" / split).iterdir()), ((64, 40), (40, 64)), strict=False):
            mask = root / "ann_dir" / split / f"{image.stem}.png"
            Image.open(image).resize(size).save(image)
            Image.open(mask).resize(size, Image.Resampling.NEAREST).save(mask)
    return root


def config(tiny: Tiny, root: Path, *, keep_ratio: bool, loader: str, **overrides: Any) -> Config:
    cfg = tiny.load("student", overrides, data_root=str(root))
    for step in cfg[loader].dataset.pipeline:
        if step.type == "Resize":
            step.keep_ratio = keep_ratio
    return cfg


def problems(cfg: Config, workers: int = 1) -> list[str]:
    return check_batches(cfg, inspect_data(data_splits(cfg)).sizes, workers=workers)


def test_validation_batch_of_different_sizes(tiny_without_teacher: Tiny, root: Path) -> None:
    assert problems(config(tiny_without_teacher, root, keep_ratio=False, loader="val_dataloader")) == []
    cfg = config(tiny_without_teacher, root, keep_ratio=True, loader="val_dataloader")
    (problem,) = problems(cfg)
    assert problem == (
        "val_dataloader: images of different sizes do not make a batch of 8: 0001.jpg 20 x 32, 0000.jpg 32 x 20, "
        "0002.jpg 32 x 32 after the pipeline; set val_dataloader.batch_size=1, or give its pipeline a Resize with "
        "keep_ratio=False"
    )
    assert problem in check_run(cfg).problems
    alone = {"val_dataloader.batch_size": 1}
    assert problems(config(tiny_without_teacher, root, keep_ratio=True, loader="val_dataloader", **alone)) == []


def test_training_batch_of_different_sizes(tiny_without_teacher: Tiny, root: Path) -> None:
    """mmseg pads to data_preprocessor.size; what is larger than that, or not padded to one size, does not stack."""
    cfg = config(tiny_without_teacher, root, keep_ratio=True, loader="train_dataloader")
    assert problems(cfg) == []  # padded to 32 x 32
    cfg.model.data_preprocessor.size = (16, 16)
    (problem,) = problems(cfg)
    assert problem.startswith("train_dataloader: images of different sizes do not make a batch of 2: ")
    assert problem.endswith("or let model.data_preprocessor.size pad")
    assert problems(cfg, workers=2) == []  # an image a worker


def test_most_different() -> None:
    sizes = {"a": (10, 10), "b": (10, 10), "c": (20, 10), "d": (10, 20), "e": (100, 100), "f": (11, 10)}
    assert most_different(sizes, 4) == ["d", "c", "a", "e"]
    assert most_different(sizes, 2) == ["d", "c"]
    assert most_different({"a": (10, 10), "b": (10, 10)}, 4) == []
    assert most_different({"a": (10, 10), "b": (20, 20), "c": (30, 30)}, 4) == ["a", "c"]


def test_a_subset_of_the_images_is_tried_as_far_as_it_goes(tiny_without_teacher: Tiny, root: Path) -> None:
    """The wide and the high image are in the whole set; a batch of what is left is no mistake."""
    cfg = config(tiny_without_teacher, root, keep_ratio=False, loader="train_dataloader")
    whole = cfg.train_dataloader.dataset.to_dict()
    for seed in range(4):
        cfg.train_dataloader.dataset = dict(type="SubsetDataset", dataset=whole, share=0.5, seed=seed)
        assert problems(cfg) == []


def test_a_changed_aspect_is_noted(tiny_without_teacher: Tiny, data_root: Path, tmp_path: Path) -> None:
    root = Path(shutil.copytree(data_root, tmp_path / "data"))
    for image in (root / "img_dir/val").iterdir():
        Image.open(image).resize((64, 48)).save(image)
        mask = root / f"ann_dir/val/{image.stem}.png"
        Image.open(mask).resize((64, 48), Image.Resampling.NEAREST).save(mask)
    cfg = tiny_without_teacher.load("student", data_root=str(root))
    (note,) = [note for note in check_run(cfg).notes if "aspect" in note]
    assert note.startswith(
        "images of 64 x 48 reach the model as 32 x 32: their aspect changes; a Resize with keep_ratio"
    )
    cfg = config(tiny_without_teacher, root, keep_ratio=True, loader="val_dataloader")
    assert not [note for note in check_run(cfg).notes if "aspect" in note]

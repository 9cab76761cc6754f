"""Training images that are scored as well are said, under whatever name they are."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from mmengine.config import Config

from rdistill.checks.data import inspect_data
from rdistill.checks.scored_training_images import FIRST_BYTES, same_files
from rdistill.data.splits import data_splits


def notes(config: Callable[..., Config]) -> list[str]:
    report = inspect_data(data_splits(config(), ("train", "val")))
    assert report.problems == []
    return [note for note in report.notes if "training images" in note]


def image_and_mask(root: Path, split: str, number: int) -> tuple[Path, Path]:
    image = sorted((root / "img_dir" / split).iterdir())[number]
    return image, (root / "ann_dir" / split / image.name).with_suffix(".png")


def test_copies_under_other_names(config: Callable[..., Config], root: Path) -> None:
    assert notes(config) == []
    for number, name in ((0, "a"), (2, "b")):
        for file, kind in zip(image_and_mask(root, "train", number), ("img_dir", "ann_dir"), strict=True):
            shutil.copy(file, root / kind / "val" / f"{name}{file.suffix}")
    count = len(list((root / "img_dir" / "val").iterdir()))
    (note,) = notes(config)
    image, original = root / "img_dir" / "val" / "a.jpg", image_and_mask(root, "train", 0)[0]
    assert note == (
        f"val data: 2 of {count} images are training images as well, such as {image}, which is {original}: their "
        f"scores are too high; leave them out of one of the two"
    )


def test_a_link_to_the_training_images(config: Callable[..., Config], root: Path) -> None:
    for kind in ("img_dir", "ann_dir"):
        shutil.rmtree(root / kind / "val")
        (root / kind / "val").symlink_to(root / kind / "train")
    count = len(list((root / "img_dir" / "train").iterdir()))
    (note,) = notes(config)
    assert note.startswith(f"val data: {count} of {count} images are training images as well, such as {root}")
    assert ", which is" not in note  # it is the same file


@pytest.mark.parametrize("length", [1, FIRST_BYTES, FIRST_BYTES + 1])
def test_files_that_differ_in_their_last_byte(tmp_path: Path, length: int) -> None:
    contents = {
        "train": b"0" * length,
        "same": b"0" * length,
        "other": b"0" * (length - 1) + b"1",
        "longer": b"0" * (length + 1),
    }
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
    train, *scored = (str(tmp_path / name) for name in contents)
    assert same_files([train], [*scored, str(tmp_path / "missing"), "nul\0"]) == {str(tmp_path / "same"): train}
    assert same_files([train], []) == {} and same_files([], scored) == {}

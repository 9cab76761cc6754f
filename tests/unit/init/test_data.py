"""What a folder of images and masks says together: splits, classes, weights."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from init_folders import colors, labels_of, mmseg, pixels_of, save

from rdistill.core.errors import UserError
from rdistill.init import proposals
from rdistill.init.data import read_data


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


def _colors_and_names(root: Path) -> None:
    colors(root, table=False)


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

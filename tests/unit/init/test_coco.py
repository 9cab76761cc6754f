"""COCO's JSON: which file is taken for which split, and what is drawn of its shapes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from init_folders import HEIGHT, WIDTH, labels_of, pixels_of, save

from rdistill.core.errors import UserError
from rdistill.init.coco import coco_files, read
from rdistill.init.layouts import Folder
from rdistill.init.masks import IGNORED

pytest.importorskip("pycocotools", reason="pip install pycocotools")
BOX = [4, 4, 24, 4, 24, 20, 4, 20]


def annotation(segmentation: Any, category: int = 7, **more: Any) -> dict[str, Any]:
    return {"image_id": 1, "category_id": category, "segmentation": segmentation, "iscrowd": 0, **more}


def write(root: Path, *annotations: dict[str, Any], name: str = "annotations/instances_train2017.json",
          categories: tuple[str, ...] = ("disc", "cup"), image: str = "1.jpg") -> Path:  # fmt: skip
    for folder in ("train2017", "val2017"):
        save(root / folder / "1.jpg", pixels_of(labels_of(1)))
    content = {
        "images": [{"id": 1, "file_name": image, "width": WIDTH, "height": HEIGHT}],
        "annotations": [*annotations] or [annotation([BOX])],
        "categories": [{"id": 7 + 2 * index, "name": name} for index, name in enumerate(categories)][::-1],
    }
    (root / name).parent.mkdir(parents=True, exist_ok=True)
    (root / name).write_text(json.dumps(content))
    return root / name


def drawn(root: Path, *annotations: dict[str, Any]) -> np.ndarray:
    write(root, *annotations)
    folder = read(root, root.parent / "out", make=Folder)
    (pair,) = folder.splits["train"]
    assert folder.names == ("background", "disc", "cup") and pair.image == root / "train2017/1.jpg"
    return cv2.imread(str(pair.mask), cv2.IMREAD_UNCHANGED)


def test_a_polygon_is_its_category_in_the_order_of_ids(tmp_path: Path) -> None:
    mask = drawn(tmp_path / "data", annotation([BOX]))
    assert (mask[6:18, 6:22] == 1).all() and mask[0, 0] == 0 and set(np.unique(mask)) == {0, 1}


def test_a_smaller_shape_lies_over_a_larger_one_and_a_crowd_counts_nowhere(tmp_path: Path) -> None:
    """Whatever the order in the file; run lengths go down the columns."""
    inner = annotation([[10, 8, 16, 8, 16, 14, 10, 14]], category=9)
    runs = {"size": [HEIGHT, WIDTH], "counts": [HEIGHT * (WIDTH - 2), HEIGHT * 2]}
    for number, order in enumerate(((inner, annotation([BOX])), (annotation([BOX]), inner))):
        mask = drawn(tmp_path / str(number) / "data", *order, annotation(runs, iscrowd=1))
        assert mask[11, 13] == 2 and mask[6, 6] == 1
        assert (mask[:, -2:] == IGNORED).all() and not (mask[:, :-2] == IGNORED).any()


def test_shapes_of_no_category_and_of_no_points_are_nothing(tmp_path: Path) -> None:
    other, line = annotation([BOX], category=99), annotation([[1, 1, 5, 5]])
    assert not drawn(tmp_path / "data", other, line).any()


def test_of_several_files_for_a_split_the_one_of_instances_is_taken(tmp_path: Path) -> None:
    root = tmp_path / "data"
    instances = write(root)
    write(root, name="annotations/a_train.json")
    write(root, name="annotations/captions_val.json")
    (root / "annotations/captions_val.json").write_text(json.dumps({"images": [], "annotations": [], "info": 1}))
    (root / "settings.json").write_text("[1, 2]")
    (root / "broken.json").write_text("{")
    assert coco_files(root, root / "out") == {"train": instances}


def test_a_folder_without_such_a_file_is_another_layout(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    assert read(tmp_path / "data", tmp_path / "out", make=Folder) is None


def test_what_cannot_be_drawn_is_one_line(tmp_path: Path) -> None:
    for number, (line, arguments, more) in enumerate((
        ("holds a segmentation that cannot be drawn", [annotation({"size": [2, 2], "counts": "x"}, iscrowd=1)], {}),
        ("names the image gone.jpg, which is nowhere below", [], {"image": "gone.jpg"}),
        ("has 0 categories; from 1 to", [], {"categories": ()}),
    )):  # fmt: skip
        root = tmp_path / str(number)
        write(root, *arguments, **more)
        with pytest.raises(UserError, match=line) as caught:
            read(root, root / "out", make=Folder)
        assert len(caught.value.problems) == 1 and "instances_train2017.json" in str(caught.value)


def test_two_splits_have_the_same_categories(tmp_path: Path) -> None:
    write(tmp_path)
    write(tmp_path, name="annotations/instances_val2017.json", categories=("disc", "rim"))
    with pytest.raises(UserError, match=r"has other categories than .*; both must have the same$"):
        read(tmp_path, tmp_path / "out", make=Folder)

"""rdistill's own layouts: what each is recognised by and reads; test_layouts.py reads whole folders of them."""

from __future__ import annotations

from pathlib import Path

import pytest

from rdistill.layouts import LAYOUTS, find_keys


@pytest.mark.parametrize("split", ["train", "val", "test"])
def test_paddleseg(tmp_path: Path, split: str) -> None:
    assert find_keys(tmp_path, split) == {}
    (tmp_path / "train_list.txt").touch()
    assert find_keys(tmp_path, split) == dict(
        type="PaddleSegDataset", ann_file=f"{split}_list.txt", data_prefix=dict(img_path="", seg_map_path="")
    )


def test_of_the_others_the_config_must_say_the_classes(tmp_path: Path) -> None:
    others = {name: layout for name, layout in LAYOUTS.registered().items() if LAYOUTS.is_own(name)}
    assert list(others) == ["PaddleSeg", "mmseg", "Cityscapes", "VOC", "ADE20K"]
    for layout in list(others.values())[1:]:
        root = tmp_path / layout.name
        for mark in layout.marks:
            (root / mark).mkdir(parents=True)
        assert [name for name in others if others[name].is_at(root)] == [layout.name]
        assert find_keys(root, "train") == {} and "docs/configs.md" in layout.hint

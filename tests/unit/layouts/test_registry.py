"""A layout of a data folder is one declaration: recognised by its marks, and said where a dataset cannot be listed."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import Tiny

from rdistill.checks.data import data_problems
from rdistill.config.load import load_config
from rdistill.core.errors import UserError
from rdistill.layouts import LAYOUTS, describe_folder, find_keys, register

MODULE = """
import rdistill

@rdistill.layouts.register("PhotosAndLabels", marks=("photos", "labels"))
def photos_and_labels(root, split):
    return dict(data_prefix=dict(img_path=f"photos/{split}", seg_map_path=f"labels/{split}"))
"""


@pytest.fixture(autouse=True)
def as_before(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """What a test registers is gone after it."""
    monkeypatch.setattr(LAYOUTS, "_entries", dict(LAYOUTS._entries))
    monkeypatch.setattr(LAYOUTS, "_sources", dict(LAYOUTS._sources))
    yield


@pytest.fixture
def photos(tiny_without_teacher: Tiny, tmp_path: Path) -> Path:
    """The tiny images in a layout of one's own."""
    shutil.copytree(tiny_without_teacher.data_root / "img_dir", tmp_path / "data/photos")
    shutil.copytree(tiny_without_teacher.data_root / "ann_dir", tmp_path / "data/labels")
    return tmp_path / "data"


def test_a_user_s_layout_is_read(
    tiny_without_teacher: Tiny, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "of_user.py").write_text(MODULE)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "of_user", raising=False)
    own = {"+custom_imports": {"imports": ["of_user"]}}
    cfg = tiny_without_teacher.load("student", own, data_root=str(photos))
    assert cfg.train_dataloader.dataset.data_prefix.to_dict() == dict(
        img_path="photos/train", seg_map_path="labels/train"
    )
    assert cfg.val_dataloader.dataset.data_prefix.img_path == "photos/val"
    assert data_problems(cfg) == []


def test_a_folder_that_cannot_be_read_is_described(tiny_without_teacher: Tiny, photos: Path) -> None:
    train, val = data_problems(tiny_without_teacher.load("student", data_root=str(photos)))
    kind = load_config(tiny_without_teacher.folder / "student.py", with_data=False).train_dataloader.dataset.type
    assert train == (
        f"train data: cannot be listed: there is no {photos}/img_dir/train, where {kind} looks; the layouts that are "
        "recognised by what is in a folder: PaddleSeg (train_list.txt); mmseg (img_dir, ann_dir); Cityscapes "
        "(leftImg8bit, gtFine); VOC (JPEGImages, SegmentationClass); ADE20K (images/training, annotations/training)"
    )
    (photos / "leftImg8bit").mkdir()
    (photos / "gtFine").mkdir()
    train, val = data_problems(tiny_without_teacher.load("student", data_root=str(photos)))
    assert train.endswith(f"{photos} looks like Cityscapes: see 'Data in other layouts' in docs/configs.md")
    assert val.startswith(f"val data: cannot be listed: there is no {photos}/img_dir/val, where {kind} looks; ")


def test_a_layout_that_fails_is_named(tiny_without_teacher: Tiny, photos: Path) -> None:
    @register("Failing", marks=("photos",))
    def failing(root: Path, split: str) -> Any:
        return {}[split]

    with pytest.raises(UserError, match=r"data_root: layout 'Failing' of .*: KeyError: 'train' \(test_registry.py, li"):
        tiny_without_teacher.load("student", data_root=str(photos))


def test_the_first_that_says_what_is_read_decides(tmp_path: Path) -> None:
    @register("Known", marks=("a",), hint="do this")
    def known(root: Path, split: str) -> Any:
        return {}

    @register("Read", marks=("a", "b/c"))
    def read(root: Path, split: str) -> Any:
        return {"ann_file": f"{split}.txt"}

    (tmp_path / "a").mkdir()
    assert (find_keys(tmp_path, "val"), describe_folder(tmp_path)) == ({}, f"{tmp_path} looks like Known: do this")
    (tmp_path / "b").mkdir()
    (tmp_path / "b/c").touch()
    assert find_keys(tmp_path, "val") == {"ann_file": "val.txt"}


def test_declarations_that_are_refused() -> None:
    def mine(root: Path, split: str) -> Any:
        return "photos"

    for marks in ((), "photos", ("",)):
        with pytest.raises(UserError, match=r"^layout 'Mine' of .*: marks must be names of files or folders, such as"):
            register("Mine", marks=marks)(mine)  # type: ignore[arg-type]
    with pytest.raises(UserError, match=r"^layout 'VOC' of .* is rdistill's own already"):
        register("VOC", marks=("a",))(mine)
    register("Mine", marks=("a",))(mine)
    with pytest.raises(
        UserError, match=r"^layout 'Mine' of /x: must return a mapping of a dataset's keys, got 'photos'$"
    ):
        LAYOUTS["Mine"].keys(Path("/x"), "train")

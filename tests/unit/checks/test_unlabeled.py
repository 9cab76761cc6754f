"""The folder of images without masks: what is wrong with it is one line, before training."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
from conftest import Tiny

from rdistill.checks.unlabeled import inspect_unlabeled, unlabeled_notes
from rdistill.config.load import LoadedConfig
from rdistill.core.errors import UserError


def looked_at(tiny: Tiny, **unlabeled: Any) -> tuple[list[str], str]:
    return inspect_unlabeled(tiny.load("distill", {"+distill.unlabeled": {"per_batch": 2, **unlabeled}}))


def test_what_is_there_is_counted(tiny: Tiny) -> None:
    assert looked_at(tiny, img_dir="img_dir/train") == (
        [],
        "6 images without masks, 2 beside 2 labelled ones in each batch",
    )
    assert inspect_unlabeled(tiny.load("distill")) == ([], "")


def test_a_loss_that_needs_labels_is_named(tiny: Tiny) -> None:
    overrides = {
        "+distill.unlabeled": {"img_dir": "img_dir/train", "per_batch": 2},
        "distill.losses.kd": {"type": "IFVD", "pair": [1, 1]},
    }
    assert unlabeled_notes(LoadedConfig.of(tiny.load("distill", overrides))) == [
        "distill.losses.kd: IFVD needs labels, so it leaves out images without masks"
    ]
    assert unlabeled_notes(LoadedConfig.of(tiny.load("distill"))) == []


def test_no_images_of_the_suffix(tiny: Tiny, tmp_path: Path) -> None:
    (problem,), _ = looked_at(tiny, img_dir=str(tmp_path))
    assert problem.endswith("got no file at all; set img_suffix, or give another folder")
    (tmp_path / "a.png").touch()
    (problem,), _ = looked_at(tiny, img_dir=str(tmp_path))
    assert "no images that end in .jpg" in problem and "1 .png" in problem


def test_validation_images_are_refused(tiny: Tiny) -> None:
    (problem,), _ = looked_at(tiny, img_dir="img_dir/val")
    assert "3 of its 3 images are validation or test images" in problem


def test_copies_of_validation_images_are_refused(tiny: Tiny, tmp_path: Path) -> None:
    own = sorted((tiny.data_root / "img_dir" / "train").iterdir())[0]
    scored = sorted((tiny.data_root / "img_dir" / "val").iterdir())[0]
    shutil.copy(own, tmp_path / "a.jpg")
    assert looked_at(tiny, img_dir=str(tmp_path))[0] == []
    shutil.copy(scored, tmp_path / "b.jpg")
    (problem,), _ = looked_at(tiny, img_dir=str(tmp_path))
    assert f"1 of its 2 images are validation or test images, such as {tmp_path / 'b.jpg'}: the scores" in problem


def test_files_that_cannot_be_read(tiny: Tiny, tmp_path: Path) -> None:
    """Found before training, wherever they are in the folder; each is a line that names the file."""
    whole = sorted((tiny.data_root / "img_dir" / "train").iterdir())
    for number, file in enumerate(whole):
        (tmp_path / f"a{number}.jpg").write_bytes(file.read_bytes())
    assert looked_at(tiny, img_dir=str(tmp_path))[0] == []
    (tmp_path / "cut.jpg").write_bytes(whole[0].read_bytes()[:-200])
    (tmp_path / "gone.jpg").symlink_to(tmp_path / "nowhere")
    (tmp_path / "text.jpg").write_text("no image")
    problems, _ = looked_at(tiny, img_dir=str(tmp_path))
    assert [problem.split(": ")[:2] for problem in problems] == [
        ["unlabeled data", str(tmp_path / name)] for name in ("cut.jpg", "text.jpg", "gone.jpg")
    ]
    assert "cannot be read" in problems[0] and "is a link to" in problems[2]


@pytest.mark.parametrize(
    "wrong",
    [
        {"per_batch": 0},
        {"per_batch": None, "share": 1.0},
        {"per_batch": None, "share": 0.0},
        {"share": 0.5},
        {"per_batch": None},
        {"min_confidence": 1.0},
        {"weight": -1.0},
        {"img_dir": "nowhere"},
    ],
)
def test_mistakes_are_one_line(tiny: Tiny, wrong: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=r"distill\.unlabeled") as error:
        looked_at(tiny, **{"img_dir": "img_dir/train", **wrong})
    assert len(error.value.problems) == 1

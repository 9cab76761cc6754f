"""Which images a command is given, and which files are none; a model and its masks without a dataset."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import Run

from rdistill.config.load import read_config_file
from rdistill.core.errors import UserError
from rdistill.handover.inference import image_files, load_predictor, predict_mask

Command = Callable[..., Any]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nothing.jpg"], "nothing.jpg: no such image, folder or pattern"),
        (["{folder}"], "holds no images (.jpg"),
        (["{folder}/student.py"], "student.py: cannot be read as an image: "),
    ],
    ids=str,
)
def test_what_is_no_image(
    command: Command,
    both_classes: list[Path],
    distilled_run: Run,
    arguments: list[str],
    message: str,
) -> None:
    arguments = [argument.format(folder=distilled_run.folder) for argument in arguments]
    result = command("predict", *both_classes, *arguments, "--out", "out")
    assert result.status == 2 and result.err.startswith("error: ") and result.err.count("\n") == 1
    assert message in result.err


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("cut.jpg", "cannot be read as an image: image file is truncated"),
        ("empty.jpg", "is an empty file"),
        ("text.png", "cannot be read as an image: it is no PNG file"),
        ("bomb.png", "its header claims 3600000000 pixels, more than "),
    ],
)
def test_broken_files_are_found_before_the_model_is_built(
    command: Command,
    broken: Path,
    name: str,
    message: str,
) -> None:
    """OpenCV itself fills what is cut off with grey, and says nothing to Python."""
    (broken.parent / "no.py").touch()
    result = command("predict", "no.py", "no.pth", broken / "good.jpg", broken / name, "--out", "out")
    assert result.status == 2 and result.err.count("\n") == 1
    assert result.err.startswith(f"error: {broken / name}: {message}")


def test_links_and_folders_that_are_called_like_images(
    command: Command,
    both_classes: list[Path],
    broken: Path,
) -> None:
    for name in ("cut.jpg", "empty.jpg", "text.png", "bomb.png"):
        (broken / name).unlink()
    (broken / "dangling.jpg").symlink_to("nothing")
    (broken / "loop.jpg").symlink_to("loop.jpg")
    (broken / "folder.jpg").mkdir()
    result = command("predict", *both_classes, broken, "--out", "out")
    assert result.status == 0 and "1 mask in out/masks" in result.out
    assert result.err.splitlines() == [
        f"left out  {broken / 'dangling.jpg'}: is a broken link",
        f"left out  {broken / 'folder.jpg'}: is a folder, not an image",
        f"left out  {broken / 'loop.jpg'}: is a broken link",
    ]
    result = command("predict", *both_classes, broken / "loop.jpg", "--out", "out")
    assert (result.status, result.err) == (2, f"error: {broken / 'loop.jpg'}: is a broken link\n")


def test_a_nul_byte() -> None:
    with pytest.raises(UserError, match="a path must not contain a NUL byte"):
        image_files(["a\0b.jpg"])


def test_an_image_that_only_the_loader_finds_broken_costs_no_other(
    command: Command,
    both_classes: list[Path],
    broken: Path,
) -> None:
    (broken / "odd.tif").write_bytes(b"II*\0 nothing of a TIFF file")
    result = command("predict", *both_classes, broken / "odd.tif", broken / "good.jpg", "--out", "out", "--json")
    assert [entry["image"] for entry in json.loads(result.out)] == [str(broken / "good.jpg")]
    assert result.status == 2 and result.err.startswith(f"error: {broken / 'odd.tif'}: cannot be read as an image: ")
    assert result.err.count("\n") == 1


def test_outputs_that_are_no_numbers_are_no_mask(both_classes: list[Path], broken: Path) -> None:
    predictor = load_predictor(read_config_file(both_classes[0]), both_classes[1])
    predictor.model.decode_head.conv_seg.weight.data[0, 0] = float("nan")
    with pytest.raises(UserError, match=r"good.jpg: 50 % of the model's outputs for it are no numbers \(NaN\)"):
        predict_mask(predictor, broken / "good.jpg")

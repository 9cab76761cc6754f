"""Masks and overlays of images, from any checkpoint of any config, without a dataset."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from conftest import Run, Tiny
from PIL import Image
from rich.console import Console

from rdistill.handover.predict import output_names, overlay, shares_line, show_progress

Command = Callable[..., Any]
PALETTE = [(0, 0, 0), (255, 215, 0)]


def test_masks_overlays_and_shares(command: Command, both_classes: list[Path], tiny: Tiny, tmp_path: Path) -> None:
    """As plain mmseg has them, pixel for pixel."""
    from mmseg.apis import inference_model, init_model

    folder = tiny.data_root / "img_dir" / "val"
    result = command("predict", *both_classes, folder, "--out", "out", "--json")
    assert (result.status, result.err) == (0, "")
    plain = init_model(*map(str, both_classes), device="cpu")
    entries = json.loads(result.out)
    assert [entry["image"] for entry in entries] == [str(path) for path in sorted(folder.iterdir())]
    for entry in entries:
        with Image.open(entry["mask"]) as image:
            mask, palette = np.asarray(image), image.getpalette()
            assert image.mode == "P" and palette is not None and palette[:6] == [0, 0, 0, 255, 215, 0]
        expected = inference_model(plain, entry["image"]).pred_sem_seg.data.squeeze(0).numpy()
        assert np.array_equal(mask, expected) and 0 < expected.mean() < 1
        assert entry["shares"] == {
            "background": pytest.approx((mask == 0).mean()),
            "optic disc": pytest.approx(mask.mean()),
        }
        drawn = cv2.imread(entry["overlay"])
        assert drawn.shape[0] > mask.shape[0] and drawn.shape[1] >= mask.shape[1]


def test_a_model_of_one_channel(
    command: Command,
    one_channel_run: tuple[Run, list[Path]],
    tiny: Tiny,
) -> None:
    """Two classes by a sigmoid and the config's own threshold: masks as plain mmseg has them, and scores of them."""
    from mmseg.apis import inference_model, init_model

    files = one_channel_run[1]
    images = sorted((tiny.data_root / "img_dir" / "val").iterdir())
    result = command("predict", *files, *images, "--out", "out", "--json")
    assert (result.status, result.err) == (0, "")
    plain = init_model(*map(str, files), device="cpu")
    areas = np.zeros((2, 2))  # each class's intersection and union
    for entry in json.loads(result.out):
        mask = np.asarray(Image.open(entry["mask"]))
        data = inference_model(plain, entry["image"])
        assert np.array_equal(mask, data.pred_sem_seg.data.squeeze(0).numpy()) and 0 < mask.mean() < 1
        assert np.array_equal(mask, data.seg_logits.data.squeeze(0).numpy() > np.float32(0.3))  # mmseg's are sigmoids
        assert entry["shares"]["optic disc"] == pytest.approx(mask.mean())
        truth = np.asarray(Image.open(tiny.data_root / "ann_dir" / "val" / f"{Path(entry['image']).stem}.png"))
        for index in range(2):
            both, either = (truth == index) & (mask == index), (truth == index) | (mask == index)
            areas[index] += both.sum(), either.sum()
    scores = json.loads(command("eval", *files, "--json").out)
    assert scores["mIoU"] == pytest.approx(100 * (areas[:, 0] / areas[:, 1]).mean(), abs=1e-3)


def test_lines(command: Command, both_classes: list[Path], tiny: Tiny) -> None:
    images = sorted((tiny.data_root / "img_dir" / "val").iterdir())
    result = command("predict", *both_classes, images[0], tiny.data_root / "img_dir/val/*.jpg", "--out", "out")
    lines = result.out.splitlines()
    assert result.status == 0 and len(lines) == len(images) + 1  # each image once
    assert lines[0].startswith(f"{images[0]}  ") and "%" in lines[0]
    assert lines[-1] == f"{len(images)} masks in out/masks, overlays in out/overlays"


@pytest.mark.parametrize("name", ["best.pth", "last.pth"])
def test_a_training_checkpoint_with_a_distill_config(
    command: Command,
    distilled_run: Run,
    tiny: Tiny,
    name: str,
) -> None:
    image = min((tiny.data_root / "img_dir" / "val").iterdir())
    result = command("predict", distilled_run.folder / "config.py", distilled_run.folder / name, image, "--out", "out")
    assert (result.status, result.err) == (0, "")


def test_names_that_repeat() -> None:
    assert output_names([Path("a/x.jpg"), Path("a/y.jpg")]) == ["x", "y"]
    assert output_names([Path("a/x.jpg"), Path("b/x.jpg")]) == ["a_x", "b_x"]
    assert output_names([Path("a/x.jpg"), Path("a/x.png")]) == ["x.jpg", "x.png"]


def test_overlay_draws_all_but_black() -> None:
    mask = np.zeros((8, 300), np.uint8)
    mask[:4] = 1
    drawn = np.asarray(overlay(Image.new("RGB", (300, 8), (100, 100, 100)), mask, ["background", "disc"], PALETTE))
    assert drawn[0, 0].tolist() == [177, 157, 50] and drawn[7, 0].tolist() == [100, 100, 100]
    assert drawn.shape[0] > 8 and (drawn[8:] == (255, 215, 0)).all(axis=2).any()  # the legend's swatch


def test_shares_line() -> None:
    assert shares_line({"a": 0.25, "b": 0.75, "c": 0.0}) == "b 75.0 %, a 25.0 %"
    assert shares_line({str(index): 0.125 for index in range(8)}).endswith("5 12.5 % and 2 more")


@pytest.mark.parametrize(
    "images",
    [
        ["a/b_c.jpg", "a_b/c.jpg", "a/x.jpg", "b/x.jpg"],
        ["a/b.jpg", "a_b.jpg", "c/b.jpg"],
        ["a/x.jpg", "a/x.png", "a_x.jpg", "b/x.jpg"],
        ["a/X.jpg", "b/x.jpg"],
        ["/one/x.jpg", "/two/x.jpg", "/two/y/x.jpg"],
    ],
    ids=str,
)
def test_no_two_images_share_a_name(images: list[str]) -> None:
    names = [name.lower() for name in output_names([Path(image) for image in images])]
    assert len(set(names)) == len(images)
    assert all(not Path(name).is_absolute() and ".." not in name for name in names)


def test_masks_of_images_whose_joined_names_are_alike(
    command: Command,
    both_classes: list[Path],
    tiny: Tiny,
    tmp_path: Path,
) -> None:
    images = sorted((tiny.data_root / "img_dir" / "val").iterdir())
    for name, image in zip(("a/b_c.jpg", "a_b/c.jpg", "b/c.jpg"), images, strict=True):
        (tmp_path / "in" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "in" / name).write_bytes(image.read_bytes())
    result = command("predict", *both_classes, "in/**/*.jpg", "in/a/../a/b_c.jpg", "--out", "out", "--json")
    entries = json.loads(result.out)
    assert result.status == 0 and len(entries) == 3 == len({entry["mask"] for entry in entries})
    written = {path.relative_to("out/masks").as_posix() for path in Path("out/masks").rglob("*.png")}
    assert written == {"a/b_c.png", "a_b/c.png", "b/c.png"}


def test_no_image_is_written_over(command: Command, both_classes: list[Path], broken: Path) -> None:
    masks = broken / "masks"
    masks.mkdir()
    Image.open(broken / "good.jpg").save(masks / "good.png")
    before = (masks / "good.png").read_bytes()
    result = command("predict", *both_classes, masks, "--out", broken)
    assert result.status == 2 and "would overwrite the input image" in result.err
    assert "masks/good.png; choose another folder" in result.err
    assert (masks / "good.png").read_bytes() == before


def test_a_folder_that_cannot_be_written_to(command: Command, broken: Path) -> None:
    """Said before the config is read."""
    result = command("predict", "no.py", "no.pth", broken / "good.jpg", "--out", broken / "good.jpg")
    assert (result.status, result.err) == (
        2,
        f"error: --out {broken / 'good.jpg'}: cannot be written to: Not a directory\n",
    )


def test_many_images_take_ten_lines_at_most() -> None:
    results = [{"image": f"{index}.jpg", "shares": {"a": 1.0}} for index in range(95)]
    console = Console(file=io.StringIO(), width=80)
    assert list(show_progress(iter(results), len(results), console)) == results
    lines = console.file.getvalue().splitlines()
    assert lines[0] == "10 of 95 images" and lines[-1] == "90 of 95 images" and len(lines) == 9

"""Which images have which masks, by names alone."""

from __future__ import annotations

from pathlib import Path

import pytest

from rdistill.init.pairs import find_pairs, match, split_of, words_of


@pytest.mark.parametrize(
    ("images", "masks", "matched"),
    [
        (["1.jpg", "2.jpg"], ["1.png", "2.png"], {"1.jpg": "1.png", "2.jpg": "2.png"}),
        (["21_training.tif", "22_training.tif"], ["21_manual1.gif", "22_manual1.gif"],
         {"21_training.tif": "21_manual1.gif", "22_training.tif": "22_manual1.gif"}),
        (["img_1.png", "img_2.png", "img_12.png"], ["mask_1.png", "mask_2.png", "mask_12.png"],
         {"img_1.png": "mask_1.png", "img_2.png": "mask_2.png", "img_12.png": "mask_12.png"}),
        (["a_0000.png", "b_0000.png"], ["a.png", "b.png"], {"a_0000.png": "a.png", "b_0000.png": "b.png"}),
        (["1.png", "2.png", "3.png"], ["1_color.png", "1_mask.png", "2_color.png", "2_mask.png", "3_mask.png"],
         {"1.png": "1_mask.png", "2.png": "2_mask.png", "3.png": "3_mask.png"}),
        (["a.png"], ["b.png"], {}),
    ],
)  # fmt: skip
def test_names_of_masks(images: list[str], masks: list[str], matched: dict[str, str]) -> None:
    pairs = match(sorted(map(Path, images)), sorted(map(Path, masks)))
    assert {str(image): str(mask) for image, mask in pairs} == matched


@pytest.mark.parametrize(
    "files",
    [
        {"train/images/1.jpg": "train/masks/1.png", "val/images/1.jpg": "val/masks/1.png"},
        {"images/train/1.jpg": "labels/train/1.png", "images/val/1.jpg": "labels/val/1.png"},
        {"train/1.png": "trainannot/1.png", "val/1.png": "valannot/1.png"},
        {"imagesTr/a_0000.png": "labelsTr/a.png", "imagesTs/b_0000.png": "labelsTs/b.png"},
        {"train/1.jpg": "train_masks/1_mask.gif"},
        {"train/1_sat.jpg": "train/1_mask.png", "train/2_sat.jpg": "train/2_mask.png"},
        {"JPEGImages/a/1.jpg": "SegmentationClassPNG/a/1.png", "JPEGImages/b/1.jpg": "SegmentationClassPNG/b/1.png"},
        {"p1/1.tif": "p1/1_mask.tif", "p2/1.tif": "p2/1_mask.tif"},
        {"ISIC_Input/I_1.jpg": "ISIC_GroundTruth/I_1_segmentation.png"},
    ],
    ids=lambda files: next(iter(files)),
)
def test_folders(files: dict[str, str], tmp_path: Path) -> None:
    for name in [*files, *files.values(), ".cache/1.png"]:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    pairs = find_pairs(tmp_path).pairs
    relative = {str(pair.image.relative_to(tmp_path)): str(pair.mask.relative_to(tmp_path)) for pair in pairs}
    assert relative == files


def test_images_without_masks_are_counted(tmp_path: Path) -> None:
    for name in ("images/1.jpg", "images/2.jpg", "images/3.jpg", "masks/1.png", "masks/2.png", "test/9.jpg"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    files = find_pairs(tmp_path)
    assert len(files.pairs) == 2 and files.count == 6
    assert {str(folder): count for folder, count in files.unpaired.items()} == {"images": 1, "test": 1}


def test_words_and_splits() -> None:
    assert words_of("JPEGImages") == ["jpeg", "images"] and words_of("trainannot") == ["train", "annot"]
    assert split_of(Path("images/validation/x")) == "val" and split_of(Path("imagesTs")) == "test"
    assert split_of(Path("photos/ulm")) is None and split_of(Path("train2017")) == "train"

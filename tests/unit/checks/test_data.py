"""Broken data is found at the start and named; real files, broken one by one."""

from __future__ import annotations

import random
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from conftest import Tiny
from mmcv.transforms import LoadImageFromFile
from mmengine.config import Config
from PIL import ExifTags, Image

from rdistill.checks import data as check
from rdistill.checks.data import data_problems, data_splits, inspect_data


def images(root: Path, split: str = "train") -> list[Path]:
    return sorted((root / "img_dir" / split).iterdir())


def mask_of(image: Path) -> Path:
    return Path(str(image).replace("img_dir", "ann_dir")).with_suffix(".png")


def test_sound_data(config: Callable[..., Config], root: Path) -> None:
    shutil.copy(mask_of(images(root)[0]), root / "ann_dir/train/nobody.png")  # a mask without an image is fine
    assert data_problems(config(), full=True) == []


def test_empty_and_missing_splits(config: Callable[..., Config], root: Path) -> None:
    for image in images(root, "val"):
        image.unlink()
    shutil.rmtree(root / "img_dir/train")
    train, val = data_problems(config())
    assert train.startswith("train data: cannot be listed") and "img_dir/train" in train
    assert val.startswith("val data: is empty") and "no images that end in .jpg (img_suffix)" in val


def test_image_without_mask(config: Callable[..., Config], root: Path) -> None:
    image = images(root)[1]
    mask_of(image).unlink()
    assert data_problems(config()) == [f"train data: {image}: has no mask; expected {mask_of(image)}"]


def test_at_most_the_first_are_named(config: Callable[..., Config], root: Path) -> None:
    for image in images(root):
        mask_of(image).unlink()
    lines = data_problems(config(), max_lines=4)
    assert len(lines) == 5 and lines[-1] == "train data: ... and 2 more images without a mask"
    assert images(root)[0].name in lines[0] and images(root)[3].name in lines[3]


def test_label_outside_the_classes(config: Callable[..., Config], root: Path) -> None:
    mask = mask_of(images(root)[2])
    labels = np.array(Image.open(mask))
    labels[0, :3] = [255, 2, 200]  # 255 is ignored
    Image.fromarray(labels).save(mask)
    assert data_problems(config()) == [f"train data: {mask}: holds label 2, 200; there are 2 classes"]


def test_the_ignored_label_is_the_configs(config: Callable[..., Config], root: Path) -> None:
    mask = mask_of(images(root)[0])
    labels = np.array(Image.open(mask))
    labels[0, 0] = 7
    Image.fromarray(labels).save(mask)
    assert data_problems(config(**{"+train_dataloader.dataset.ignore_index": 7})) == []


def test_reduced_zero_label(config: Callable[..., Config], root: Path) -> None:
    cfg = config(**{"+train_dataloader.dataset.reduce_zero_label": True})
    (problem,) = data_problems(cfg)
    assert "class 1 (optic disc) is in none of the 6 training masks: they hold 0, 1, of which 0 is ignored" in problem
    assert "take it out where 0 is a class" in problem
    for image in images(root):
        labels = np.array(Image.open(mask_of(image)))
        Image.fromarray(labels + 1).save(mask_of(image))
    assert data_problems(cfg) == []  # 0 is ignored, 1 is class 0
    mask = mask_of(images(root)[0])
    labels = np.full_like(np.array(Image.open(mask)), 2)
    labels[0, 0] = 3
    Image.fromarray(labels).save(mask)
    assert [line.split(": ")[-1] for line in data_problems(cfg)] == ["holds label 3; there are 2 classes"]


def test_label_map(config: Callable[..., Config], root: Path) -> None:
    """A dataset of which only some classes are wanted: mmseg maps their labels, and the others to 255."""
    cfg = config()
    cfg.train_dataloader.dataset.update(type="LoveDADataset", img_suffix=".jpg", reduce_zero_label=False)
    cfg.train_dataloader.dataset.metainfo = dict(classes=("road", "building"))
    mask = mask_of(images(root)[0])
    labels = np.array(Image.open(mask))
    labels[:] = 6  # the original has labels 0 to 6
    labels[0, 0] = 9
    Image.fromarray(labels).save(mask)
    lines = [line for line in data_problems(cfg) if line.startswith("train")]
    assert [line.split(": ")[-1] for line in lines] == ["holds label 9; there are 2 classes"]


def test_mask_of_another_size(config: Callable[..., Config], root: Path) -> None:
    mask = mask_of(images(root, "val")[0])
    Image.open(mask).resize((20, 30)).save(mask)
    assert data_problems(config()) == [f"val data: {mask}: is 20 x 30 pixels, its image 48 x 48"]


def test_turned_photograph(config: Callable[..., Config], root: Path) -> None:
    """OpenCV turns an image as its EXIF says, and the mask is of the turned one."""
    image = images(root)[0]
    picture = Image.open(image).resize((48, 32))
    exif = picture.getexif()
    exif[ExifTags.Base.Orientation] = 6
    picture.save(image, exif=exif)
    Image.open(mask_of(image)).resize((32, 48)).save(mask_of(image))
    assert data_problems(config()) == []


@pytest.mark.parametrize("keep", [0, 30, -200])
def test_unreadable_and_truncated_files(config: Callable[..., Config], root: Path, keep: int) -> None:
    image = images(root)[0]
    mask = mask_of(images(root)[1])
    for file in (image, mask):
        content = file.read_bytes()
        file.write_bytes(content[: max(keep, 40) if keep >= 0 else len(content) + max(keep, -len(content) // 2)])
    if keep == 0:
        image.write_bytes(b"")
    problems = data_problems(config())
    assert len(problems) == 2 and all("cannot be read" in line for line in problems)
    assert str(image) in problems[0] and str(mask) in problems[1]


def test_mask_in_colour(config: Callable[..., Config], root: Path) -> None:
    mask = mask_of(images(root)[0])
    Image.open(mask).convert("RGB").save(mask)
    assert "has 3 channels" in data_problems(config())[0]
    Image.open(mask).convert("L").convert("P").save(mask)
    assert data_problems(config()) == []  # a palette is one channel


def test_paddleseg_lists(tiny_without_teacher: Tiny, root: Path) -> None:
    for split in ("train", "val"):
        lines = [f"{path.relative_to(root)} {mask_of(path).relative_to(root)}" for path in images(root, split)]
        (root / f"{split}_list.txt").write_text("\n".join([*lines, "img_dir/gone.jpg ann_dir/gone.png"]))
    for split in ("train", "val"):
        (root / "img_dir" / split).rename(root / "img_dir" / f"{split}_images")
        text = (root / f"{split}_list.txt").read_text().replace(f"img_dir/{split}/", f"img_dir/{split}_images/")
        (root / f"{split}_list.txt").write_text(text)
    cfg = tiny_without_teacher.load("student", data_root=str(root))
    assert cfg.train_dataloader.dataset.type == "PaddleSegDataset"
    assert data_problems(cfg) == [f"{split} data: {root}/img_dir/gone.jpg: no such file" for split in ("train", "val")]
    (root / "train_list.txt").write_text("only-one-path\n")
    assert "train_list.txt:1: must be `IMAGE MASK`" in data_problems(cfg)[0]


def test_wrapped_datasets(config: Callable[..., Config], root: Path) -> None:
    cfg = config()
    leaf = cfg.train_dataloader.dataset
    mask_of(images(root)[0]).unlink()
    cfg.train_dataloader.dataset = dict(type="RepeatDataset", times=3, dataset=leaf)
    assert len(data_problems(cfg)) == 1
    cfg.train_dataloader.dataset = dict(type="ConcatDataset", datasets=[leaf, leaf])
    assert len(data_problems(cfg)) == 2


def test_quick_check_of_many_images(config: Callable[..., Config], root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of more than the limit, a sample is decoded, the same each time; headers are those of all."""
    monkeypatch.setattr(check, "DECODED_IMAGES", 2)
    for image in images(root):
        mask_of(image).write_bytes(mask_of(image).read_bytes()[:60])  # the header is whole
    decoded = data_problems(config())
    assert len(decoded) == 2 and decoded == data_problems(config())
    assert len(data_problems(config(), full=True)) == 6
    Image.new("L", (5, 5)).save(mask_of(images(root)[0]))
    assert any("is 5 x 5 pixels" in line for line in data_problems(config()))


def test_quick(config: Callable[..., Config], root: Path) -> None:
    for index in range(100):
        for file in (images(root)[0], mask_of(images(root)[0])):
            shutil.copy(file, file.with_stem(f"copy{index}"))
    start = time.perf_counter()
    assert data_problems(config(), full=True) == []
    assert time.perf_counter() - start < 2


# ---------------------------------------------------------------------------------------------------------
# Which classes occur


def remap(root: Path, split: str, **values: int) -> None:
    """Gives the labels of a split's masks other values: ``remap(root, 'val', _1=255)``."""
    for image in images(root, split):
        labels = np.array(Image.open(mask_of(image)))
        changed = labels.copy()
        for old, new in values.items():
            changed[labels == int(old[1:])] = new
        Image.fromarray(changed).save(mask_of(image))


def test_masks_of_0_and_255(config: Callable[..., Config], root: Path) -> None:
    """255 is ignored, so that the class is in no mask: a run would end with mIoU 100."""
    remap(root, "train", _1=255)
    remap(root, "val", _1=255)
    report = inspect_data(data_splits(config()))
    assert report.problems == [
        "train data: class 1 (optic disc) is in none of the 6 training masks: they hold 0, 255, of which 255 is "
        "ignored; where 255 means optic disc, pass --label-map 255=1"
    ]
    (note,) = report.notes
    assert note.startswith("val data: class 1 (optic disc) is in none of the 3 validation masks")


def test_label_map_for_masks_of_0_and_255(
    config: Callable[..., Config], root: Path, tiny_without_teacher: Tiny
) -> None:
    remap(root, "train", _1=255)
    cfg = tiny_without_teacher.load("student", data_root=str(root), label_map="255=1")
    report = inspect_data(data_splits(cfg))
    assert report.problems == [] and report.notes == []
    labels = np.array(Image.open(mask_of(images(root)[0])))
    labels[0, 0] = 77
    Image.fromarray(labels).save(mask_of(images(root)[0]))
    assert data_problems(cfg) == [f"train data: {mask_of(images(root)[0])}: holds label 77; there are 2 classes"]


def test_a_class_that_is_absent_by_design(config: Callable[..., Config], root: Path) -> None:
    key = "+train_dataloader.dataset.metainfo.absent_classes"
    remap(root, "train", _1=0)
    (problem,) = data_problems(config())
    assert problem.endswith(f"name it: --set {key}=['optic disc']")
    assert data_problems(config(**{key: ["optic disc"]})) == []


def test_validation_masks_that_are_all_ignored(config: Callable[..., Config], root: Path) -> None:
    remap(root, "val", _0=255, _1=255)
    assert data_problems(config()) == [
        "val data: none of the 3 masks holds a pixel of any class: they hold 255, of which 255 is ignored"
    ]


def test_a_class_in_one_of_two_datasets(config: Callable[..., Config], root: Path, data_root: Path) -> None:
    """The masks of a concatenation count together."""
    remap(root, "train", _1=0)
    cfg = config()
    leaf = cfg.train_dataloader.dataset
    cfg.train_dataloader.dataset = dict(type="ConcatDataset", datasets=[leaf, {**leaf, "data_root": str(data_root)}])
    assert data_problems(cfg) == []


def test_a_class_that_the_sample_lacks_is_looked_for(
    config: Callable[..., Config], root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A quick check decodes more masks until each class is found, so that a rare one is no error."""
    monkeypatch.setattr(check, "DECODED_IMAGES", 1)
    remap(root, "train", _1=0)
    decoded = random.Random(0).sample(range(6), 1)[0]
    rare = mask_of(images(root)[(decoded + 3) % 6])
    labels = np.array(Image.open(rare))
    labels[0, 0] = 1
    Image.fromarray(labels).save(rare)
    assert data_problems(config()) == []
    labels[0, 0] = 0
    Image.fromarray(labels).save(rare)
    assert "class 1 (optic disc) is in none of the 6 training masks" in data_problems(config())[0]


# ---------------------------------------------------------------------------------------------------------
# Files as the pipeline reads them


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp", ".tif"])
@pytest.mark.parametrize("turned", [True, False])
def test_orientation_of_every_format(
    tiny_without_teacher: Tiny, root: Path, suffix: str, turned: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What OpenCV makes of a header decides, whatever the format; the pipeline's own image is the measure."""
    for split in ("train", "val"):
        for file in images(root, split):
            picture = Image.open(file).resize((48, 32))
            exif = picture.getexif()
            exif[ExifTags.Base.Orientation] = 6
            picture.save(file.with_suffix(suffix), exif=exif)
            Image.open(mask_of(file)).resize((32, 48) if turned else (48, 32), Image.Resampling.NEAREST).save(
                mask_of(file)
            )
            if suffix != ".jpg":
                file.unlink()
    keys = {f"+{name}_dataloader.dataset.img_suffix": suffix for name in ("train", "val")}
    cfg = tiny_without_teacher.load("student", keys, data_root=str(root))
    seen = LoadImageFromFile()(dict(img_path=str(images(root)[0])))["img_shape"]
    right = seen == ((48, 32) if turned else (32, 48))
    assert (data_problems(cfg) == []) == right
    monkeypatch.setattr(check, "DECODED_IMAGES", 0)  # now the header alone is read
    assert any("pixels" in line for line in data_problems(cfg)) != right


def test_the_pipelines_own_backend(tiny_without_teacher: Tiny, config: Callable[..., Config], root: Path) -> None:
    """With ``color_ignore_orientation`` nothing turns an image."""
    image = images(root)[0]
    picture = Image.open(image).resize((48, 32))
    exif = picture.getexif()
    exif[ExifTags.Base.Orientation] = 6
    picture.save(image, exif=exif)
    Image.open(mask_of(image)).resize((48, 32), Image.Resampling.NEAREST).save(mask_of(image))
    assert "is 48 x 32 pixels, its image 32 x 48" in data_problems(config())[0]
    cfg = config()
    cfg.train_dataloader.dataset.pipeline[0].color_type = "color_ignore_orientation"
    assert data_problems(cfg) == []


def test_a_header_of_3_600_000_000_pixels(config: Callable[..., Config], root: Path) -> None:
    image = images(root)[0]
    content = bytearray(image.read_bytes())
    at = content.index(b"\xff\xc0") + 5  # start of frame: height, width
    content[at : at + 4] = (60000).to_bytes(2, "big") * 2
    image.write_bytes(content)
    (line,) = data_problems(config())
    assert line.startswith(f"train data: {image}: cannot be read: ") and "3600000000 pixels" in line


def test_broken_links_and_folders(config: Callable[..., Config], root: Path) -> None:
    folder = root / "img_dir/train"
    (folder / "gone.jpg").symlink_to("nowhere.jpg")
    (folder / "folder.jpg").mkdir()
    problems = data_problems(config())
    assert problems == [
        f"train data: {folder}/folder.jpg: is a folder, not an image; rename or remove it",
        f"train data: {folder}/gone.jpg: is a link to nowhere.jpg, which does not exist; repair or remove it",
    ]


@pytest.mark.parametrize("loop", ["itself", "parent"])
def test_loops_of_links(config: Callable[..., Config], root: Path, loop: str) -> None:
    link = root / "img_dir/train/loop.jpg"
    link.symlink_to("loop.jpg" if loop == "itself" else "../train")
    lines = [line for line in data_problems(config()) if str(link) in line or "loop" in line]
    assert lines and all("\n" not in line for line in lines)

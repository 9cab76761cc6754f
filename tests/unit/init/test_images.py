"""What the images of a folder are: bands and bits as they stand in the files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from init_folders import assert_refused, bands, labels_of, pixels_of, save
from init_samples import samples
from PIL import Image

from rdistill.init.data import read_data
from rdistill.init.images import survey


def test_bands_are_read_as_they_are(tmp_path: Path) -> None:
    for name, count, dtype, suffix in (
        ("grey", 1, np.uint16, ".png"), ("four", 4, np.uint16, ".tif"), ("six", 6, np.float32, ".tif"),
    ):  # fmt: skip
        bands(tmp_path / name, count, dtype, suffix)
        data = read_data(tmp_path / name, tmp_path / "out" / name)
        image = samples(data, tmp_path / name, "train")[0]["img"]
        assert data.images.channels == count and (image.shape[2] if image.ndim == 3 else 1) == count
        assert image.dtype == np.float32
        expected = pixels_of(labels_of(0, 2), count, dtype).astype(np.float32)
        assert np.allclose(np.sort(image.reshape(-1)), np.sort(expected.reshape(-1)))
        assert data.images.mean is not None and data.images.std is not None
        values = np.concatenate([sample["img"].reshape(-1) for sample in samples(data, tmp_path / name, "train")])
        assert data.images.mean[0] == pytest.approx(values.mean(), rel=1e-4)
        assert data.images.std[0] == pytest.approx(values.std(), rel=1e-3)


def _mixed(root: Path) -> None:
    bands(root, 4, np.uint16, ".tif")
    save(root / "images/train/1.tif", pixels_of(labels_of(1, 2), 3, np.uint16))


def _planar(root: Path) -> None:
    bands(root, 4, np.uint16, ".tif")
    save(root / "images/train/1.tif", np.moveaxis(pixels_of(labels_of(1, 2), 4, np.uint16), 2, 0))


@pytest.mark.parametrize(
    ("fill", "line"),
    [
        (_mixed, r"images differ in their number of channels \(5 of 4, 1 of 3\); a model takes one number$"),
        (_planar, r"1.tif: is 4 x 36 x 48, which is a stack of bands or images; store it as height x width x bands$"),
    ],
)
def test_what_is_not_understood_is_one_line(fill: Any, line: str, tmp_path: Path) -> None:
    root = tmp_path / "data"
    fill(root)
    assert_refused(root, tmp_path / "out", line)


@pytest.mark.parametrize(
    ("modes", "suffix", "reasons"),
    [
        (("RGB", "RGB"), ".jpg", ()),
        (("RGB", "CMYK"), ".jpg", ("1 of 2 images are in CMYK, which is converted to red, green and blue",)),
        (
            ("RGB", "RGBA"),
            ".png",
            ("images have an alpha channel, which is left out; store four bands of data as TIFF",),
        ),
    ],
)
def test_what_is_said_of_colours(modes: tuple[str, ...], suffix: str, reasons: tuple[str, ...], tmp_path: Path) -> None:
    paths = [tmp_path / f"{number}{suffix}" for number in range(len(modes))]
    for path, mode in zip(paths, modes, strict=True):
        Image.new("RGB", (8, 6), (200, 10, 10)).convert(mode).save(path)
    images = survey(paths, paths)
    assert (images.channels, images.bits, images.reasons) == (3, 8, reasons)

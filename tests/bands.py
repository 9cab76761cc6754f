"""Tiny sets of TIFF files of any number of bands, of 8 or 16 bits, and a pair of configs for each."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import tifffile
from conftest import Tiny
from mmengine.config import Config

from rdistill.config.load import read_config_file


def band_pixels(image: Path, bands: int, bits: int) -> np.ndarray:
    """An image's green band, or its three and some made of them; 16 bits hold 12."""
    bgr = cv2.imread(str(image))
    many = np.concatenate([bgr, 255 - bgr[..., :1], bgr[..., 1:2] // 2], axis=-1)[..., :bands]
    pixels = bgr[..., 1] if bands == 1 else many
    return pixels.astype(np.uint16) * 16 if bits == 16 else pixels


def write_bands(tiny: Tiny, folder: Path, bands: int, bits: int) -> Tiny:
    """Writes images, masks and ``teacher.py``, ``student.py``, ``distill.py``, ``sweep.yaml``; returns where."""
    root = folder / "data"
    for image in sorted(tiny.data_root.glob("img_dir/*/*.jpg")):
        file = root / image.relative_to(tiny.data_root).with_suffix(".tif")
        file.parent.mkdir(parents=True, exist_ok=True)
        tifffile.imwrite(file, band_pixels(image, bands, bits), photometric="minisblack", planarconfig="contig")
    (root / "ann_dir").symlink_to(tiny.data_root / "ann_dir")
    scale = 16 if bits == 16 else 1
    for role in ("teacher", "student"):
        cfg = read_config_file(tiny.folder / f"{role}.py")
        _change(cfg, root, bands, scale)
        cfg.dump(folder / f"{role}.py")
    (folder / "distill.py").write_text((tiny.folder / "distill.py").read_text())
    (folder / "sweep.yaml").write_text(
        "config: distill.py\nspace:\n  distill.losses.logits.weight: {type: choice, values: [1.0]}\n"
        "search: {type: grid}\nobjectives: [mIoU, latency]\nseed: 0\n"
    )
    return Tiny(folder, root)


def _change(cfg: Config, root: Path, bands: int, scale: int) -> None:
    cfg.model.backbone.in_channels = bands
    cfg.model.data_preprocessor.update(
        mean=[100.0 * scale], std=[60.0 * scale], bgr_to_rgb=False, size=(32, 32)
    )  # one value, as mmengine takes one or three
    for loader in (cfg.train_dataloader, cfg.val_dataloader, cfg.test_dataloader):
        loader.batch_size = 2
        loader.dataset.update(data_root=str(root), img_suffix=".tif")
        loader.dataset.pipeline[0] = dict(type="LoadImageFromFile", color_type="unchanged", imdecode_backend="tifffile")
        for step in loader.dataset.pipeline:
            if step["type"] == "Resize":
                step["scale"] = (32, 32)
    cfg.train_cfg.update(max_iters=4, val_interval=2)

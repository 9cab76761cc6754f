"""Opens images and masks with the loading steps of a dataset's pipeline, and with their arguments."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import mmcv
import numpy as np
from mmcv.transforms import LoadImageFromFile
from mmengine import fileio
from PIL import ExifTags, Image, UnidentifiedImageError

from rdistill.config.walk import kind_of
from rdistill.models.quiet_mmseg import TRANSFORMS, LoadAnnotations

Size = tuple[int, int]  # width, height in pixels
# OpenCV decodes truncated files of these formats without an error; Pillow raises one.
PARTLY_READ_FORMATS = ("JPEG", "MPO", "PNG", "BMP", "WEBP", "GIF", "PPM")


class Loaders:
    """The steps of a pipeline that read files.

    Attributes:
        image: the step that reads the image; None if the pipeline has no loader of mmcv.
        mask: the step that reads the mask; None if the pipeline has none.
        label_map: value in the file -> label, from a ``MapLabels`` step.
        local: whether the steps read from this machine's disks.

    Args:
        pipeline: the pipeline in a dataset's config.
    """

    def __init__(self, pipeline: Sequence[Mapping[str, Any]]) -> None:
        steps = {name: step for step in reversed(pipeline) if (name := kind_of(step)).startswith(("Load", "Map"))}
        self.image = self.mask = None
        self.label_map: dict[int, int] = {}
        for name, step in steps.items():
            if name == "MapLabels":
                self.label_map = _build(step).label_map
            elif "Annotation" in name:
                self.mask = _build(step)
            elif isinstance(loader := _build(step), LoadImageFromFile):
                self.image = loader
        self.local = not any(step.get("backend_args") for step in steps.values())

    @property
    def plain_masks(self) -> bool:
        """Whether mmseg's own step reads the masks, so that :meth:`labels` returns the values of the file."""
        return type(self.mask) is LoadAnnotations

    def image_size(self, entry: Mapping[str, Any], *, decode: bool) -> Size:
        """Returns width and height of an image after loading, with the rotation in its header applied.

        Args:
            entry: an entry of the dataset's list.
            decode: read the whole file; otherwise only the header, if that is enough.

        Raises:
            Exception: any exception means that the file cannot be read.
        """
        path = entry["img_path"]
        try:
            with Image.open(path) as image:
                size = image.size
                if decode:
                    _require_whole(image, path)
                elif not _may_be_turned(image):
                    return size
        except UnidentifiedImageError:  # Pillow cannot read it, for example its bands; the pipeline may
            pass
        height, width = self.image.transform(dict(entry))["img_shape"][:2]  # type: ignore[union-attr]
        return int(width), int(height)

    def mask_size(self, entry: Mapping[str, Any]) -> Size:
        """Returns width and height of a mask from its header. Raises like :meth:`image_size`."""
        try:
            with Image.open(entry["seg_map_path"]) as mask:
                return mask.size
        except UnidentifiedImageError:
            labels = self.labels(entry)
            return int(labels.shape[1]), int(labels.shape[0])

    def labels(self, entry: Mapping[str, Any]) -> np.ndarray:
        """Returns the values of a mask file (H x W, any type), or the result of a loading step that is not mmseg's.

        Raises:
            Exception: any exception means that the file cannot be read.
        """
        path = entry["seg_map_path"]
        if not self.plain_masks:
            return np.asarray(self.mask.transform(copy.deepcopy(dict(entry)))["gt_seg_map"])  # type: ignore[union-attr]
        backend = self.mask.imdecode_backend  # type: ignore[union-attr]
        if backend == "cv2":
            with Image.open(path) as mask:
                _require_whole(mask, path)
        content = fileio.get(path, backend_args=self.mask.backend_args)  # type: ignore[union-attr]
        labels = mmcv.imfrombytes(content, flag="unchanged", backend=backend)
        if labels is None:
            raise ValueError("it is no image")
        return np.asarray(labels).squeeze()


def _build(step: Mapping[str, Any]) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return TRANSFORMS.build(copy.deepcopy(dict(step)))


def _may_be_turned(image: Image.Image) -> bool:
    if (
        image.format == "PNG" and "exif" not in image.info
    ):  # otherwise Pillow would read the whole file to search for it
        return False
    return image.getexif().get(ExifTags.Base.Orientation, 1) != 1


def _require_whole(image: Image.Image, path: str | Path) -> None:
    """Raises Pillow's error if the file is truncated or damaged, at the lowest cost."""
    if image.format == "PNG":
        image.verify()  # compares the checksums without decompressing
    elif image.format in PARTLY_READ_FORMATS:
        width, height = image.size
        image.draft(
            "L", (max(1, width // 8), max(1, height // 8))
        )  # reads the whole JPEG, but decodes it at an eighth of its size
        image.load()

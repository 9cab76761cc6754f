"""Opens an image or a mask as a dataset's pipeline does: by its own loading steps, with their own arguments."""

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
# OpenCV makes a whole image of half a file of these formats; Pillow does not.
READ_IN_PART = ("JPEG", "MPO", "PNG", "BMP", "WEBP", "GIF", "PPM")


class Loaders:
    """The steps of a pipeline that read files.

    Attributes:
        image: the step that reads the image; None where the pipeline has none of mmcv's kind.
        mask: the step that reads the mask; None where the pipeline has none.
        label_map: of a ``MapLabels`` step: value in the file -> label.
        local: whether they read from this machine's disks.

    Args:
        pipeline: of a dataset's config.
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
        """Whether masks are read by mmseg's own step, so that the values in the file are what it starts from."""
        return type(self.mask) is LoadAnnotations

    def image_size(self, entry: Mapping[str, Any], *, decode: bool) -> Size:
        """Width and height of an image as the pipeline has it, turned as its header says.

        Args:
            entry: of the dataset's list.
            decode: read all of it; otherwise the header alone, where that says enough.

        Raises:
            Exception: of any kind; the file cannot be read.
        """
        path = entry["img_path"]
        try:
            with Image.open(path) as image:
                size = image.size
                if decode:
                    _require_whole(image, path)
                elif not _may_be_turned(image):
                    return size
        except UnidentifiedImageError:  # such as bands that Pillow does not know; the pipeline's step may
            pass
        height, width = self.image.transform(dict(entry))["img_shape"][:2]  # type: ignore[union-attr]
        return int(width), int(height)

    def mask_size(self, entry: Mapping[str, Any]) -> Size:
        """Width and height of a mask by its header. Raises as :meth:`image_size`."""
        try:
            with Image.open(entry["seg_map_path"]) as mask:
                return mask.size
        except UnidentifiedImageError:
            labels = self.labels(entry)
            return int(labels.shape[1]), int(labels.shape[0])

    def labels(self, entry: Mapping[str, Any]) -> np.ndarray:
        """The values of a mask's file (H x W, of whatever type); of a step other than mmseg's own, what it returns.

        Raises:
            Exception: of any kind; the file cannot be read.
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
    if image.format == "PNG" and "exif" not in image.info:  # Pillow would read all of it to find none
        return False
    return image.getexif().get(ExifTags.Base.Orientation, 1) != 1


def _require_whole(image: Image.Image, path: str | Path) -> None:
    """Raises what Pillow raises where the file ends early or is damaged, at the least cost."""
    if image.format == "PNG":
        image.verify()  # the sums of its chunks, without unpacking them
    elif image.format in READ_IN_PART:
        width, height = image.size
        image.draft("L", (max(1, width // 8), max(1, height // 8)))  # reads all of a JPEG, computes an eighth
        image.load()

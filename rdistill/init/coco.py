"""Finds COCO annotations (JSON with polygons or run lengths) in a folder, and draws them once as masks."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from rdistill.core.errors import UserError
from rdistill.core.files import write_whole
from rdistill.core.words import counted, listed
from rdistill.init.masks import IGNORED, MAX_CLASSES
from rdistill.init.pairs import Pair, split_of

KEYS = ("images", "annotations", "categories")
MAX_DEPTH = 3  # depth of the search for JSON files below the named folder
INSTALL = "needs pycocotools, not installed here: pip install pycocotools"


def read(root: Path, out: Path, *, make: Callable[..., Any]) -> Any:
    """Reads a COCO data set and draws its masks below ``out / "masks"``; returns None if there is no COCO file.

    Class 0 is the background; the categories follow in the order of their ids. A smaller object is drawn over a larger
    one; crowds are ignored.

    Args:
        root: folder of the JSON files and images.
        out: folder to write the masks to.
        make: the class :class:`rdistill.init.layouts.Folder`, which this module cannot import.

    Raises:
        UserError: pycocotools is not installed, images are missing, or the files have different categories.
    """
    files = coco_files(root, out)
    if not files:
        return None
    class_names, splits, reasons = None, {}, []
    for split, file in files.items():
        content = _content(file) or {}
        categories = sorted(content["categories"], key=lambda category: category["id"])
        if not categories or len(categories) >= MAX_CLASSES:
            raise UserError(f"{file}: has {len(categories)} categories; from 1 to {MAX_CLASSES - 1} can be told apart")
        file_names = ("background", *(str(category["name"]) for category in categories))
        if class_names not in (None, file_names):
            raise UserError(f"{file}: has other categories than {next(iter(files.values()))}; both must have the same")
        class_names = file_names
        labels_by_id = {category["id"]: index for index, category in enumerate(categories, start=1)}
        splits[split] = _draw(root, file, content, labels_by_id, out / "masks" / split)
        masks = counted(len(splits[split]), "mask")
        reasons.append(f"{file.relative_to(root)}: {masks} drawn in {out / 'masks' / split}")
    if "train" not in splits:
        splits = {"train": [pair for pairs in splits.values() for pair in pairs]}
    return make(root, "COCO", splits, {}, class_names, reasons=reasons)


def coco_files(root: Path, out: Path) -> dict[str, Path]:
    """Returns split -> JSON file; of several files for a split, the one for instances, then the shortest name."""
    files: dict[str, Path] = {}
    paths = [
        path for depth in range(MAX_DEPTH) for path in root.glob("*/" * depth + "*.json") if out not in path.parents
    ]
    for path in sorted(paths, key=lambda path: ("instances" not in path.name, len(path.name), str(path))):
        split = split_of(Path(path.stem)) or split_of(path.relative_to(root).parent) or "train"
        if split not in files and _content(path) is not None:
            files[split] = path
    return files


def _content(path: Path) -> dict[str, Any] | None:
    """Returns the content of a COCO file, or None if the file is no COCO file."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    if not isinstance(content, dict) or not all(isinstance(content.get(key), list) for key in KEYS):
        return None
    return content if any(annotation.get("segmentation") for annotation in content["annotations"]) else None


def _draw(root: Path, file: Path, content: dict[str, Any], labels_by_id: dict[int, int], out: Path) -> list[Pair]:
    try:
        from pycocotools import mask as run_lengths
    except ImportError:
        raise UserError(f"{file}: {INSTALL}") from None
    parts_by_image: dict[Any, list[dict[str, Any]]] = {}
    for annotation in content["annotations"]:
        if annotation.get("segmentation") and annotation.get("category_id") in labels_by_id:
            parts_by_image.setdefault(annotation["image_id"], []).append(annotation)
    pairs, missing = [], []
    for entry in content["images"]:
        image = _image(root, file, entry["file_name"])
        if image is None:
            missing.append(entry["file_name"])
            continue
        height, width = int(entry["height"]), int(entry["width"])
        labels = np.zeros((height, width), np.uint8)
        drawn = [
            (_decode(run_lengths, part["segmentation"], height, width, file), part)
            for part in parts_by_image.get(entry["id"], ())
        ]
        for shape, part in sorted(drawn, key=lambda item: -int(item[0].sum())):
            labels[shape] = IGNORED if part.get("iscrowd") else labels_by_id[part["category_id"]]
        target = out / f"{Path(entry['file_name']).with_suffix('').as_posix().replace('/', '_')}.png"
        write_whole(target, cv2.imencode(".png", labels)[1].tobytes())
        pairs.append(Pair(image, target))
    if missing:
        raise UserError(f"{file}: names the image {listed(missing, 1)}, which is nowhere below {root}")
    return pairs


def _decode(run_lengths: Any, segmentation: Any, height: int, width: int, file: Path) -> np.ndarray:
    """Returns the pixels of a segmentation (H x W, bool)."""
    try:
        if isinstance(segmentation, list):
            parts = [polygon for polygon in segmentation if len(polygon) >= 6]  # three points
            if not parts:
                return np.zeros((height, width), bool)
            encoded = run_lengths.merge(run_lengths.frPyObjects(parts, height, width))
        elif isinstance(segmentation["counts"], list):
            encoded = run_lengths.frPyObjects(segmentation, height, width)
        else:
            encoded = segmentation
        return np.asarray(run_lengths.decode(encoded), bool)
    except Exception as error:  # pycocotools raises different errors for invalid shapes
        raise UserError(f"{file}: holds a segmentation that cannot be drawn: {error}") from None


def _image(root: Path, file: Path, name: str) -> Path | None:
    """Finds an image next to the JSON file, below the folder, or in a folder with the split's name; None if absent."""
    split = split_of(Path(file.stem)) or ""
    tops = [root, file.parent, root / "images", file.parent.parent, file.parent / "images"]
    tops += [folder for folder in sorted(root.iterdir()) if folder.is_dir() and split_of(Path(folder.name)) == split]
    tops += [
        folder
        for folder in (sorted((root / "images").iterdir()) if (root / "images").is_dir() else [])
        if folder.is_dir() and split_of(Path(folder.name)) == split
    ]
    return next((top / name for top in tops if (top / name).is_file()), None)

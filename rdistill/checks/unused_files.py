"""Finds files that a dataset silently skips: other suffixes, broken links, masks without an image."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Container, Iterator, Sequence
from pathlib import Path

from rdistill.data.splits import LOADERS, Folders, Split

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp")
MAX_SHOWN = 3  # number of suffixes or files that a line lists


def broken_entries(split: Split) -> list[str]:
    """Returns a problem for each broken link, circular link, and folder with an image's name, sorted by path."""
    return [] if split.folders is None else _broken(split.folders.images, split.folders.img_suffix)


def unused_files(split: Split, used: Container[str]) -> list[str]:
    """Returns notes about unused files in a dataset's folders: images of another suffix, masks without an image.

    Args:
        split: a dataset.
        used: image and mask files of all datasets, from :func:`files_in_use`.
    """
    folders = split.folders
    if folders is None or not folders.images.is_dir():
        return []
    images = [path for path in _files(folders.images) if _has_another_suffix(path, folders)]
    images = [path for path in images if os.path.normpath(path) not in used]
    lines = [_other_suffixes(split, folders, images)] if images else []
    if folders.masks is not None and folders.masks.is_dir() and split.entries and not _is_subset(split, folders):
        masks_of_them = {_mask_of(path, folders) for path in images}  # the other line counts these already
        masks = (path for path in _files(folders.masks) if path.name.endswith(folders.seg_map_suffix))
        without_image = [path for path in masks if os.path.normpath(path) not in used and path not in masks_of_them]
        if without_image:
            text = "masks have no image" if len(without_image) > 1 else "mask has no image"
            lines.append(f"{len(without_image)} {text} that is used, such as {without_image[0]}")
    return lines


def files_in_use(splits: Sequence[Split]) -> set[str]:
    """Returns the image and mask files of some datasets."""
    entries = (entry for split in splits for entry in split.entries)
    paths = (path for entry in entries for path in (entry.get("img_path"), entry.get("seg_map_path")))
    return {os.path.normpath(path) for path in paths if path}


def _other_suffixes(split: Split, folders: Folders, images: list[Path]) -> str:
    counts = Counter(path.suffix for path in images).most_common()
    kinds = ", ".join(f"{count} {suffix}" for suffix, count in counts[:MAX_SHOWN]) + (
        ", ..." if counts[MAX_SHOWN:] else ""
    )
    if folders.masks is not None:
        kinds += f"; {sum(path.is_file() for path in (_mask_of(p, folders) for p in images) if path)} have a mask"
    text = "images are not used" if len(images) > 1 else "image is not used"
    key = f"{LOADERS[split.name]}.dataset.img_suffix"
    suffix, count = counts[0]
    fix = f"{key}={suffix!r} takes {count} of them"
    if split.entries:  # the key accepts one suffix only
        fix += " instead; for all, rename them, list them (PaddleSegDataset), or make each suffix a data set"
    return f"{len(images)} {text} ({kinds}), since img_suffix is {folders.img_suffix!r}; {fix}"


def _has_another_suffix(path: Path, folders: Folders) -> bool:
    if path.name.endswith(folders.img_suffix) or path.suffix.lower() not in IMAGE_SUFFIXES:
        return False
    masks = folders.masks
    return masks is None or not (path.name.endswith(folders.seg_map_suffix) and path.is_relative_to(masks))


def _mask_of(image: Path, folders: Folders) -> Path | None:
    """Returns the mask's path of an image with another suffix, if the dataset used that suffix."""
    return (
        None
        if folders.masks is None
        else (folders.masks / image.relative_to(folders.images)).with_name(image.stem + folders.seg_map_suffix)
    )


def _is_subset(split: Split, folders: Folders) -> bool:
    """Returns whether the dataset uses only some of its images (``indices``), so that unused masks are normal."""
    return len(split.entries) < sum(path.name.endswith(folders.img_suffix) for path in _files(folders.images))


def _files(folder: Path) -> Iterator[Path]:
    """Yields every file below a folder, like mmengine lists them: follows links, skips hidden files."""
    for parent, _, names in os.walk(folder, followlinks=True):
        yield from (Path(parent, name) for name in sorted(names) if not name.startswith("."))


def _broken(folder: Path, suffix: str) -> list[str]:
    lines = []
    for parent, folders, names in os.walk(folder, followlinks=True):
        for name in list(folders):
            path = Path(parent, name)
            if path.is_symlink() and path.resolve() in (parent.resolve() for parent in path.parents):
                lines.append(
                    f"{path}: is a link to a folder above it, so that files are read again and again; remove it"
                )
                folders.remove(name)  # otherwise the walk would not end
            elif name.endswith(suffix):
                lines.append(f"{path}: is a folder, not an image; rename or remove it")
        for name in sorted(names):
            path = Path(parent, name)
            is_image = name.endswith(suffix) or path.suffix.lower() in IMAGE_SUFFIXES
            if is_image and not name.startswith(".") and path.is_symlink() and not os.path.exists(path):
                lines.append(f"{path}: is a link to {os.readlink(path)}, which does not exist; repair or remove it")
    return lines

"""Finds training images that are scored as well: such scores are of images that the models were trained on."""

from __future__ import annotations

import hashlib
import os
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor

from rdistill.data.splits import Split

FIRST_BYTES = 16 * 1024  # images that differ mostly differ in these bytes, which come after one request to a storage


def scored_training_images(splits: Sequence[Split]) -> list[str]:
    """Returns a note for each split for scoring that has images of the training split, under any name.

    Images are the same if their files have the same bytes. Only files of equal sizes are read. Files of a remote
    storage and files that cannot be read are left out.
    """
    local = [split for split in splits if split.loaders is not None and split.problem is None]
    training = _image_files(split for split in local if split.name == "train")
    notes = []
    for name in dict.fromkeys(split.name for split in local if split.name != "train"):
        scored = _image_files(split for split in local if split.name == name)
        same = same_files(training, scored)
        if same:
            image, original = next(iter(same.items()))
            example = image if os.path.samefile(image, original) else f"{image}, which is {original}"
            notes.append(
                f"{name} data: {len(same)} of {len(scored)} images are training images as well, such as {example}: "
                f"their scores are too high; leave them out of one of the two"
            )
    return notes


def _image_files(splits: Iterable[Split]) -> list[str]:
    return list(dict.fromkeys(entry["img_path"] for split in splits for entry in split.entries))


def same_files(training: Sequence[str], scored: Sequence[str]) -> dict[str, str]:
    """Scored file -> training file with the same content; files that cannot be read are left out."""
    groups = [(list(training), list(scored))]
    keys: tuple[Callable[[str], Hashable | None], ...] = (_size, _digest_of_beginning, _digest)
    for key in keys:
        groups = [pair for group in groups for pair in _split_by(key, *group)]
    return {image: originals[0] for originals, images in groups for image in images}


def _split_by(
    key: Callable[[str], Hashable | None], training: Sequence[str], scored: Sequence[str]
) -> list[tuple[list[str], list[str]]]:
    """Groups files by a key; groups without a file of either side, and files without a key, are left out."""
    groups: dict[Hashable, tuple[list[str], list[str]]] = defaultdict(lambda: ([], []))
    with ThreadPoolExecutor(max_workers=min(8, 2 * (os.cpu_count() or 1))) as pool:
        for side, files in enumerate((training, scored)):
            for file, value in zip(files, pool.map(key, files), strict=True):
                if value is not None:
                    groups[value][side].append(file)
    return [group for group in groups.values() if all(group)]


def _size(file: str) -> int | None:
    try:
        return os.stat(file).st_size
    except (OSError, ValueError):  # ValueError: a NUL byte in the name
        return None


def _digest_of_beginning(file: str) -> bytes | None:
    return _digest(file, FIRST_BYTES)


def _digest(file: str, count: int = -1) -> bytes | None:
    try:
        with open(file, "rb") as content:
            return hashlib.blake2b(content.read(count), digest_size=16).digest()
    except OSError:
        return None

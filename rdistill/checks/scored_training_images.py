"""Finds training images that are scored as well: such scores are of images that the models were trained on."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Sequence

from rdistill.core.files import in_threads
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
    content: dict[str, tuple[object, ...]] = {}
    for key in (_size, _digest_of_beginning, _digest):
        if not training or not scored:
            return {}
        files = list(dict.fromkeys([*training, *scored]))
        values = zip(files, in_threads(key, files), strict=True)
        content = {file: (*content.get(file, ()), value) for file, value in values if value is not None}
        training = [file for file in training if file in content]
        originals = {content[file]: file for file in reversed(training)}  # the first of several equal files
        scored = [file for file in scored if content.get(file) in originals]
        shared = {content[file] for file in scored}
        training = [file for file in training if content[file] in shared]
    return {file: originals[content[file]] for file in scored}


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

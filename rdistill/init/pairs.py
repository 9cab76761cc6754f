"""Matches the images and masks of a folder by the names of folders and files."""

from __future__ import annotations

import os
import re
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from difflib import SequenceMatcher
from pathlib import Path

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp", ".ppm", ".pgm", ".gif")
# Usual names of a folder of masks, and usual suffixes and prefixes of a mask's name.
MASK_WORDS = frozenset(
    [
        "mask",
        "masks",
        "label",
        "labels",
        "ann",
        "anns",
        "annot",
        "annots",
        "annotation",
        "annotations",
        "gt",
        "gts",
        "groundtruth",
        "groundtruths",
        "truth",
        "target",
        "targets",
        "seg",
        "segs",
        "segmap",
        "segmaps",
        "segmentation",
        "segmentations",
        "manual",
        "matte",
        "mattes",
        "parsing",
        "l",
    ]
)
IMAGE_WORDS = frozenset(
    [
        "image",
        "images",
        "img",
        "imgs",
        "photo",
        "photos",
        "picture",
        "pictures",
        "jpeg",
        "jpg",
        "png",
        "tif",
        "tiff",
        "rgb",
        "input",
        "inputs",
        "sat",
        "raw",
        "frame",
        "frames",
        "original",
        "originals",
        "left",
        "data",
        "stills",
    ]
)
EMPTY_WORDS = frozenset(
    ["dir", "ground", "class", "classes", "object", "fine", "bit", "st", "nd", "8", "1", "of", "the", "files", "index"]
)
NO_MASKS = frozenset(
    [
        "color",
        "colors",
        "colour",
        "colours",
        "instance",
        "instances",
        "overlay",
        "overlays",
        "vis",
        "pred",
        "preds",
        "preview",
    ]
)
SPLIT_WORDS = {
    "train": "train", "training": "train", "tr": "train", "trainset": "train",
    "val": "val", "valid": "val", "validation": "val", "dev": "val", "valset": "val",
    "test": "test", "testing": "test", "ts": "test", "testset": "test",
}  # fmt: skip
MIN_SHARE = 0.5  # two folders belong together if at least this share of the images has masks
NAMES_TRIED = 12  # number of names of a folder from which the naming of masks is guessed
MAX_FOLDERS = (
    40  # if no folder's name has a word for masks and there are not more folders, all pairs of folders are compared
)


@dataclass(frozen=True)
class Pair:
    """An image and its mask; absolute paths."""

    image: Path
    mask: Path


@dataclass
class Files:
    """The images and masks below a folder."""

    pairs: list[Pair] = field(default_factory=list)
    unpaired: dict[Path, int] = field(default_factory=dict)  # folder -> number of its images without a mask
    count: int = 0  # number of images and masks
    folders: list[str] = field(default_factory=list)  # relative folders that contain images or masks


@dataclass(frozen=True)
class Naming:
    """A rule for names of masks: the image ``image_before + CORE + image_after`` has ``before + CORE + after``."""

    image_before: str
    image_after: str
    before: str
    after: str

    def mask_of(self, stem: str) -> str | None:
        """Returns the mask's name without its suffix, or None if the image's name does not fit."""
        if not (stem.startswith(self.image_before) and stem.endswith(self.image_after)):
            return None
        core = stem[len(self.image_before) : len(stem) - len(self.image_after)]
        return self.before + core + self.after if core else None

    @property
    def length(self) -> int:
        """Number of characters that image and mask do not share."""
        return len(self.image_before + self.image_after + self.before + self.after)


def words_of(name: str) -> list[str]:
    """Splits a name into lower-case words, at changes of case and after the name of a split.

    >>> words_of("leftImg8bit"), words_of("trainannot"), words_of("SegmentationClassPNG")
    (['left', 'img', '8', 'bit'], ['train', 'annot'], ['segmentation', 'class', 'png'])
    """
    spaced = re.sub(r"(?<=[a-z])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", " ", name)
    words = re.findall(r"[a-z]+|\d+", spaced.lower())
    split = []
    for word in words:
        for start in ("train", "val", "test"):
            if word.startswith(start) and word[len(start) :] in MASK_WORDS | IMAGE_WORDS:
                split.append(start)
                word = word[len(start) :]
        split.append(word)
    return split


def split_of(path: Path) -> str | None:
    """Returns ``train``, ``val`` or ``test`` if a part of a relative path names it (the innermost counts), or None."""
    for part in reversed(path.parts):
        for word in words_of(part):
            if (name := SPLIT_WORDS.get(word)) is not None:
                return name
    return None


def image_files(root: Path, leave_out: Path | None = None) -> dict[Path, list[Path]]:
    """Returns relative folder -> names of its image files, both sorted; skips hidden folders and ``leave_out``."""
    files: dict[Path, list[Path]] = {}
    for folder, inner, names in os.walk(root, followlinks=True):
        inner[:] = sorted(
            name
            for name in inner
            if not name.startswith((".", "__")) and (leave_out is None or Path(folder, name) != leave_out)
        )
        images = sorted(Path(name) for name in names if not name.startswith(".") and _is_image(name))
        if images:
            files[Path(folder).relative_to(root)] = images
    return files


def _is_image(name: str) -> bool:
    return os.path.splitext(name)[1].lower() in SUFFIXES


def find_pairs(root: Path, leave_out: Path | None = None) -> Files:
    """Finds the images below a folder that have masks there.

    A folder of masks is recognised by a word for masks in its name. If images and masks are in one folder, words in the
    files' names tell them apart. If no folder's name has such a word, folders are compared with each other. Images that
    stay without a mask are counted in :attr:`Files.unpaired`.
    """
    files = image_files(root, leave_out)
    result = Files(count=sum(map(len, files.values())), folders=[str(folder) for folder in files])
    masks: dict[tuple[str, ...], list[Path]] = defaultdict(list)
    images: list[Path] = []
    for folder in files:
        is_mask, _ = _signature(folder)
        if is_mask:
            masks[_signature(folder)[1]].append(folder)
        else:
            images.append(folder)
    for folder in images:
        inside = _pairs_in_one_folder(files[folder])
        if inside:
            result.pairs += [Pair(root / folder / image, root / folder / mask) for image, mask in inside]
            continue
        best = _best_match(files, folder, masks.get(_signature(folder)[1], []))
        if not best and not masks and len(files) <= MAX_FOLDERS:
            best = _best_match(files, folder, [other_folder for other_folder in files if other_folder != folder])
        result.pairs += [Pair(root / image, root / mask) for image, mask in best]
        if len(best) < len(files[folder]):
            result.unpaired[folder] = len(files[folder]) - len(best)
    return result


def _signature(folder: Path) -> tuple[bool, tuple[str, ...]]:
    """Returns whether a folder contains masks, and its path without words for images and masks."""
    is_mask, rest = False, []
    for part in folder.parts:
        words = words_of(part)
        is_mask = is_mask or (bool(MASK_WORDS & set(words)) and not NO_MASKS & set(words))
        kept = [SPLIT_WORDS.get(word, word) for word in words]
        kept = [word for word in kept if word not in MASK_WORDS | IMAGE_WORDS | EMPTY_WORDS]
        if kept:
            rest.append(" ".join(kept))
    return is_mask, tuple(rest)


def _best_match(files: Mapping[Path, Sequence[Path]], folder: Path, others: Sequence[Path]) -> list[tuple[Path, Path]]:
    """Matches the images of a folder with the masks of that other folder in which most of them have one."""
    best: list[tuple[Path, Path]] = []
    for masks in others:
        matched = match(files[folder], files[masks])
        if len(matched) > len(best):
            best = [(folder / image, masks / mask) for image, mask in matched]
    return best if len(best) >= MIN_SHARE * len(files[folder]) else []


def _pairs_in_one_folder(names: Sequence[Path]) -> list[tuple[Path, Path]]:
    """Matches images and masks that lie in one folder; names of masks end or begin with a word for masks."""
    masks: list[Path] = []
    images: list[Path] = []
    for name in names:
        words = words_of(name.stem)
        ends = {words[0], words[-1], *([words[-2]] if len(words) > 1 and words[-1].isdigit() else [])} if words else ()
        if NO_MASKS & set(ends):
            continue
        (masks if MASK_WORDS & set(ends) else images).append(name)
    matched = match(images, masks) if masks and images else []
    return matched if len(matched) >= MIN_SHARE * min(len(images), len(masks)) else []


def match(images: Sequence[Path], masks: Sequence[Path]) -> list[tuple[Path, Path]]:
    """Matches images with masks by the naming that fits most of them.

    Args:
        images, masks: sorted names of files.
    """
    mask_by_stem = {mask.stem: mask for mask in masks}
    best: list[tuple[Path, Path]] = []
    for naming in _namings([image.stem for image in images], [mask.stem for mask in masks]):
        named = ((image, naming.mask_of(image.stem)) for image in images)
        matched = [(image, mask_by_stem[stem]) for image, stem in named if stem is not None and stem in mask_by_stem]
        if len(matched) > len(best):
            best = matched
    return best


def _namings(images: Sequence[str], masks: Sequence[str]) -> list[Naming]:
    """Returns the namings that fit at least one image: equal names first, then those that share most characters."""
    namings: set[Naming] = set()
    step = max(1, len(images) // NAMES_TRIED)
    for index in range(0, len(images), step):
        place = bisect_left(masks, images[index])
        near = {*range(place - 3, place + 4), index, index * len(masks) // max(len(images), 1)}
        for mask in (masks[at] for at in near if 0 <= at < len(masks)):
            namings.update(_naming(images[index], mask))
    equal_names = Naming("", "", "", "")

    def rank(naming: Naming) -> tuple[bool, bool, int, str, str]:
        words = set(words_of(naming.before) + words_of(naming.after))
        return not words & MASK_WORDS, bool(words & NO_MASKS), naming.length, naming.before, naming.after

    return [equal_names, *sorted(namings - {equal_names}, key=rank)]


def _naming(image: str, mask: str) -> Iterator[Naming]:
    common = SequenceMatcher(None, image, mask, autojunk=False).find_longest_match()
    if common.size:
        yield Naming(
            image[: common.a], image[common.a + common.size :], mask[: common.b], mask[common.b + common.size :]
        )

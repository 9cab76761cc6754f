"""Recognises the layout of a folder of images and masks: its pairs, their splits, and the dataset's keys."""

from __future__ import annotations

import os
import random
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from mmengine.registry import init_default_scope

from rdistill.core.errors import UserError
from rdistill.core.words import counted
from rdistill.data.datasets import PaddleSegDataset
from rdistill.init import coco
from rdistill.init.masks import read_colors
from rdistill.init.pairs import Files, Pair, find_pairs, split_of
from rdistill.layouts import LAYOUTS, SPLITS
from rdistill.layouts.registry import layouts_at
from rdistill.models.quiet_mmseg import DATASETS, BaseSegDataset
from rdistill.schemas.mappings import PlainConfig

LIST_FOLDERS = ("", "splits", "split", "lists", "ImageSets/Segmentation", "ImageSets/Main", "ImageSets")
NAME_FILES = ("classes.txt", "class_names.txt", "labels.txt", "names.txt")
MAX_LISTED = 3  # how many names a message lists
# The values of Cityscapes' 19 classes in its masks; all other values are ignored.
CITYSCAPES_IDS = (7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33)
CITYSCAPES_VALUES = 34
VOC_VALUES, ADE_VALUES = 21, 151
VAL_SHARE = 0.2  # share of the images that validate if a folder has no validation images


@dataclass
class Folder:
    """The recognised content of a folder."""

    root: Path
    layout: str  # name of the layout
    splits: dict[str, list[Pair]]  # 'train', 'val', 'test' -> pairs
    keys: dict[str, PlainConfig] = field(
        default_factory=dict
    )  # split -> keys of its dataset; {} if lists must be written
    names: tuple[str, ...] | None = None  # names of the classes
    colors: dict[tuple[int, int, int], str] | None = None
    reduce_zero_label: bool = False
    label_map: dict[int, int] | None = None  # value -> class, if the layout defines it
    reasons: list[str] = field(default_factory=list)

    @property
    def pairs(self) -> list[Pair]:
        """The pairs of all splits."""
        return [pair for pairs in self.splits.values() for pair in pairs]


def read_folder(root: Path, out: Path) -> Folder:
    """Recognises the layout of a folder.

    Args:
        root: absolute path of the folder.
        out: folder of the study's files and of COCO's masks; it is skipped if it lies in ``root``.

    Raises:
        UserError: the folder does not exist, is empty, or has no masks; the message lists the known layouts.
    """
    if not root.is_dir():
        raise UserError(f"--data {root}: no such folder")
    init_default_scope("mmseg")
    layout_names = [layout.name for layout in layouts_at(root)]
    folder = _read_lists(root, layout_names) or coco.read(root, out, make=Folder)
    if folder is None and "Cityscapes" in layout_names:
        folder = _cityscapes(root)
    if folder is None:
        files = find_pairs(root, leave_out=out)
        if not files.pairs:
            raise UserError(f"--data {root}: {_not_recognised(root, files)}")
        folder = _folder_from_pairs(root, files, layout_names)
    folder.splits = {name: folder.splits[name] for name in SPLITS if folder.splits.get(name)}
    if "train" not in folder.splits:
        names = ", ".join(folder.splits)
        raise UserError(f"--data {root}: there are {names} images with masks, but no training images")
    _add_names(folder)
    return folder


def _not_recognised(root: Path, files: Files) -> str:
    """Says what a folder contains, and which layouts were looked for."""
    layouts = "; ".join(f"{name} ({', '.join(LAYOUTS[name].marks)})" for name in LAYOUTS)
    searched = (
        f"looked for {layouts}; COCO (a JSON file with images, annotations and categories); a folder of images next to "
        "a folder of masks (images/, masks/), or masks named NAME_mask.png next to their images"
    )
    if not files.count:
        inner = sorted(path.name for path in root.iterdir())
        contents = f"holds no images, but {', '.join(inner[:MAX_LISTED])}" if inner else "is empty"
        return f"{contents}; {searched}"
    shown = ", ".join(files.folders[:MAX_LISTED]) + (", ..." if len(files.folders) > MAX_LISTED else "")
    return f"{counted(files.count, 'image')} in {shown}, and no masks that belong to them; {searched}"


def _folder_from_pairs(root: Path, files: Files, layout_names: Sequence[str]) -> Folder:
    """Makes a folder of pairs that were found by names; the layout's name says later what the masks' values mean."""
    splits = _split_by_lists(root, files.pairs)
    has_lists = bool(splits)
    if not splits:
        splits = {name: [] for name in SPLITS}
        for pair in files.pairs:
            image = pair.image.relative_to(root)
            splits[split_of(image.parent) or split_of(pair.mask.relative_to(root).parent) or "train"].append(pair)
    name = layout_names[0] if layout_names else "pairs of images and masks"
    folder = Folder(root, name, {name: pairs for name, pairs in splits.items() if pairs})
    if has_lists:
        folder.reasons.append("its lists say which images are for training and which for validation")
        folder.keys = _keys_of_lists(folder)
    else:
        folder.keys = _keys_of_folders(folder)
    for place, count in files.unpaired.items():
        folder.reasons.append(f"{counted(count, 'image')} in {place} left out: without a mask")
    return folder


# --- lists ----------------------------------------------------------------------------------------------------------


def lists_at(root: Path) -> dict[str, Path]:
    """Returns split -> text file with its name: ``train.txt``, ``train_list.txt``, ``ImageSets/.../train.txt``."""
    for inner in LIST_FOLDERS:
        files = sorted((root / inner).glob("*.txt")) if (root / inner).is_dir() else []
        lists: dict[str, Path] = {}
        for file in sorted(files, key=lambda path: len(path.name)):
            if (split := split_of(Path(file.stem))) is not None and "trainval" not in file.stem:
                lists.setdefault(split, file)
        if "train" in lists:
            return lists
    return {}


def _read_lists(root: Path, layout_names: Sequence[str]) -> Folder | None:
    """Reads a folder whose lists name images and masks, or whose layout returns keys; None if neither applies."""
    keys: dict[str, PlainConfig] = {}
    layout = "lists of images and masks"
    for name in layout_names:
        for split in SPLITS if not keys else ():
            if layout_keys := LAYOUTS[name].keys(root, split):
                keys[split], layout = layout_keys, name
    if not keys:
        prefix = {"img_path": "", "seg_map_path": ""}
        for split, file in lists_at(root).items():
            ann_file = file.relative_to(root).as_posix()
            keys[split] = {"type": "PaddleSegDataset", "ann_file": ann_file, "data_prefix": prefix}
    splits = {}
    for split in list(keys):
        pairs = _pairs_of(root, keys[split])
        if pairs:
            splits[split] = pairs
        else:
            del keys[split]
    return Folder(root, layout, splits, keys) if "train" in splits else None


def _pairs_of(root: Path, keys: PlainConfig) -> list[Pair]:
    """Returns the pairs that a dataset with these keys reads; empty if its files do not exist."""
    plain = {"type": "BaseSegDataset", "metainfo": {"classes": ("0", "1")}, "pipeline": [], "lazy_init": True}
    if (ann_file := keys.get("ann_file")) and not (root / ann_file).is_file():
        return []
    try:
        dataset = DATASETS.build({**plain, **keys, "data_root": str(root)})
        entries = dataset.load_data_list()
    except UserError as error:
        if "PaddleSeg" in str(keys.get("type")) and "IMAGE MASK" in str(error):
            return []  # the list names images without masks
        raise
    except Exception as error:  # a user's dataset may raise anything
        raise UserError(f"--data {root}: cannot be listed: {error}") from error
    pairs = [Pair(Path(entry["img_path"]), Path(entry["seg_map_path"])) for entry in entries]
    if isinstance(dataset, PaddleSegDataset) and pairs and not any(pair.image.is_file() for pair in pairs):
        return []  # names with spaces in a list of another kind
    for pair in pairs:
        for file in (pair.image, pair.mask):
            if not file.is_file():
                raise UserError(f"{root / keys.get('ann_file', '')}: names {file}, which is no file")
    return pairs


def _split_by_lists(root: Path, pairs: Sequence[Pair]) -> dict[str, list[Pair]]:
    """Splits pairs by lists of names, with or without folders and suffixes; empty if there are no such lists."""
    pair_by_name: dict[str, Pair] = {}
    for pair in pairs:
        relative = pair.image.relative_to(root)
        for name in (relative.as_posix(), relative.with_suffix("").as_posix(), relative.name, relative.stem):
            pair_by_name.setdefault(name, pair)
    splits = {}
    for split, file in lists_at(root).items():
        lines = [line.strip() for line in file.read_text(encoding="utf-8-sig", errors="replace").splitlines()]
        chosen = [pair_by_name[line] for line in lines if line in pair_by_name]
        if chosen and len(chosen) * 2 > len([line for line in lines if line]):
            splits[split] = chosen
    return splits if "train" in splits else {}


# --- keys of a dataset that needs no new list -------------------------------------------------------------------------


def _keys_of_folders(folder: Folder) -> dict[str, PlainConfig]:
    """Returns split -> folders and suffixes of images and masks; {} if they cannot select exactly these pairs."""
    keys = {}
    for split, pairs in folder.splits.items():
        prefix = {
            "img_path": _common_folder(folder.root, [pair.image for pair in pairs], split),
            "seg_map_path": _common_folder(folder.root, [pair.mask for pair in pairs], split),
        }
        suffixes = _common_suffixes(folder.root, prefix, pairs)
        if suffixes is None:
            return {}
        keys[split] = {"data_prefix": prefix, "img_suffix": suffixes[0], "seg_map_suffix": suffixes[1]}
        if not _reads_exactly(folder.root, keys[split], pairs):
            return {}
    return keys


def _reads_exactly(root: Path, keys: PlainConfig, pairs: Sequence[Pair]) -> bool:
    """Returns whether a dataset with these keys reads exactly these pairs."""
    try:
        return Counter(_pairs_of(root, keys)) == Counter(pairs)
    except UserError:  # masks would be read as images, or a list has names of another form
        return False


def _keys_of_lists(folder: Folder) -> dict[str, PlainConfig]:
    """Like :func:`_keys_of_folders`, for lists of names for each split, such as Pascal VOC's."""
    keys, lists = {}, lists_at(folder.root)
    for split, pairs in folder.splits.items():
        prefix = {
            "img_path": _common_folder(folder.root, [pair.image for pair in folder.pairs], None),
            "seg_map_path": _common_folder(folder.root, [pair.mask for pair in folder.pairs], None),
        }
        suffixes = _common_suffixes(folder.root, prefix, folder.pairs)
        if suffixes is None:
            return {}
        ann_file = lists[split].relative_to(folder.root).as_posix()
        keys[split] = {
            "ann_file": ann_file,
            "data_prefix": prefix,
            "img_suffix": suffixes[0],
            "seg_map_suffix": suffixes[1],
        }
        if not _reads_exactly(folder.root, keys[split], pairs):
            return {}
    return keys


def _common_folder(root: Path, files: Sequence[Path], split: str | None) -> str:
    """Returns the lowest folder that contains all files, but not a folder below the one with the split's name."""
    top = Path(os.path.commonpath([str(file.parent) for file in files])).relative_to(root)
    if split is not None:
        parts = list(top.parts)
        for index, part in enumerate(parts):
            if split_of(Path(part)) == split:
                last = max(place for place, name in enumerate(parts) if split_of(Path(name)) == split)
                return Path(*parts[: max(index, last) + 1]).as_posix() if last == index else top.as_posix()
    return top.as_posix()


def _common_suffixes(root: Path, prefix: Mapping[str, str], pairs: Sequence[Pair]) -> tuple[str, str] | None:
    """Returns the suffixes of images and masks if their names differ in nothing else, or None."""
    image = pairs[0].image.relative_to(root / prefix["img_path"]).as_posix()
    mask = pairs[0].mask.relative_to(root / prefix["seg_map_path"]).as_posix()
    shorter = min(len(image), len(mask))
    common = next((at for at in range(shorter) if image[at] != mask[at]), shorter)
    common = min(
        common, len(os.path.splitext(image)[0]), len(os.path.splitext(mask)[0])
    )  # a suffix begins with its dot at the latest
    image_end, mask_end = image[common:], mask[common:]
    if "/" in image_end + mask_end or not common:
        return None
    for pair in pairs:
        image = pair.image.relative_to(root / prefix["img_path"]).as_posix()
        mask = pair.mask.relative_to(root / prefix["seg_map_path"]).as_posix()
        if not image.endswith(image_end) or image[: -len(image_end)] + mask_end != mask:
            return None
    return image_end, mask_end


# --- layouts by name --------------------------------------------------------------------------------------------------


def _cityscapes(root: Path) -> Folder | None:
    """Reads Cityscapes, which has a folder for each city; masks of ``labelIds`` are mapped to the 19 classes."""
    for mask_suffix, label_map in (("_gtFine_labelTrainIds.png", None), ("_gtFine_labelIds.png", _cityscapes_map())):
        splits, keys = {}, {}
        for split in ("train", "val"):  # the masks of the test split are empty
            keys[split] = {
                "data_prefix": {"img_path": f"leftImg8bit/{split}", "seg_map_path": f"gtFine/{split}"},
                "img_suffix": "_leftImg8bit.png", "seg_map_suffix": mask_suffix,
            }  # fmt: skip
            images = sorted((root / f"leftImg8bit/{split}").rglob("*_leftImg8bit.png"))
            masks = [
                root
                / "gtFine"
                / split
                / image.relative_to(root / f"leftImg8bit/{split}").as_posix().replace("_leftImg8bit.png", mask_suffix)
                for image in images
            ]
            if masks and all(mask.is_file() for mask in masks):
                splits[split] = [Pair(image, mask) for image, mask in zip(images, masks, strict=True)]
        if "train" in splits:
            folder = Folder(root, "Cityscapes", splits, {split: keys[split] for split in splits})
            folder.names, folder.label_map = _names_of("CityscapesDataset"), label_map
            if label_map:
                folder.reasons.append("masks contain Cityscapes' label ids, which are mapped to its 19 classes")
            return folder
    return None


def _cityscapes_map() -> dict[int, int]:
    return {
        value: CITYSCAPES_IDS.index(value) if value in CITYSCAPES_IDS else 255 for value in range(CITYSCAPES_VALUES)
    }


def _names_of(dataset: str) -> tuple[str, ...]:
    """Returns the classes of one of mmseg's datasets."""
    kind: type[BaseSegDataset] = DATASETS.get(dataset)
    return tuple(name.strip() for name in kind.METAINFO["classes"])


def add_classes_of_layout(folder: Folder, values: Sequence[int]) -> None:
    """Adds the class names of VOC and ADE20K, and ADE20K's ignored 0, if the masks' values fit them."""
    largest = max((value for value in values if value != 255), default=0)
    if folder.layout == "VOC" and folder.names is None and largest == VOC_VALUES - 1:
        folder.names = _names_of("PascalVOCDataset")
    if folder.layout == "ADE20K" and folder.names is None and ADE_VALUES // 2 < largest < ADE_VALUES:
        folder.names, folder.reduce_zero_label = _names_of("ADE20KDataset"), True


def _add_names(folder: Folder) -> None:
    """Adds names of classes and a table of colours from files of the folder."""
    if folder.names is None:
        for file in (folder.root / name for name in NAME_FILES):
            if file.is_file() and (names := _name_lines(file)):
                folder.names = names
                folder.reasons.append(f"names of the classes come from {file.name}")
                break
    for file in sorted([*folder.root.glob("*.txt"), *folder.root.glob("*.csv")]):
        stem = file.stem.lower()
        if any(word in stem for word in ("color", "colour", "class", "palette", "label")):
            try:
                colors = read_colors(file)
            except UserError:
                continue
            if len(colors) > 1:
                folder.colors = colors
                folder.reasons.append(f"{file.name} says which colour is which class")
                break


def _name_lines(file: Path) -> tuple[str, ...] | None:
    lines = [line.strip() for line in file.read_text(encoding="utf-8-sig", errors="replace").splitlines()]
    lines = [line for line in lines if line and line != "__ignore__"]
    if len(lines) < 2 or len(set(lines)) < len(lines) or any(len(line.split(",")) > 2 for line in lines):
        return None
    return None if any(line.replace(" ", "").isdigit() for line in lines) else tuple(lines)


# --- a random validation split ---------------------------------------------------------------------------------------


def split_off(pairs: Sequence[Pair], classes: Mapping[Path, set[int]], seed: int) -> tuple[list[Pair], list[Pair]]:
    """Splits pairs at random into training and validation; an image with the only mask of a class stays in training.

    Args:
        pairs: at least two pairs.
        classes: mask -> its classes, for the masks that were read.
        seed: the same one gives the same split.
    """
    order = sorted(pairs, key=lambda pair: str(pair.image))
    random.Random(seed).shuffle(order)
    val_count = max(1, round(VAL_SHARE * len(order)))
    remaining = Counter(label for pair in order for label in classes.get(pair.mask, ()))
    val: list[Pair] = []
    for pair in order:
        labels = classes.get(pair.mask, set())
        if len(val) < val_count and all(remaining[label] > 1 for label in labels):
            val.append(pair)
            remaining.subtract(labels)
    val = val or [order[0]]
    chosen = set(val)
    return [pair for pair in sorted(pairs, key=str) if pair not in chosen], sorted(val, key=str)

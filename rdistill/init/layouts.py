"""How a folder of images and masks is laid out: its pairs, their splits, what a dataset reads there."""

from __future__ import annotations

import os
import random
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from mmengine.registry import init_default_scope

from rdistill.core.errors import UserError
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
MOST_PIECES = 3  # numbers, names in a message
# Cityscapes' own numbers of its 19 classes; all others count nowhere.
CITYSCAPES_IDS = (7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33)
CITYSCAPES_VALUES = 34
VOC_VALUES, ADE_VALUES = 21, 151
MOST_VAL_SHARE = 0.2  # share of the images, where a folder has no validation images


@dataclass
class Folder:
    """What was recognised in a folder."""

    root: Path
    layout: str  # its name in words
    splits: dict[str, list[Pair]]  # 'train', 'val', 'test' -> pairs
    keys: dict[str, PlainConfig] = field(default_factory=dict)  # split -> what a dataset reads; {}: it needs lists
    names: tuple[str, ...] | None = None  # the classes' names
    colors: dict[tuple[int, int, int], str] | None = None
    reduce_zero_label: bool = False
    label_map: dict[int, int] | None = None  # value -> class, where the layout says it
    reasons: list[str] = field(default_factory=list)

    @property
    def pairs(self) -> list[Pair]:
        """Of all splits."""
        return [pair for pairs in self.splits.values() for pair in pairs]


def read_folder(root: Path, out: Path) -> Folder:
    """Recognises the layout of a folder.

    Args:
        root: absolute.
        out: where the files of the study are written: COCO's masks too; not looked at, should it lie in ``root``.

    Raises:
        UserError: there is no such folder, it is empty, or nothing in it has masks; says what was looked for.
    """
    if not root.is_dir():
        raise UserError(f"--data {root}: no such folder")
    init_default_scope("mmseg")
    named = [layout for layout in layouts_at(root)]
    folder = _listed(root, [layout.name for layout in named]) or coco.read(root, out, make=Folder)
    if folder is None and "Cityscapes" in [layout.name for layout in named]:
        folder = _cityscapes(root)
    if folder is None:
        files = find_pairs(root, leave_out=out)
        if not files.pairs:
            raise UserError(f"--data {root}: {_nothing(root, files)}")
        folder = _of_pairs(root, files, [layout.name for layout in named])
    folder.splits = {name: folder.splits[name] for name in SPLITS if folder.splits.get(name)}
    if "train" not in folder.splits:
        names = ", ".join(folder.splits)
        raise UserError(f"--data {root}: there are {names} images with masks, but none to train on")
    _add_names(folder)
    return folder


def _nothing(root: Path, files: Files) -> str:
    """What was looked for in a folder and what there is."""
    layouts = "; ".join(f"{name} ({', '.join(LAYOUTS[name].marks)})" for name in LAYOUTS)
    looked = (
        f"looked for {layouts}; COCO (a JSON file with images, annotations and categories); a folder of images beside "
        "one of masks (images/, masks/), or masks named NAME_mask.png beside their images"
    )
    if not files.count:
        inner = sorted(path.name for path in root.iterdir())
        there = f"holds no images, but {', '.join(inner[:MOST_PIECES])}" if inner else "is empty"
        return f"{there}; {looked}"
    shown = ", ".join(files.folders[:MOST_PIECES]) + (", ..." if len(files.folders) > MOST_PIECES else "")
    return f"{files.count} images in {shown}, and no masks that belong to them; {looked}"


def _of_pairs(root: Path, files: Files, named: Sequence[str]) -> Folder:
    """A folder whose pairs were found by names; the name of its layout says what values mean."""
    splits = _by_lists(root, files.pairs)
    listed = bool(splits)
    if not splits:
        splits = {name: [] for name in SPLITS}
        for pair in files.pairs:
            image = pair.image.relative_to(root)
            splits[split_of(image.parent) or split_of(pair.mask.relative_to(root).parent) or "train"].append(pair)
    name = named[0] if named else "pairs of images and masks"
    folder = Folder(root, name, {name: pairs for name, pairs in splits.items() if pairs})
    if listed:
        folder.reasons.append("its lists say which images are for training and which for validation")
        folder.keys = _keys_of_lists(folder)
    else:
        folder.keys = _keys_of_folders(folder)
    for place, count in files.alone.items():
        folder.reasons.append(f"{count} image{'s' if count > 1 else ''} in {place} without a mask: left out")
    return folder


# --- lists ----------------------------------------------------------------------------------------------------------


def lists_at(root: Path) -> dict[str, Path]:
    """Split -> a text file that is named after it: ``train.txt``, ``train_list.txt``, ``ImageSets/.../train.txt``."""
    for inner in LIST_FOLDERS:
        files = sorted((root / inner).glob("*.txt")) if (root / inner).is_dir() else []
        lists: dict[str, Path] = {}
        for file in sorted(files, key=lambda path: len(path.name)):
            if (split := split_of(Path(file.stem))) is not None and "trainval" not in file.stem:
                lists.setdefault(split, file)
        if "train" in lists:
            return lists
    return {}


def _listed(root: Path, named: Sequence[str]) -> Folder | None:
    """A folder whose lists name images and masks, or which a layout of the user's own reads."""
    keys: dict[str, PlainConfig] = {}
    layout = "lists of images and masks"
    for name in named:
        for split in SPLITS if not keys else ():
            if found_keys := LAYOUTS[name].keys(root, split):
                keys[split], layout = found_keys, name
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
    """What a dataset with these keys reads; nothing where its files are not there."""
    plain = {"type": "BaseSegDataset", "metainfo": {"classes": ("0", "1")}, "pipeline": [], "lazy_init": True}
    if (ann_file := keys.get("ann_file")) and not (root / ann_file).is_file():
        return []
    try:
        dataset = DATASETS.build({**plain, **keys, "data_root": str(root)})
        entries = dataset.load_data_list()
    except UserError as error:
        if "PaddleSeg" in str(keys.get("type")) and "IMAGE MASK" in str(error):
            return []  # a list of names alone
        raise
    except Exception as error:  # a dataset of the user's own
        raise UserError(f"--data {root}: cannot be listed: {error}") from error
    pairs = [Pair(Path(entry["img_path"]), Path(entry["seg_map_path"])) for entry in entries]
    if isinstance(dataset, PaddleSegDataset) and pairs and not any(pair.image.is_file() for pair in pairs):
        return []  # names with spaces, of another kind of list
    for pair in pairs:
        for file in (pair.image, pair.mask):
            if not file.is_file():
                raise UserError(f"{root / keys.get('ann_file', '')}: names {file}, which is no file")
    return pairs


def _by_lists(root: Path, pairs: Sequence[Pair]) -> dict[str, list[Pair]]:
    """Pairs by lists of names, with or without folders and suffixes; empty where there are none."""
    of_name: dict[str, Pair] = {}
    for pair in pairs:
        relative = pair.image.relative_to(root)
        for name in (relative.as_posix(), relative.with_suffix("").as_posix(), relative.name, relative.stem):
            of_name.setdefault(name, pair)
    splits = {}
    for split, file in lists_at(root).items():
        lines = [line.strip() for line in file.read_text(encoding="utf-8-sig", errors="replace").splitlines()]
        chosen = [of_name[line] for line in lines if line in of_name]
        if chosen and len(chosen) * 2 > len([line for line in lines if line]):
            splits[split] = chosen
    return splits if "train" in splits else {}


# --- what a dataset reads without a list of its own -------------------------------------------------------------------


def _keys_of_folders(folder: Folder) -> dict[str, PlainConfig]:
    """For each split a folder of images, one of masks, and what their files end with; {} where lists are needed."""
    keys = {}
    for split, pairs in folder.splits.items():
        prefix = {
            "img_path": _top(folder.root, [pair.image for pair in pairs], split),
            "seg_map_path": _top(folder.root, [pair.mask for pair in pairs], split),
        }
        ends = _ends(folder.root, prefix, pairs)
        if ends is None:
            return {}
        keys[split] = {"data_prefix": prefix, "img_suffix": ends[0], "seg_map_suffix": ends[1]}
        if not _reads(folder.root, keys[split], pairs):
            return {}
    return keys


def _reads(root: Path, keys: PlainConfig, pairs: Sequence[Pair]) -> bool:
    """Whether a dataset with these keys reads just these pairs."""
    try:
        return Counter(_pairs_of(root, keys)) == Counter(pairs)
    except UserError:  # it takes masks for images, or a list has names that it reads otherwise
        return False


def _keys_of_lists(folder: Folder) -> dict[str, PlainConfig]:
    """The same where lists say which names are of which split, as in Pascal VOC."""
    keys, lists = {}, lists_at(folder.root)
    for split, pairs in folder.splits.items():
        prefix = {
            "img_path": _top(folder.root, [pair.image for pair in folder.pairs], None),
            "seg_map_path": _top(folder.root, [pair.mask for pair in folder.pairs], None),
        }
        ends = _ends(folder.root, prefix, folder.pairs)
        if ends is None:
            return {}
        ann_file = lists[split].relative_to(folder.root).as_posix()
        keys[split] = {"ann_file": ann_file, "data_prefix": prefix, "img_suffix": ends[0], "seg_map_suffix": ends[1]}
        if not _reads(folder.root, keys[split], pairs):
            return {}
    return keys


def _top(root: Path, files: Sequence[Path], split: str | None) -> str:
    """The lowest folder that holds all files, but not below the one that is named after the split."""
    top = Path(os.path.commonpath([str(file.parent) for file in files])).relative_to(root)
    if split is not None:
        parts = list(top.parts)
        for index, part in enumerate(parts):
            if split_of(Path(part)) == split:
                last = max(place for place, name in enumerate(parts) if split_of(Path(name)) == split)
                return Path(*parts[: max(index, last) + 1]).as_posix() if last == index else top.as_posix()
    return top.as_posix()


def _ends(root: Path, prefix: Mapping[str, str], pairs: Sequence[Pair]) -> tuple[str, str] | None:
    """What images and masks end with, where all else in their names is the same; None where it is not."""
    image = pairs[0].image.relative_to(root / prefix["img_path"]).as_posix()
    mask = pairs[0].mask.relative_to(root / prefix["seg_map_path"]).as_posix()
    shorter = min(len(image), len(mask))
    common = next((at for at in range(shorter) if image[at] != mask[at]), shorter)
    common = min(common, len(os.path.splitext(image)[0]), len(os.path.splitext(mask)[0]))  # suffixes have their dot
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
    """Images and masks in a folder for each city; masks of Cityscapes' own numbers are mapped to the 19 classes."""
    for end, label_map in (("_gtFine_labelTrainIds.png", None), ("_gtFine_labelIds.png", _cityscapes_map())):
        splits, keys = {}, {}
        for split in ("train", "val"):  # the masks of test are empty
            keys[split] = {
                "data_prefix": {"img_path": f"leftImg8bit/{split}", "seg_map_path": f"gtFine/{split}"},
                "img_suffix": "_leftImg8bit.png", "seg_map_suffix": end,
            }  # fmt: skip
            images = sorted((root / f"leftImg8bit/{split}").rglob("*_leftImg8bit.png"))
            masks = [
                root
                / "gtFine"
                / split
                / image.relative_to(root / f"leftImg8bit/{split}").as_posix().replace("_leftImg8bit.png", end)
                for image in images
            ]
            if masks and all(mask.is_file() for mask in masks):
                splits[split] = [Pair(image, mask) for image, mask in zip(images, masks, strict=True)]
        if "train" in splits:
            folder = Folder(root, "Cityscapes", splits, {split: keys[split] for split in splits})
            folder.names, folder.label_map = _names_of("CityscapesDataset"), label_map
            if label_map:
                folder.reasons.append("masks hold Cityscapes' own numbers, which are mapped to its 19 classes")
            return folder
    return None


def _cityscapes_map() -> dict[int, int]:
    return {
        value: CITYSCAPES_IDS.index(value) if value in CITYSCAPES_IDS else 255 for value in range(CITYSCAPES_VALUES)
    }


def _names_of(dataset: str) -> tuple[str, ...]:
    """The classes of one of mmseg's datasets."""
    kind: type[BaseSegDataset] = DATASETS.get(dataset)
    return tuple(name.strip() for name in kind.METAINFO["classes"])


def settle_values(folder: Folder, values: Sequence[int]) -> None:
    """What a layout's name says of its masks, once it is known which values they hold: VOC's names, ADE20K's zero."""
    largest = max((value for value in values if value != 255), default=0)
    if folder.layout == "VOC" and folder.names is None and largest == VOC_VALUES - 1:
        folder.names = _names_of("PascalVOCDataset")
    if folder.layout == "ADE20K" and folder.names is None and ADE_VALUES // 2 < largest < ADE_VALUES:
        folder.names, folder.reduce_zero_label = _names_of("ADE20KDataset"), True


def _add_names(folder: Folder) -> None:
    """Names of classes and a table of colours, where files of the folder have them."""
    if folder.names is None:
        for file in (folder.root / name for name in NAME_FILES):
            if file.is_file() and (names := _name_lines(file)):
                folder.names = names
                folder.reasons.append(f"names of the classes are those of {file.name}")
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


# --- a validation split of its own ----------------------------------------------------------------------------------


def split_off(pairs: Sequence[Pair], classes: Mapping[Path, set[int]], seed: int) -> tuple[list[Pair], list[Pair]]:
    """Training and validation images of one heap, by chance; a class that one image alone holds stays in training.

    Args:
        pairs: at least two.
        classes: mask -> the classes in it, as far as masks were read.
        seed: the same one gives the same split.
    """
    order = sorted(pairs, key=lambda pair: str(pair.image))
    random.Random(seed).shuffle(order)
    wanted = max(1, round(MOST_VAL_SHARE * len(order)))
    left = Counter(label for pair in order for label in classes.get(pair.mask, ()))
    val: list[Pair] = []
    for pair in order:
        labels = classes.get(pair.mask, set())
        if len(val) < wanted and all(left[label] > 1 for label in labels):
            val.append(pair)
            left.subtract(labels)
    val = val or [order[0]]
    chosen = set(val)
    return [pair for pair in sorted(pairs, key=str) if pair not in chosen], sorted(val, key=str)

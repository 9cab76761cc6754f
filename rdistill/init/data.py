"""What `init` makes of a folder: its pairs, what masks' values mean, what a dataset reads; writes lists and masks."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from rdistill.core.errors import UserError
from rdistill.init import images as image_files
from rdistill.init import layouts, masks, proposals
from rdistill.init.images import ImageSurvey
from rdistill.init.layouts import Folder
from rdistill.init.masks import IGNORED, Labels, MaskSurvey
from rdistill.init.pairs import Pair
from rdistill.init.render import render_masks, write_list
from rdistill.schemas.mappings import PlainConfig

SEED = 0
MOST_CLASSES_SHOWN = 12
Decisions = list[tuple[str, str]]  # (about, what and why)


@dataclass(frozen=True)
class Data:
    """A folder's data as a study reads them."""

    labels: Labels
    images: ImageSurvey
    train_images: int
    datasets: dict[str, PlainConfig]  # 'train', 'val', 'test' -> keys of the dataset
    pixels: list[int]  # each class's, in the training masks that were read
    decisions: Decisions = field(default_factory=list)

    @property
    def weights(self) -> tuple[float, ...] | None:
        """Of the classes, where one is rare."""
        return proposals.class_weights(self.pixels)

    @property
    def absent(self) -> tuple[str, ...]:
        """Classes that no training mask holds, as far as these were read."""
        return tuple(name for name, count in zip(self.labels.classes, self.pixels, strict=True) if not count)


def read_data(data: Path, out: Path, *, classes: Sequence[str] | None = None, colors: Path | None = None) -> Data:
    """Recognises a folder, and writes lists and masks below ``out`` where a dataset needs them.

    Args:
        data: the folder, as the user named it.
        out: where the files of the study go.
        classes: names, in the order of the classes.
        colors: a table of colours, see :func:`rdistill.init.masks.read_colors`.

    Raises:
        UserError: nothing is recognised, files cannot be read, or masks cannot be understood.
    """
    root = data.expanduser().absolute()
    folder = layouts.read_folder(root, out.absolute())
    seen, labels = _read_masks(folder, classes, colors)
    _require_one_mask_each(folder)
    decisions = _about_data(data, folder, labels, seen)
    split_by_chance = "val" not in folder.splits
    if split_by_chance:
        decisions.append(_split(folder, labels, seen))
    images = image_files.survey(*([pair.image for pair in pairs] for pairs in (folder.splits["train"], folder.pairs)))
    decisions += _about_images(images)
    pixels = _pixels(labels, seen, folder.splits["train"])
    datasets = _datasets(folder, labels, out, split_by_chance=split_by_chance)
    if labels.render:
        decisions.append(("masks", f"written once as class numbers in {out / 'masks'}; yours are left as they are"))
    decisions.append(("pixels", _about_pixels(labels, pixels, proposals.class_weights(pixels))))
    return Data(labels, images, len(folder.splits["train"]), datasets, pixels, decisions)


def _read_masks(folder: Folder, classes: Sequence[str] | None, color_file: Path | None) -> tuple[MaskSurvey, Labels]:
    seen = masks.survey([pair.mask for pair in folder.pairs])
    if not seen.in_color:
        layouts.settle_values(folder, [color[0] for color in seen.pixels])
    colors = masks.read_colors(color_file) if color_file is not None else folder.colors
    names = classes or folder.names
    if folder.label_map is not None:
        table: dict[masks.Color, int] = {(value,): label for value, label in folder.label_map.items()}
        palette = tuple(masks.class_color(index) for index in range(len(names or ())))
        return seen, Labels(tuple(names or ()), palette, table, folder.label_map, render=not seen.plain)
    if not seen.in_color and color_file is None:
        colors = None  # the table is for images that people look at, beside masks of class numbers
    if names is not None and classes is None and not seen.in_color:
        largest = max((color[0] for color in seen.pixels if color[0] != IGNORED), default=0)
        if len(names) <= largest - (1 if folder.reduce_zero_label else 0):
            names = None  # a file of names that are not these masks'
    reduce_zero_label = folder.reduce_zero_label
    return seen, masks.interpret(seen, names=names, colors=colors, reduce_zero_label=reduce_zero_label)


def _require_one_mask_each(folder: Folder) -> None:
    counts = Counter(pair.image for pairs in folder.splits.values() for pair in set(pairs))
    if twice := [image for image, count in counts.items() if count > 1 and not folder.keys]:
        raise UserError(f"{twice[0]}: has several masks; leave one kind of masks in the folder")


def _split(folder: Folder, labels: Labels, seen: MaskSurvey) -> tuple[str, str]:
    pairs = folder.splits["train"]
    if len(pairs) < 2:
        raise UserError(f"--data {folder.root}: holds one image with a mask; two are needed, to train on and to score")
    classes = {mask: _classes_in(labels, file.pixels) - {IGNORED} for mask, file in seen.files.items()}
    folder.splits["train"], folder.splits["val"] = layouts.split_off(pairs, classes, SEED)
    count = len(folder.splits["val"])
    return "split", (
        f"there are no validation images: {count} of {len(pairs)} were drawn by chance (seed {SEED}) into a list; "
        "nothing was copied. Frames of one film or pieces of one image may stand in both: then write val.txt yourself"
    )


def _classes_in(labels: Labels, pixels: Mapping[masks.Color, int]) -> set[int]:
    return {_label(labels, color) for color in pixels}


def _label(labels: Labels, color: masks.Color) -> int:
    """A grey value is a colour too, where masks are in colour."""
    return labels.table.get(color if color in labels.table else color * 3, IGNORED)


def _datasets(folder: Folder, labels: Labels, out: Path, *, split_by_chance: bool) -> dict[str, PlainConfig]:
    """Keys of the dataset of each split; writes masks and lists where it needs them."""
    if folder.keys and not labels.render and not split_by_chance:
        return dict(folder.keys)
    splits = render_masks(folder.splits, folder.root, labels, out / "masks") if labels.render else folder.splits
    keys = {}
    for split, pairs in splits.items():
        file = (out / f"{split}.txt").absolute()
        write_list(file, pairs, folder.root)
        prefix = {"img_path": "", "seg_map_path": ""}
        keys[split] = {"type": "PaddleSegDataset", "ann_file": str(file), "data_prefix": prefix, "separator": "\t"}
    return keys


def _pixels(labels: Labels, seen: MaskSurvey, pairs: Sequence[Pair]) -> list[int]:
    """Pixels of each class in the training masks that were read."""
    counts = [0] * len(labels.classes)
    for pair in pairs:
        for color, count in seen.files[pair.mask].pixels.items() if pair.mask in seen.files else ():
            label = _label(labels, color)
            if label != IGNORED:
                counts[label] += count
    return counts


def _about_data(data: Path, folder: Folder, labels: Labels, seen: MaskSurvey) -> Decisions:
    counts = ", ".join(f"{len(pairs)} {split}" for split, pairs in folder.splits.items())
    lines = [("layout", f"{folder.layout} in {data}: {counts} images with masks")]
    lines += [("layout", reason) for reason in folder.reasons]
    sample = f" (of {len(seen.files)} masks; there are {seen.total})" if len(seen.files) < seen.total else ""
    names = ", ".join(labels.classes[:MOST_CLASSES_SHOWN])
    more = f" and {len(labels.classes) - MOST_CLASSES_SHOWN} more" if len(labels.classes) > MOST_CLASSES_SHOWN else ""
    lines.append(("classes", f"{len(labels.classes)}: {names}{more}{sample}"))
    return lines + [("classes", reason) for reason in labels.reasons]


def _about_images(images: ImageSurvey) -> Decisions:
    sizes = list(images.sizes)
    shown = f"{sizes[0][0]} x {sizes[0][1]} pixels" if len(sizes) == 1 else _range(sizes)
    channels = f"{images.channels} channel{'s' if images.channels > 1 else ''} of {images.bits} bits"
    return [("images", f"{shown}, {channels}"), *(("images", reason) for reason in images.reasons)]


def _range(sizes: Sequence[tuple[int, int]]) -> str:
    widths, heights = [width for width, _ in sizes], [height for _, height in sizes]
    return f"{len(sizes)} sizes, {min(widths)} to {max(widths)} wide and {min(heights)} to {max(heights)} high"


def _about_pixels(labels: Labels, pixels: Sequence[int], weights: Sequence[float] | None) -> str:
    total = max(sum(pixels), 1)
    shares = [f"{name} {100 * count / total:.3g} %" for name, count in zip(labels.classes, pixels, strict=True)]
    text = ", ".join(shares[:MOST_CLASSES_SHOWN]) + (", ..." if len(shares) > MOST_CLASSES_SHOWN else "")
    least = f"{100 * proposals.rare_below(len(pixels)):.2g} %"
    if weights is None:
        return f"{text}: no class is below {least}, so that all weigh 1"
    rare = [f"{name} {weight:g}" for name, weight in zip(labels.classes, weights, strict=True) if weight > 1]
    return f"{text}: class weights for those below {least}: {', '.join(rare)}"

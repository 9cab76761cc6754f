"""Reads the data of a folder for `init`: pairs, classes, dataset keys; writes lists and masks where needed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from rdistill.core.errors import UserError
from rdistill.core.words import counted, listed
from rdistill.init import images as image_files
from rdistill.init import layouts, masks, proposals
from rdistill.init.images import ImageSurvey
from rdistill.init.layouts import Folder
from rdistill.init.masks import IGNORED, Labels, MaskSurvey
from rdistill.init.pairs import Pair
from rdistill.init.render import render_masks, write_list
from rdistill.schemas.mappings import PlainConfig

SEED = 0
MAX_CLASSES_SHOWN = 12
Decisions = list[tuple[str, str]]  # (topic, decision and reason)


@dataclass(frozen=True)
class Data:
    """The data of a folder, as a study uses them."""

    labels: Labels
    images: ImageSurvey
    train_images: int
    datasets: dict[str, PlainConfig]  # 'train', 'val', 'test' -> keys of the dataset
    pixels: list[int]  # pixels of each class in the training masks that were read
    decisions: Decisions = field(default_factory=list)

    @property
    def weights(self) -> tuple[float, ...] | None:
        """Class weights, or None if no class is rare."""
        return proposals.class_weights(self.pixels)

    @property
    def absent(self) -> tuple[str, ...]:
        """Classes without a pixel in the training masks that were read."""
        return tuple(name for name, count in zip(self.labels.classes, self.pixels, strict=True) if not count)


def read_data(data: Path, out: Path, *, classes: Sequence[str] | None = None, colors: Path | None = None) -> Data:
    """Recognises a folder, and writes lists and masks below ``out`` if a dataset needs them.

    Args:
        data: the folder, as the user named it.
        out: folder of the study's files.
        classes: names of the classes, in the order of their indices.
        colors: file with a table of colours, see :func:`rdistill.init.masks.read_colors`.

    Raises:
        UserError: nothing is recognised, files cannot be read, or masks cannot be understood.
    """
    root = data.expanduser().absolute()
    folder = layouts.read_folder(root, out.absolute())
    mask_survey, labels = _read_masks(folder, classes, colors)
    _require_one_mask_each(folder)
    decisions = _about_data(data, folder, labels, mask_survey)
    split_by_chance = "val" not in folder.splits
    if split_by_chance:
        decisions.append(_split(folder, labels, mask_survey))
    images = image_files.survey(*([pair.image for pair in pairs] for pairs in (folder.splits["train"], folder.pairs)))
    decisions += _about_images(images)
    pixels = _class_pixels(labels, mask_survey, folder.splits["train"])
    datasets = _datasets(folder, labels, out, split_by_chance=split_by_chance)
    if labels.render:
        decisions.append(("masks", f"written once as class numbers in {out / 'masks'}; your files are not changed"))
    decisions.append(("pixels", _about_pixels(labels, pixels, proposals.class_weights(pixels))))
    return Data(labels, images, len(folder.splits["train"]), datasets, pixels, decisions)


def _read_masks(folder: Folder, classes: Sequence[str] | None, color_file: Path | None) -> tuple[MaskSurvey, Labels]:
    mask_survey = masks.survey([pair.mask for pair in folder.pairs])
    if not mask_survey.in_color:
        layouts.add_classes_of_layout(folder, [color[0] for color in mask_survey.pixels])
    colors = masks.read_colors(color_file) if color_file is not None else folder.colors
    names = classes or folder.names
    if folder.label_map is not None:
        table: dict[masks.Color, int] = {(value,): label for value, label in folder.label_map.items()}
        palette = tuple(masks.class_color(index) for index in range(len(names or ())))
        return mask_survey, Labels(tuple(names or ()), palette, table, folder.label_map, render=not mask_survey.plain)
    if not mask_survey.in_color and color_file is None:
        colors = None  # such a table describes coloured previews that lie next to masks of class numbers
    if names is not None and classes is None and not mask_survey.in_color:
        largest = max((color[0] for color in mask_survey.pixels if color[0] != IGNORED), default=0)
        if len(names) <= largest - (1 if folder.reduce_zero_label else 0):
            names = None  # the file names other classes than these masks have
    reduce_zero_label = folder.reduce_zero_label
    return mask_survey, masks.interpret(mask_survey, names=names, colors=colors, reduce_zero_label=reduce_zero_label)


def _require_one_mask_each(folder: Folder) -> None:
    counts = Counter(pair.image for pairs in folder.splits.values() for pair in set(pairs))
    if duplicates := [image for image, count in counts.items() if count > 1 and not folder.keys]:
        raise UserError(f"{duplicates[0]}: has several masks; keep only one kind of masks in the folder")


def _split(folder: Folder, labels: Labels, mask_survey: MaskSurvey) -> tuple[str, str]:
    pairs = folder.splits["train"]
    if len(pairs) < 2:
        raise UserError(
            f"--data {folder.root}: contains only one image with a mask; at least two are needed, to train and to score"
        )
    classes = {mask: _classes_in(labels, file.pixels) - {IGNORED} for mask, file in mask_survey.files.items()}
    folder.splits["train"], folder.splits["val"] = layouts.split_off(pairs, classes, SEED)
    count = len(folder.splits["val"])
    return "split", (
        f"there are no validation images: {count} of {len(pairs)} were drawn at random (seed {SEED}) into a list; "
        "nothing was copied. If images are frames of one film or crops of one image, write val.txt yourself, because "
        "similar images would be in both splits"
    )


def _classes_in(labels: Labels, pixels: Mapping[masks.Color, int]) -> set[int]:
    return {_label(labels, color) for color in pixels}


def _label(labels: Labels, color: masks.Color) -> int:
    """Returns the class of a colour; a grey value is looked up as a colour if the table has colours."""
    return labels.table.get(color if color in labels.table else color * 3, IGNORED)


def _datasets(folder: Folder, labels: Labels, out: Path, *, split_by_chance: bool) -> dict[str, PlainConfig]:
    """Returns split -> keys of its dataset; writes masks and lists if the dataset needs them."""
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


def _class_pixels(labels: Labels, mask_survey: MaskSurvey, pairs: Sequence[Pair]) -> list[int]:
    """Counts the pixels of each class in the training masks that were read."""
    counts = [0] * len(labels.classes)
    for pair in pairs:
        for color, count in mask_survey.files[pair.mask].pixels.items() if pair.mask in mask_survey.files else ():
            label = _label(labels, color)
            if label != IGNORED:
                counts[label] += count
    return counts


def _about_data(data: Path, folder: Folder, labels: Labels, mask_survey: MaskSurvey) -> Decisions:
    counts = ", ".join(f"{len(pairs)} {split}" for split, pairs in folder.splits.items())
    lines = [("layout", f"{folder.layout} in {data}: {counts} images with masks")]
    lines += [("layout", reason) for reason in folder.reasons]
    sample = (
        f" (of {counted(len(mask_survey.files), 'mask')}; there are {mask_survey.total})"
        if len(mask_survey.files) < mask_survey.total
        else ""
    )
    names = listed(labels.classes, MAX_CLASSES_SHOWN)
    lines.append(("classes", f"{len(labels.classes)}: {names}{sample}"))
    return lines + [("classes", reason) for reason in labels.reasons]


def _about_images(images: ImageSurvey) -> Decisions:
    sizes = list(images.sizes)
    shown = f"{sizes[0][0]} x {sizes[0][1]} pixels" if len(sizes) == 1 else _range(sizes)
    channels = f"{counted(images.channels, 'channel')} of {images.bits} bits"
    return [("images", f"{shown}, {channels}"), *(("images", reason) for reason in images.reasons)]


def _range(sizes: Sequence[tuple[int, int]]) -> str:
    widths, heights = [width for width, _ in sizes], [height for _, height in sizes]
    return f"{len(sizes)} sizes, {min(widths)} to {max(widths)} wide and {min(heights)} to {max(heights)} high"


def _about_pixels(labels: Labels, pixels: Sequence[int], weights: Sequence[float] | None) -> str:
    total = max(sum(pixels), 1)
    shares = [f"{name} {100 * count / total:.3g} %" for name, count in zip(labels.classes, pixels, strict=True)]
    text = ", ".join(shares[:MAX_CLASSES_SHOWN]) + (", ..." if len(shares) > MAX_CLASSES_SHOWN else "")
    limit = f"{100 * proposals.rare_below(len(pixels)):.2g} %"
    if weights is None:
        return f"{text}: no class is below {limit}, so all class weights are 1"
    rare = [f"{name} {weight:g}" for name, weight in zip(labels.classes, weights, strict=True) if weight > 1]
    return f"{text}: class weights for those below {limit}: {', '.join(rare)}"

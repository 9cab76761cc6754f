"""Surveys the masks of a data set, and decides which class each value or colour is."""

from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image

from rdistill.core.errors import UserError, message_line
from rdistill.core.files import in_threads

MAX_READ = 5_000  # maximum number of masks that are read, as a seeded sample
MAX_CLASSES = 255  # label 255 is ignored
IGNORED = 255
MAX_COLORS = 256  # masks have at most this many different colours or values; photographs have more
LOSSY = ("JPEG", "MPO", "WEBP")
JPEG_TOLERANCE = 32  # lossy compression changes the values of a mask by at most this much
BINARY_SHARE = 0.97  # share of the pixels of lossy masks that must be near 0 or 255

Color = tuple[int, ...]  # (value,) or (red, green, blue)


@dataclass
class MaskFile:
    """Values of one mask."""

    size: tuple[int, int]  # width, height
    pixels: Counter[Color]  # value or colour -> number of pixels
    plain: bool  # one channel of 8-bit integers, which mmseg can read
    lossy: bool = False


@dataclass
class MaskSurvey:
    """Values of all masks of a data set."""

    files: dict[Path, MaskFile] = field(default_factory=dict)
    total: int = 0  # number of masks, including those that were not read
    pixels: Counter[Color] = field(default_factory=Counter)

    @property
    def plain(self) -> bool:
        """Whether mmseg can read all masks without conversion."""
        return all(file.plain for file in self.files.values())

    @property
    def lossy(self) -> bool:
        return any(file.lossy for file in self.files.values())

    @property
    def in_color(self) -> bool:
        return any(len(color) > 1 for color in self.pixels)


@dataclass(frozen=True)
class Labels:
    """The class of each value or colour of the masks."""

    classes: tuple[str, ...]
    palette: tuple[tuple[int, int, int], ...]
    table: Mapping[Color, int]  # value or colour -> class, or IGNORED
    label_map: Mapping[int, int]  # value -> class for the pipeline step `MapLabels`; {} if values are classes
    render: bool  # the masks must be written once as class numbers
    reduce_zero_label: bool = False
    reasons: tuple[str, ...] = ()
    lossy: bool = False  # a colour that is not in the table counts as the nearest one


def read_mask(path: Path) -> np.ndarray:
    """Reads a mask: H x W, or H x W x 3 if it is in colour; grey in three channels becomes one channel.

    Raises:
        UserError: the file cannot be read.
    """
    try:
        with Image.open(path) as image:
            values = np.asarray(image)
    except Exception as error:  # decoders raise anything from OSError to struct.error
        raise UserError(f"{path}: cannot be read: {message_line(error)}") from None
    if values.ndim == 3 and values.shape[2] in (2, 4):
        values = values[..., :-1]  # drop the alpha channel
    if values.ndim == 3 and (values.shape[2] == 1 or (values == values[..., :1]).all()):
        values = values[..., 0]
    if values.dtype == bool:
        return values.astype(np.uint8)
    if values.dtype.kind == "f" and (values == values.round()).all():
        return values.astype(np.int64)
    return values


def survey(paths: Sequence[Path]) -> MaskSurvey:
    """Reads all masks, or a seeded sample of ``MAX_READ``.

    Raises:
        UserError: a file cannot be read, or its values cannot be those of a mask.
    """
    chosen = sorted(random.Random(0).sample(list(paths), MAX_READ)) if len(paths) > MAX_READ else list(paths)
    result = MaskSurvey(total=len(paths))
    for path, file in zip(chosen, in_threads(_survey_file, chosen), strict=True):
        result.files[path] = file
        result.pixels.update(file.pixels)
    if len(result.pixels) > MAX_COLORS and not result.lossy:
        raise UserError(
            f"{chosen[0]}: and the other masks contain {len(result.pixels)} different values; are they images?"
        )
    return result


def _survey_file(path: Path) -> MaskFile:
    values = read_mask(path)
    with Image.open(path) as image:
        lossy = image.format in LOSSY
        plain = not lossy and np.asarray(image).ndim == 2 and np.asarray(image).dtype in (np.uint8, bool)
    if values.ndim == 3 and values.shape[2] != 3:
        raise UserError(f"{path}: has {values.shape[2]} channels; a mask has one, or three for colours")
    if values.dtype.kind == "f" or values.min() < 0:
        raise UserError(
            f"{path}: holds {values.dtype} values below 0 or between whole numbers; a mask has class numbers"
        )
    pixels: Counter[Color] = Counter()
    if values.ndim == 2:
        unique_values, counts = np.unique(values, return_counts=True)
        for value, count in zip(unique_values, counts, strict=True):
            pixels[(int(value),)] = int(count)
    else:
        red, green, blue = (values[..., band].astype(np.int64) for band in range(3))
        codes, counts = np.unique((red << 16) | (green << 8) | blue, return_counts=True)
        for code, count in zip(codes, counts, strict=True):
            pixels[_color(int(code))] = int(count)
    if len(pixels) > MAX_COLORS and not lossy:
        raise UserError(f"{path}: holds {len(pixels)} different values; is it an image? A mask has class numbers")
    return MaskFile((values.shape[1], values.shape[0]), pixels, plain, lossy)


def _color(code: int) -> Color:
    return code >> 16, code >> 8 & 255, code & 255


# --- class of each value ---------------------------------------------------------------------------------------------


def interpret(
    mask_survey: MaskSurvey,
    *,
    names: Sequence[str] | None = None,
    colors: Mapping[tuple[int, int, int], str] | None = None,
    reduce_zero_label: bool = False,
) -> Labels:
    """Decides which class each value or colour of the masks is.

    Args:
        mask_survey: result of :func:`survey`.
        names: names of the classes in their order, if known.
        colors: (red, green, blue) -> name of the class, if known.
        reduce_zero_label: 0 is ignored and 1 is the first class, like in ADE20K.

    Raises:
        UserError: the values are no classes, or do not fit ``names`` or ``colors``.
    """
    if mask_survey.in_color or (colors and not mask_survey.plain):
        return _labels_from_colors(mask_survey, colors, names)
    if mask_survey.lossy:
        return _labels_from_jpeg(mask_survey, names)
    values = sorted(color[0] for color in mask_survey.pixels)
    if reduce_zero_label:
        count = len(names) if names else max(value for value in values if value != IGNORED)
        table: dict[Color, int] = {(value,): IGNORED if value in (0, IGNORED) else value - 1 for value in values}
        reason = "label 0 is ignored and 1 is the first class (reduce_zero_label), like in ADE20K"
        return _labels(_names(names, count), table, {}, not mask_survey.plain, (reason,), reduce_zero_label=True)
    return _labels_from_values(mask_survey, values, names)


def _labels_from_values(mask_survey: MaskSurvey, values: list[int], names: Sequence[str] | None) -> Labels:
    if len(values) < 2:
        raise UserError(
            f"{next(iter(mask_survey.files))}: and all other masks contain only {values[0]}; two classes are needed"
        )
    numbers = [value for value in values if value != IGNORED]
    if len(numbers) > 1 and _are_class_numbers(numbers, names):
        reasons = ["255 is ignored"] if IGNORED in values else []
        count = max(len(names or ()), max(numbers) + 1)
        same: dict[Color, int] = {(value,): value for value in values}
        return _labels(_names(names, count), same, {}, not mask_survey.plain, tuple(reasons))
    if len(values) > MAX_CLASSES:
        raise UserError(
            f"the masks hold {len(values)} different values; at most {MAX_CLASSES} classes can be told apart"
        )
    table: dict[Color, int] = {(value,): index for index, value in enumerate(values)}
    maps = {value: index for index, value in enumerate(values) if value != index}
    reason = (
        "masks have the values 0 and 255; 255 is the object" if values == [0, 255] else "values are not class numbers"
    )
    shown = ", ".join(f"{value} is class {index}" for index, value in enumerate(values[:6]))
    render = not mask_survey.plain
    return _labels(_names(names, len(values)), table, {} if render else maps, render, (f"{reason}: {shown}",))


def _are_class_numbers(values: Sequence[int], names: Sequence[str] | None) -> bool:
    """Returns whether values are class indices (some may occur in no mask) and not grey levels."""
    largest = max(values)
    if names is not None and largest < len(names):
        return True
    return largest < MAX_CLASSES and len(values) >= 2 and len(values) * 2 > largest + 1


def _labels_from_jpeg(mask_survey: MaskSurvey, names: Sequence[str] | None) -> Labels:
    total = mask_survey.pixels.total()
    ends = sum(
        count
        for (value,), count in mask_survey.pixels.items()
        if value <= JPEG_TOLERANCE or value >= 255 - JPEG_TOLERANCE
    )
    if ends < BINARY_SHARE * total:
        path = next(path for path, file in mask_survey.files.items() if file.lossy)
        raise UserError(f"{path}: is compressed with losses, which changes class numbers; save masks as PNG")
    table: dict[Color, int] = {(value,): int(value >= 128) for value in range(256)}
    reason = "black and white masks were saved as JPEG, which changes their values: values below 128 are class 0"
    return _labels(_names(names, 2), table, {}, True, (reason,))


def _labels_from_colors(
    mask_survey: MaskSurvey, colors: Mapping[tuple[int, int, int], str] | None, names: Sequence[str] | None
) -> Labels:
    """The labels of masks in colour: by a table of colours, or each colour is a class."""
    present: Counter[Color] = Counter()
    for color, count in mask_survey.pixels.items():
        present[color * 3 if len(color) == 1 else color] += count
    if colors:
        return _labels_from_table(present, colors, names, lossy=mask_survey.lossy)
    if mask_survey.lossy:
        path = next(path for path, file in mask_survey.files.items() if file.lossy)
        raise UserError(
            f"{path}: is in colour and compressed with losses; pass its colours with --colors, or save masks as PNG"
        )
    order = sorted(present, key=lambda color: (sum(color), color))  # black first
    result = tuple(names) if names else tuple(_color_name(color) for color in order)
    if len(result) != len(order):
        raise UserError(
            f"--classes: names {len(result)} classes, but the masks hold {len(order)} colours: "
            f"{', '.join(_color_name(color) for color in order[:8])}; name as many, or pass --colors FILE"
        )
    palette = [(color[0], color[1], color[2]) for color in order]
    reason = f"masks are in colour, and no table of colours was found: each of the {len(order)} colours is a class"
    return Labels(
        result, tuple(palette), {color: index for index, color in enumerate(order)}, {}, True, reasons=(reason,)
    )


def _labels_from_table(
    present: Counter[Color], colors: Mapping[tuple[int, int, int], str], names: Sequence[str] | None, *, lossy: bool
) -> Labels:
    """The labels of masks whose colours a table names; ``present`` has the number of pixels of each colour."""
    in_table: set[Color] = set(colors)
    unknown = [] if lossy else [color for color in present if color not in in_table]
    classes = list(dict.fromkeys(name for name in colors.values() if not _is_void(name)))
    reasons = [f"masks are in colour: {len(classes)} classes from the table of colours"]
    if unknown:
        shown = ", ".join(map(str, unknown[:3]))
        share = 100 * sum(present[color] for color in unknown) / present.total()
        reasons.append(f"colours that are not in the table, such as {shown} ({share:.2g} % of the pixels), are ignored")
    table: dict[Color, int] = {}
    for color, name in colors.items():
        table[color] = IGNORED if _is_void(name) else classes.index(name)
    table.update({color: IGNORED for color in unknown})
    palette = [next(color for color, name in colors.items() if name == class_name) for class_name in classes]
    return Labels(tuple(names or classes), tuple(palette), table, {}, True, reasons=tuple(reasons), lossy=lossy)


def _is_void(name: str) -> bool:
    return name.strip().lower() in ("void", "ignore", "ignored", "unlabeled", "unlabelled", "unknown", "_ignore_")


def _color_name(color: Color) -> str:
    known_colors = {(0, 0, 0): "black", (255, 255, 255): "white"}
    return known_colors.get((color[0], color[1], color[2]), "#" + "".join(f"{value:02x}" for value in color))


def _names(names: Sequence[str] | None, count: int) -> tuple[str, ...]:
    if count > MAX_CLASSES:
        raise UserError(f"the masks hold values up to {count - 1}; at most {MAX_CLASSES} classes can be told apart")
    if names is not None:
        if len(names) < count:
            raise UserError(f"--classes: names {len(names)} classes, but the masks hold {count}: name them all")
        return tuple(names)
    if count == 2:
        return "background", "foreground"
    return tuple("background" if index == 0 else f"class {index}" for index in range(count))


def _labels(
    classes: tuple[str, ...], table: Mapping[Color, int], label_map: Mapping[int, int], render: bool,
    reasons: tuple[str, ...], *, reduce_zero_label: bool = False,
) -> Labels:  # fmt: skip
    palette = tuple(class_color(index) for index in range(len(classes)))
    return Labels(classes, palette, table, label_map, render, reduce_zero_label, reasons)


def class_color(index: int) -> tuple[int, int, int]:
    """Returns Pascal VOC's colour of a class: the bits of its index in reverse, spread over red, green and blue.

    >>> [class_color(index) for index in range(3)]
    [(0, 0, 0), (128, 0, 0), (0, 128, 0)]
    """
    channels = [0, 0, 0]
    for place in range(8):
        for band in range(3):
            channels[band] |= (index >> band & 1) << (7 - place)
        index >>= 3
    return channels[0], channels[1], channels[2]


def read_colors(file: Path) -> dict[tuple[int, int, int], str]:
    """Reads a table of colours: a line for each class with its name and red, green, blue, in any order and separator.

    Examples are ``R G B name`` in CamVid's ``label_colors.txt`` and ``name,r,g,b`` in Kaggle's ``class_dict.csv``.
    Lines without three numbers (a heading) are skipped. A class may have several colours.

    Raises:
        UserError: no line has a colour.
    """
    colors: dict[tuple[int, int, int], str] = {}
    for line in file.read_text(encoding="utf-8-sig", errors="replace").splitlines():
        parts = [part.strip(" \"'()[]") for part in re.split(r"[,;:\t ]+", line.strip())]
        numbers = [int(part) for part in parts if re.fullmatch(r"\d{1,3}", part)]
        if len(numbers) < 3 or max(numbers[-3:]) > 255:
            continue
        name = " ".join(part for part in parts if part and not re.fullmatch(r"\d{1,3}", part))
        triple = numbers[:3] if len(numbers) == 3 else numbers[-3:]  # a fourth number before them is the class index
        colors[(triple[0], triple[1], triple[2])] = name or _color_name(tuple(triple))
    if not colors:
        raise UserError(
            f"{file}: has no line with a name and red, green, blue from 0 to 255, such as `road 128 64 128`"
        )
    return colors

"""What the masks of a data set hold, and which class each value or colour stands for."""

from __future__ import annotations

import os
import random
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from rdistill.core.errors import UserError, message_line

MOST_READ = 5_000  # masks that are read, a seeded sample of more
MOST_CLASSES = 255  # 255 is the label that counts nowhere
IGNORED = 255
MOST_COLORS = 256  # different colours or values of masks; more are those of a photograph
LOSSY = ("JPEG", "MPO", "WEBP")
NEAR = 32  # values of a mask that was saved with losses are so near to what they were
BINARY_SHARE = 0.97  # share of such masks' pixels that must be near 0 or 255

Color = tuple[int, ...]  # (value,) or (red, green, blue)


@dataclass
class MaskFile:
    """What one mask holds."""

    size: tuple[int, int]  # width, height
    pixels: Counter[Color]  # value or colour -> pixels
    plain: bool  # whole numbers of 8 bits in one channel, as mmseg reads them
    lossy: bool = False


@dataclass
class MaskSurvey:
    """What the masks of a data set hold together."""

    files: dict[Path, MaskFile] = field(default_factory=dict)
    total: int = 0  # masks there are
    pixels: Counter[Color] = field(default_factory=Counter)

    @property
    def plain(self) -> bool:
        """Whether all can be read as they are."""
        return all(file.plain for file in self.files.values())

    @property
    def lossy(self) -> bool:
        return any(file.lossy for file in self.files.values())

    @property
    def in_color(self) -> bool:
        return any(len(color) > 1 for color in self.pixels)


@dataclass(frozen=True)
class Labels:
    """Which class each value or colour of the masks is."""

    classes: tuple[str, ...]
    palette: tuple[tuple[int, int, int], ...]
    table: Mapping[Color, int]  # value or colour -> class, or IGNORED
    label_map: Mapping[int, int]  # value -> class, where a step has to map it; {} where values are classes
    render: bool  # the masks are written again, once, as class numbers
    reduce_zero_label: bool = False
    reasons: tuple[str, ...] = ()
    lossy: bool = False  # a pixel's colour that is in no table stands for the nearest one


def in_threads(work: Callable[[Any], Any], items: Iterable[Any]) -> list[Any]:
    """Decoders let go of the interpreter's lock."""
    with ThreadPoolExecutor(max_workers=min(8, 2 * (os.cpu_count() or 1))) as pool:
        return list(pool.map(work, items))


def read_mask(path: Path) -> np.ndarray:
    """A mask as its file has it: H x W, or H x W x 3 where it is in colour; grey in three channels is one channel.

    Raises:
        UserError: it cannot be read.
    """
    try:
        with Image.open(path) as image:
            values = np.asarray(image)
    except Exception as error:  # decoders raise anything from OSError to struct.error
        raise UserError(f"{path}: cannot be read: {message_line(error)}") from None
    if values.ndim == 3 and values.shape[2] in (2, 4):
        values = values[..., :-1]  # how opaque it is
    if values.ndim == 3 and (values.shape[2] == 1 or (values == values[..., :1]).all()):
        values = values[..., 0]
    if values.dtype == bool:
        return values.astype(np.uint8)
    if values.dtype.kind == "f" and (values == values.round()).all():
        return values.astype(np.int64)
    return values


def survey(paths: Sequence[Path]) -> MaskSurvey:
    """Reads masks: all, or a seeded sample of ``MOST_READ``.

    Raises:
        UserError: one cannot be read, or holds what no mask does.
    """
    chosen = sorted(random.Random(0).sample(list(paths), MOST_READ)) if len(paths) > MOST_READ else list(paths)
    made = MaskSurvey(total=len(paths))
    for path, file in zip(chosen, in_threads(_look_at, chosen), strict=True):
        made.files[path] = file
        made.pixels.update(file.pixels)
    if len(made.pixels) > MOST_COLORS and not made.lossy:
        raise UserError(f"{chosen[0]}: and the other masks hold {len(made.pixels)} different values; are they images?")
    return made


def _look_at(path: Path) -> MaskFile:
    values = read_mask(path)
    with Image.open(path) as image:
        lossy = image.format in LOSSY
        plain = not lossy and np.asarray(image).ndim == 2 and np.asarray(image).dtype in (np.uint8, bool)
    if values.ndim == 3 and values.shape[2] != 3:
        raise UserError(f"{path}: has {values.shape[2]} channels; a mask has one, or three of a colour")
    if values.dtype.kind == "f" or values.min() < 0:
        raise UserError(
            f"{path}: holds {values.dtype} values below 0 or between whole numbers; a mask has class numbers"
        )
    pixels: Counter[Color] = Counter()
    if values.ndim == 2:
        found_values, counts = np.unique(values, return_counts=True)
        for value, count in zip(found_values, counts, strict=True):
            pixels[(int(value),)] = int(count)
    else:
        red, green, blue = (values[..., band].astype(np.int64) for band in range(3))
        codes, counts = np.unique((red << 16) | (green << 8) | blue, return_counts=True)
        for code, count in zip(codes, counts, strict=True):
            pixels[_color(int(code))] = int(count)
    if len(pixels) > MOST_COLORS and not lossy:
        raise UserError(f"{path}: holds {len(pixels)} different values; is it an image? A mask has class numbers")
    return MaskFile((values.shape[1], values.shape[0]), pixels, plain, lossy)


def _color(code: int) -> Color:
    return code >> 16, code >> 8 & 255, code & 255


# --- which class a value is -----------------------------------------------------------------------------------------


def interpret(
    seen: MaskSurvey,
    *,
    names: Sequence[str] | None = None,
    colors: Mapping[tuple[int, int, int], str] | None = None,
    reduce_zero_label: bool = False,
) -> Labels:
    """What the masks' values mean.

    Args:
        seen: from :func:`survey`.
        names: of the classes, where they are known, in their order.
        colors: of the classes, where they are known: red, green, blue -> name.
        reduce_zero_label: 0 counts nowhere and 1 is the first class, as in ADE20K.

    Raises:
        UserError: they are no classes, or are not those that ``names`` or ``colors`` say.
    """
    if seen.in_color or (colors and not seen.plain):
        return _of_colors(seen, colors, names)
    if seen.lossy:
        return _of_smeared(seen, names)
    values = sorted(color[0] for color in seen.pixels)
    if reduce_zero_label:
        count = len(names) if names else max(value for value in values if value != IGNORED)
        table: dict[Color, int] = {(value,): IGNORED if value in (0, IGNORED) else value - 1 for value in values}
        reason = "label 0 counts nowhere and 1 is the first class (reduce_zero_label), as in ADE20K"
        return _labels(_names(names, count), table, {}, not seen.plain, (reason,), reduce_zero_label=True)
    return _of_values(seen, values, names)


def _of_values(seen: MaskSurvey, values: list[int], names: Sequence[str] | None) -> Labels:
    if len(values) < 2:
        raise UserError(f"{next(iter(seen.files))}: and all other masks hold {values[0]} alone; there is one class")
    numbers = [value for value in values if value != IGNORED]
    if len(numbers) > 1 and _are_class_numbers(numbers, names):
        reasons = ["255 counts nowhere"] if IGNORED in values else []
        count = max(len(names or ()), max(numbers) + 1)
        same: dict[Color, int] = {(value,): value for value in values}
        return _labels(_names(names, count), same, {}, not seen.plain, tuple(reasons))
    if len(values) > MOST_CLASSES:
        raise UserError(
            f"the masks hold {len(values)} different values; at most {MOST_CLASSES} classes can be told apart"
        )
    table: dict[Color, int] = {(value,): index for index, value in enumerate(values)}
    maps = {value: index for index, value in enumerate(values) if value != index}
    what = "masks are of 0 and 255, where 255 is the object" if values == [0, 255] else "values are not class numbers"
    shown = ", ".join(f"{value} is class {index}" for index, value in enumerate(values[:6]))
    render = not seen.plain
    return _labels(_names(names, len(values)), table, {} if render else maps, render, (f"{what}: {shown}",))


def _are_class_numbers(values: Sequence[int], names: Sequence[str] | None) -> bool:
    """Whether values are indices of classes, a few of which may be in no mask, rather than levels of grey."""
    largest = max(values)
    if names is not None and largest < len(names):
        return True
    return largest < MOST_CLASSES and len(values) >= 2 and len(values) * 2 > largest + 1


def _of_smeared(seen: MaskSurvey, names: Sequence[str] | None) -> Labels:
    total = seen.pixels.total()
    ends = sum(count for (value,), count in seen.pixels.items() if value <= NEAR or value >= 255 - NEAR)
    if ends < BINARY_SHARE * total:
        path = next(path for path, file in seen.files.items() if file.lossy)
        raise UserError(f"{path}: is saved with losses, which smears class numbers; save masks as PNG")
    table: dict[Color, int] = {(value,): int(value >= 128) for value in range(256)}
    reason = "masks of black and white were saved as JPEG, which smears them: what is below 128 is class 0"
    return _labels(_names(names, 2), table, {}, True, (reason,))


def _of_colors(
    seen: MaskSurvey, colors: Mapping[tuple[int, int, int], str] | None, names: Sequence[str] | None
) -> Labels:
    present: Counter[Color] = Counter()
    for color, count in seen.pixels.items():
        present[color * 3 if len(color) == 1 else color] += count
    if colors:
        in_table: set[Color] = set(colors)
        unknown = [color for color in present if color not in in_table]
        if unknown and not seen.lossy:
            shown = ", ".join(map(str, unknown[:3]))
            share = 100 * sum(present[color] for color in unknown) / present.total()
            reason = f"colours that are in no table, such as {shown} ({share:.2g} % of the pixels), count nowhere"
            reasons: tuple[str, ...] = (reason,)
        else:
            reasons = ()
        classes = list(dict.fromkeys(name for name in colors.values() if not _is_void(name)))
        table: dict[Color, int] = {}
        for color, name in colors.items():
            table[color] = IGNORED if _is_void(name) else classes.index(name)
        table.update({color: IGNORED for color in unknown if not seen.lossy})
        palette = [next(color for color, name in colors.items() if name == wanted) for wanted in classes]
        why = f"masks are in colour: {len(classes)} classes of the table of colours"
        return Labels(
            tuple(names or classes), tuple(palette), table, {}, True, reasons=(why, *reasons), lossy=seen.lossy
        )
    if seen.lossy:
        path = next(path for path, file in seen.files.items() if file.lossy)
        raise UserError(f"{path}: is in colour and saved with losses; name its colours by --colors, or save as PNG")
    order = sorted(present, key=lambda color: (sum(color), color))  # black first
    made = tuple(names) if names else tuple(_color_name(color) for color in order)
    if len(made) != len(order):
        raise UserError(
            f"--classes: names {len(made)} classes, but the masks hold {len(order)} colours: "
            f"{', '.join(_color_name(color) for color in order[:8])}; name as many, or their colours by --colors FILE"
        )
    palette = [(color[0], color[1], color[2]) for color in order]
    why = f"masks are in colour, and no table of colours was found: each of the {len(order)} colours is a class"
    return Labels(made, tuple(palette), {color: index for index, color in enumerate(order)}, {}, True, reasons=(why,))


def _is_void(name: str) -> bool:
    return name.strip().lower() in ("void", "ignore", "ignored", "unlabeled", "unlabelled", "unknown", "_ignore_")


def _color_name(color: Color) -> str:
    known_colors = {(0, 0, 0): "black", (255, 255, 255): "white"}
    return known_colors.get((color[0], color[1], color[2]), "#" + "".join(f"{value:02x}" for value in color))


def _names(names: Sequence[str] | None, count: int) -> tuple[str, ...]:
    if count > MOST_CLASSES:
        raise UserError(f"the masks hold values up to {count - 1}; at most {MOST_CLASSES} classes can be told apart")
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
    """Pascal VOC's colour of a class: its bits in reverse, spread over red, green and blue.

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
    """A table of colours: a line for each class with its name and red, green, blue, in any order, with any separator.

    ``R G B name`` as CamVid's ``label_colors.txt``, ``name,r,g,b`` as Kaggle's ``class_dict.csv``, and so on; lines
    without three numbers (a heading) are left out; a class may have several colours.

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
        triple = numbers[:3] if len(numbers) == 3 else numbers[-3:]  # a number before them is the class's own
        colors[(triple[0], triple[1], triple[2])] = name or _color_name(tuple(triple))
    if not colors:
        raise UserError(
            f"{file}: has no line with a name and red, green, blue from 0 to 255, such as `road 128 64 128`"
        )
    return colors

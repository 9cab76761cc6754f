"""Writes masks and overlays of images (`rdistill predict`)."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TypedDict

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from rdistill.core.errors import UserError
from rdistill.core.files import written_whole
from rdistill.core.words import listed
from rdistill.handover.inference import Predictor, predict_mask, raise_first_problems, read_sample
from rdistill.training.console import LINES_PER_RUN, updates_in_place

OPACITY = 0.5  # opacity of the colours over the image; black (usually the background) is not drawn
MAX_CLASSES_IN_LINE = 6
LEGEND_MIN_WIDTH = 200  # pixels; a narrower image is enlarged, so that its legend is readable


class Prediction(TypedDict):
    """The result for one image, which `rdistill predict --json` prints."""

    image: str
    mask: str
    overlay: str
    shares: dict[str, float]  # class name -> share of the pixels, 0 to 1


def predict_images(predictor: Predictor, images: Sequence[Path], out: Path) -> Iterator[Prediction]:
    """Segments images one by one, and yields the result of each when its files are written.

    The files are ``masks/NAME.png`` (a palette image of the image's own size whose values are class indices) and
    ``overlays/NAME.png`` (the image with the colours of its classes and a legend), both below ``out``.

    Raises:
        UserError: after the last image, if some could not be segmented; at once, if nothing can be written.
    """
    problems: list[str] = []
    for image, files in zip(images, output_files(images, out), strict=True):
        try:
            sample = read_sample(predictor, image)
            mask = predict_mask(predictor, sample)
        except UserError as error:  # continue with the other images
            problems += error.problems
            continue
        shares = np.bincount(mask.ravel(), minlength=len(predictor.classes)) / mask.size
        drawn = overlay(Image.fromarray(sample.rgb(predictor)), mask, predictor.classes, predictor.palette)
        try:
            with written_whole(files["mask"]) as partial:
                mask_image(mask, predictor.palette).save(partial, "PNG")
            with written_whole(files["overlay"]) as partial:
                drawn.save(partial, "PNG")
        except OSError as error:
            raise UserError(f"--out: {error.filename or out} cannot be written: {error.strerror or error}") from None
        yield {
            "image": str(image),
            "mask": str(files["mask"]),
            "overlay": str(files["overlay"]),
            "shares": dict(zip(predictor.classes, (float(share) for share in shares), strict=False)),
        }
    raise_first_problems(list(dict.fromkeys(problems)))


def output_files(images: Sequence[Path], out: Path) -> list[dict[str, Path]]:
    """Returns the files to write for each image (``mask`` and ``overlay``), and creates their folders.

    Raises:
        UserError: a folder cannot be written to, or an input image would be overwritten.
    """
    folders = {"mask": out / "masks", "overlay": out / "overlays"}
    files = [{kind: folder / f"{name}.png" for kind, folder in folders.items()} for name in output_names(images)]
    inputs = {os.path.realpath(image) for image in images}
    overwritten = [str(file) for entry in files for file in entry.values() if os.path.realpath(file) in inputs]
    if overwritten:
        raise UserError(f"--out {out}: would overwrite the input image {overwritten[0]}; choose another folder")
    try:
        for folder in {file.parent for entry in files for file in entry.values()}:
            folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=folder):
                pass
    except OSError as error:
        raise UserError(f"--out {out}: cannot be written to: {error.strerror or error}") from None
    return files


def show_progress(results: Iterable[Prediction], total: int, console: Console) -> Iterator[Prediction]:
    """Passes results on and shows progress: a line for each of a few images, else a bar or ten lines."""
    if total <= LINES_PER_RUN:
        for result in results:
            text = f"{result['image']}  {shares_line(result['shares'])}"
            console.print(text, markup=False, highlight=False, soft_wrap=True)
            yield result
        return
    if updates_in_place(console):
        with Progress(TextColumn("predict"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(),
                      console=console, transient=True) as bar:  # fmt: skip
            yield from bar.track(results, total=total)
        return
    for count, result in enumerate(results, start=1):
        if count % -(-total // LINES_PER_RUN) == 0 and count < total:
            console.print(f"{count} of {total} images", highlight=False)
        yield result


def shares_line(shares: Mapping[str, float]) -> str:
    """Returns a text such as ``'background 98.2 %, optic disc 1.8 %'``: the largest shares first."""
    order = sorted((name for name in shares if shares[name] > 0), key=lambda name: -shares[name])
    return listed([f"{name} {100 * shares[name]:.1f} %" for name in order], MAX_CLASSES_IN_LINE)


def output_names(images: Sequence[Path]) -> list[str]:
    """Returns a unique name for each image's files.

    This is the image's own name. If names repeat, it is the path below the common folder with underscores between the
    parts; if that still repeats (``a/b_c.jpg`` and ``a_b/c.jpg``), it is the path with its folders.
    """
    absolute = [Path(os.path.abspath(image)) for image in images]
    assert len(set(absolute)) == len(absolute), "an image occurs twice"
    common = Path(os.path.commonpath([path.parent for path in absolute])) if absolute else Path()
    relative = [path.relative_to(common) for path in absolute]
    candidates = (
        [image.stem for image in images],
        ["_".join(path.with_suffix("").parts) for path in relative],
        ["_".join(path.parts) for path in relative],  # tells a.jpg from a.png in one folder
        [str(path.with_suffix("")) for path in relative],
        [str(path) for path in relative],
    )
    # Names must differ in more than case, because some file systems ignore case.
    return next((names for names in candidates if len({name.lower() for name in names}) == len(names)), candidates[-1])


def mask_image(mask: np.ndarray, palette: Sequence[tuple[int, int, int]]) -> Image.Image:
    """Returns a mask as a palette image: pixel values are class indices, shown in the classes' colours."""
    if mask.dtype != np.uint8:
        return Image.fromarray(mask)  # a palette has 256 entries only
    image = Image.fromarray(mask, mode="P")
    image.putpalette([channel for colour in palette for channel in colour])
    return image


def overlay(
    image: Image.Image, mask: np.ndarray, classes: Sequence[str], palette: Sequence[tuple[int, int, int]]
) -> Image.Image:
    """Returns the image with the colours of its mask, and below it a legend of the classes with their shares."""
    shares = np.bincount(mask.ravel(), minlength=len(classes)) / mask.size
    if image.size != mask.shape[::-1]:
        image = image.resize(mask.shape[::-1])
    colours = np.array(palette, np.uint8)[mask]
    pixels = np.asarray(image, np.float32)
    drawn = colours.any(axis=2, keepdims=True)
    painted = np.where(drawn, (1 - OPACITY) * pixels + OPACITY * colours, pixels).astype(np.uint8)
    canvas = Image.fromarray(painted)
    if canvas.width < LEGEND_MIN_WIDTH:
        factor = -(-LEGEND_MIN_WIDTH // canvas.width)
        canvas = canvas.resize((canvas.width * factor, canvas.height * factor), Image.Resampling.NEAREST)
    entries = [
        (f"{classes[index]} {100 * shares[index]:.1f} %", palette[index])
        for index in np.argsort(-shares, kind="stable")
        if shares[index] > 0
    ]
    return _with_legend(canvas, entries)


def _with_legend(image: Image.Image, entries: Sequence[tuple[str, tuple[int, int, int]]]) -> Image.Image:
    """Returns the image with a white strip below it that has a colour swatch and a text for each class."""
    size = max(11, image.width // 45)
    font = ImageFont.load_default(size)
    swatch, gap = size, size // 2
    rows: list[list[tuple[int, str, tuple[int, int, int]]]] = [[]]
    x = gap
    for text, colour in entries:
        width = swatch + gap + int(font.getlength(text)) + 2 * gap
        if x + width > image.width and rows[-1]:
            rows.append([])
            x = gap
        rows[-1].append((x, text, colour))
        x += width
    line = size + gap
    page = Image.new("RGB", (image.width, image.height + gap + line * len(rows)), "white")
    page.paste(image)
    draw = ImageDraw.Draw(page)
    for row, cells in enumerate(rows):
        y = image.height + gap + row * line
        for x, text, colour in cells:
            draw.rectangle((x, y, x + swatch, y + swatch), fill=colour, outline="grey")
            draw.text((x + swatch + gap, y + swatch // 2), text, fill="black", font=font, anchor="lm")
    return page

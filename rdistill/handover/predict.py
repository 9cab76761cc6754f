"""`rdistill predict`: masks and overlays of images, to be looked at."""

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
from rdistill.handover.inference import Predictor, predict_mask, raise_some, read_sample
from rdistill.training.console import LINES_PER_RUN, updates_in_place

OPACITY = 0.5  # how much the colours cover of the image; black (usually the background) is not drawn
CLASSES_IN_A_LINE = 6
LEGEND_MIN_WIDTH = 200  # pixels; a smaller image is shown larger, so that its legend can be read


class Prediction(TypedDict):
    """What `rdistill predict --json` says of an image."""

    image: str
    mask: str
    overlay: str  # paths, like those before
    shares: dict[str, float]  # class name -> share of the pixels, 0 to 1


def predict_images(predictor: Predictor, images: Sequence[Path], out: Path) -> Iterator[Prediction]:
    """Segments images one by one; yields a plain dict for each once its files are written.

    Written to ``out``: ``masks/NAME.png`` (a palette image whose values are class indices, at the image's own size)
    and ``overlays/NAME.png`` (the image under its colours, with a legend).

    Returns:
        ``image``, ``mask``, ``overlay`` (paths) and ``shares`` (class name -> share of the pixels, 0 to 1).

    Raises:
        UserError: after the last image, for those that could not be segmented; at once where nothing can be written.
    """
    problems: list[str] = []
    for image, files in zip(images, output_files(images, out), strict=True):
        try:
            sample = read_sample(predictor, image)
            mask = predict_mask(predictor, sample)
        except UserError as error:  # the others are segmented all the same
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
    raise_some(list(dict.fromkeys(problems)))


def output_files(images: Sequence[Path], out: Path) -> list[dict[str, Path]]:
    """For each image the files that are written, ``mask`` and ``overlay``; makes their folders.

    Raises:
        UserError: a folder that cannot be written to, or an image that would be written over.
    """
    folders = {"mask": out / "masks", "overlay": out / "overlays"}
    files = [{kind: folder / f"{name}.png" for kind, folder in folders.items()} for name in output_names(images)]
    read = {os.path.realpath(image) for image in images}
    lost = [str(file) for entry in files for file in entry.values() if os.path.realpath(file) in read]
    if lost:
        raise UserError(f"--out {out}: would write over {lost[0]}, an image to be segmented; choose another folder")
    try:
        for folder in {file.parent for entry in files for file in entry.values()}:
            folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=folder):
                pass
    except OSError as error:
        raise UserError(f"--out {out}: cannot be written to: {error.strerror or error}") from None
    return files


def show_progress(results: Iterable[Prediction], total: int, console: Console) -> Iterator[Prediction]:
    """Passes results on and says how far they are: a line for each of a few images, a bar or ten lines for many."""
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
    """``'background 98.2 %, optic disc 1.8 %'``: the largest shares first, of many classes not all."""
    order = sorted((name for name in shares if shares[name] > 0), key=lambda name: -shares[name])
    text = ", ".join(f"{name} {100 * shares[name]:.1f} %" for name in order[:CLASSES_IN_A_LINE])
    return text + (f" and {len(order) - CLASSES_IN_A_LINE} more" if len(order) > CLASSES_IN_A_LINE else "")


def output_names(images: Sequence[Path]) -> list[str]:
    """A name for each image's files, no two alike.

    The image's own name; where names repeat, its path below the common folder: joined by underscores, or, where that
    still makes two alike (``a/b_c.jpg`` and ``a_b/c.jpg``), with its folders.
    """
    absolute = [Path(os.path.abspath(image)) for image in images]
    assert len(set(absolute)) == len(absolute), "one image twice"
    common = Path(os.path.commonpath([path.parent for path in absolute])) if absolute else Path()
    below = [path.relative_to(common) for path in absolute]
    tries = (
        [image.stem for image in images],
        ["_".join(path.with_suffix("").parts) for path in below],
        ["_".join(path.parts) for path in below],  # a.jpg beside a.png
        [str(path.with_suffix("")) for path in below],
        [str(path) for path in below],
    )
    # Names must differ in more than case: some file systems ignore it.
    return next((names for names in tries if len({name.lower() for name in names}) == len(names)), tries[-1])


def mask_image(mask: np.ndarray, palette: Sequence[tuple[int, int, int]]) -> Image.Image:
    """A mask as an image whose pixel values are the classes, shown in the classes' colours."""
    if mask.dtype != np.uint8:
        return Image.fromarray(mask)  # more classes than a palette has places
    image = Image.fromarray(mask, mode="P")
    image.putpalette([channel for colour in palette for channel in colour])
    return image


def overlay(
    image: Image.Image, mask: np.ndarray, classes: Sequence[str], palette: Sequence[tuple[int, int, int]]
) -> Image.Image:
    """An image under the colours of its mask, above a legend of the classes that occur, with their shares."""
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
    """The image above a white strip of colour swatches with their texts, as many beside each other as fit."""
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

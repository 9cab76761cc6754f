"""`rdistill predict`: masks and overlays of images, to be looked at."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont, ImageOps

from rdistill.errors import UserError
from rdistill.inference import Predictor, predict_mask

OPACITY = 0.5  # of the colours over the image; black (usually the background) is not drawn
CLASSES_IN_A_LINE = 6
LEGEND_MIN_WIDTH = 200  # pixels; a smaller image is shown larger, so that its legend can be read


def predict_images(predictor: Predictor, images: Sequence[Path], out: Path) -> Iterator[dict[str, Any]]:
    """Segments images one by one; yields a plain dict for each once its files are written.

    Written to ``out``: ``masks/NAME.png`` (a palette image whose values are class indices, at the image's own size)
    and ``overlays/NAME.png`` (the image under its colours, with a legend).

    Returns:
        ``image``, ``mask``, ``overlay`` (paths) and ``shares`` (class name -> share of the pixels, 0 to 1).
    """
    folders = {"mask": out / "masks", "overlay": out / "overlays"}
    try:
        for folder in folders.values():
            folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"--out: cannot be written to: {error}") from None
    for image, name in zip(images, output_names(images), strict=True):
        mask = predict_mask(predictor, image)
        shares = np.bincount(mask.ravel(), minlength=len(predictor.classes)) / mask.size
        files = {kind: folder / f"{name}.png" for kind, folder in folders.items()}
        mask_image(mask, predictor.palette).save(files["mask"])
        with Image.open(image) as opened:
            # Turned as the camera noted, as the network's reader does it; 16-bit greys lose their lower byte.
            picture = ImageOps.exif_transpose(opened).convert("RGB")
        overlay(picture, mask, predictor.classes, predictor.palette).save(files["overlay"])
        yield {
            "image": str(image),
            **{kind: str(file) for kind, file in files.items()},
            "shares": dict(zip(predictor.classes, (float(share) for share in shares), strict=False)),
        }


def shares_line(shares: Mapping[str, float]) -> str:
    """``'background 98.2 %, optic disc 1.8 %'``: the largest shares first, of many classes not all."""
    order = sorted((name for name in shares if shares[name] > 0), key=lambda name: -shares[name])
    text = ", ".join(f"{name} {100 * shares[name]:.1f} %" for name in order[:CLASSES_IN_A_LINE])
    return text + (f" and {len(order) - CLASSES_IN_A_LINE} more" if len(order) > CLASSES_IN_A_LINE else "")


def output_names(images: Sequence[Path]) -> list[str]:
    """A name for each image's files: its own, or its path below the common folder where names repeat."""
    stems = [image.stem for image in images]
    if len(set(stems)) == len(stems):
        return stems
    absolute = [image.absolute() for image in images]
    common = Path(os.path.commonpath([path.parent for path in absolute]))
    names = ["_".join(path.relative_to(common).with_suffix("").parts) for path in absolute]
    if len(set(names)) == len(names):
        return names
    return ["_".join(path.relative_to(common).parts) for path in absolute]  # a.jpg beside a.png


def mask_image(mask: np.ndarray, palette: Sequence[tuple[int, int, int]]) -> Image.Image:
    """A mask as an image whose pixel values are the classes, shown in the classes' colours."""
    if mask.dtype != np.uint8:
        return Image.fromarray(mask)  # more classes than a palette has places
    image = Image.fromarray(mask, mode="P")
    image.putpalette([channel for colour in palette for channel in colour])
    return image


def overlay(
    picture: Image.Image, mask: np.ndarray, classes: Sequence[str], palette: Sequence[tuple[int, int, int]]
) -> Image.Image:
    """An image under the colours of its mask, above a legend of the classes that occur, with their shares."""
    shares = np.bincount(mask.ravel(), minlength=len(classes)) / mask.size
    if picture.size != mask.shape[::-1]:
        picture = picture.resize(mask.shape[::-1])
    colours = np.array(palette, np.uint8)[mask]
    pixels = np.asarray(picture, np.float32)
    drawn = colours.any(axis=2, keepdims=True)
    painted = np.where(drawn, (1 - OPACITY) * pixels + OPACITY * colours, pixels).astype(np.uint8)
    image = Image.fromarray(painted)
    if image.width < LEGEND_MIN_WIDTH:
        factor = -(-LEGEND_MIN_WIDTH // image.width)
        image = image.resize((image.width * factor, image.height * factor), Image.Resampling.NEAREST)
    entries = [
        (f"{classes[index]} {100 * shares[index]:.1f} %", palette[index])
        for index in np.argsort(-shares, kind="stable")
        if shares[index] > 0
    ]
    return _with_legend(image, entries)


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

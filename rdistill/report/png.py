"""Writes the page's figures as PNG files for a paper, in light colours and in print resolution."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from rdistill.core.errors import UserError
from rdistill.report.page import Figure, Page, as_drawn
from rdistill.report.theme import LIGHT, coloured

WIDTH = 700  # CSS pixels of a figure as wide as a page
SCALE = 3  # pixels for each CSS pixel: 2,100 pixels over 7 inches are 300 dpi
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")


def write_pngs(page: Page, folder: Path) -> list[Path]:
    """Writes a PNG file for each figure of a page, with the figure's id as its name.

    Raises:
        UserError: Chrome or Chromium, which draws the figures, or kaleido, which controls it, is missing.
    """
    browser = os.environ.get("BROWSER_PATH") or next((path for name in BROWSERS if (path := shutil.which(name))), None)
    if browser is None:
        raise UserError("--png: needs Chrome or Chromium, and none is on the PATH; install it, or set BROWSER_PATH")
    try:
        import kaleido
    except ImportError:
        raise UserError("--png: needs kaleido; install it with pip install 'rdistill[png]'") from None
    folder.mkdir(parents=True, exist_ok=True)
    options = dict(format="png", scale=SCALE)
    jobs = [
        {"fig": figure, "path": str(folder / f"{name}.png"), "opts": {**options, **size}}
        for name, figure, size in figures(page)
    ]
    try:
        with _temporary_home():
            kaleido.write_fig_from_object_sync(jobs, kopts=dict(path=browser, mathjax=False))
    except Exception as error:  # a browser may fail to start with any error
        raise UserError(
            f"--png: {browser} cannot draw: {type(error).__name__}: {str(error).splitlines()[0]}"
        ) from error
    return [Path(str(job["path"])) for job in jobs]


@contextmanager
def _temporary_home() -> Iterator[None]:
    """A context with a temporary config folder, since Chromium would write to the user's own, whatever its profile."""
    before = os.environ.get("XDG_CONFIG_HOME")
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:  # Chromium may still be closing
        os.environ["XDG_CONFIG_HOME"] = folder
        try:
            yield
        finally:
            del os.environ["XDG_CONFIG_HOME"]
            if before is not None:
                os.environ["XDG_CONFIG_HOME"] = before


def figures(page: Page) -> Sequence[tuple[str, Figure, dict[str, int]]]:
    """(file name, figure, size) of each plot, in light colours and with letters large enough for print."""
    drawings = []
    for plot in [*page.plots, *([page.card] if page.card is not None else [])]:
        drawn = as_drawn(plot)
        figure = coloured({"data": drawn["data"], "layout": drawn["layout"]}, LIGHT)
        figure["layout"]["font"] = {
            **figure["layout"]["font"],
            "size": 15,
            "family": "Arial, Liberation Sans, sans-serif",
        }
        name = "".join(letter if letter.isalnum() else "-" for letter in plot.id)
        drawings.append((name, figure, dict(width=max(WIDTH, plot.min_width), height=plot.height)))
    return drawings

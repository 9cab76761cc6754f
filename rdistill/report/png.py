"""The page's figures as PNG files for a paper: light, and large enough to print."""

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

WIDTH = 700  # CSS pixels: a figure over the width of a page
SCALE = 3  # pixels for each: 2,100 over 7 inches is 300 dpi
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")


def write_pngs(page: Page, folder: Path) -> list[Path]:
    """Writes a PNG for each figure of a page, named as the figure is.

    Raises:
        UserError: no Chrome or Chromium, which draws them, or no kaleido, which drives it.
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
        with _no_traces_at_home():
            kaleido.write_fig_from_object_sync(jobs, kopts=dict(path=browser, mathjax=False))
    except Exception as error:  # a browser fails to start in as many ways as there are machines
        raise UserError(
            f"--png: {browser} cannot draw: {type(error).__name__}: {str(error).splitlines()[0]}"
        ) from error
    return [Path(str(job["path"])) for job in jobs]


@contextmanager
def _no_traces_at_home() -> Iterator[None]:
    """Chromium keeps the settings of its crash reports in the user's folder, wherever its profile is."""
    before = os.environ.get("XDG_CONFIG_HOME")
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:  # it may be closing still
        os.environ["XDG_CONFIG_HOME"] = folder
        try:
            yield
        finally:
            del os.environ["XDG_CONFIG_HOME"]
            if before is not None:
                os.environ["XDG_CONFIG_HOME"] = before


def figures(page: Page) -> Sequence[tuple[str, Figure, dict[str, int]]]:
    """(file name, figure, its size) of each plot, in light colours and with letters to be read in print."""
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

"""Renders a page as one self-contained HTML file, with styles, script, plotly.js, data and images."""

from __future__ import annotations

import base64
import functools
import gzip
import io
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, TypedDict

from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape

import rdistill
from rdistill.core.errors import UserError
from rdistill.core.files import write_whole
from rdistill.report.facts import Fact
from rdistill.report.plot import Plot
from rdistill.report.standing import Standing, Step
from rdistill.report.text import Table
from rdistill.report.theme import DARK, FONT, LIGHT, Layout, Trace, as_text

IMAGE_SIDE = 360  # pixels of the longer side of an image in the page; the files are larger
# Keys of a figure under which plotly would read texts as HTML.
_DATA_TEXTS = ("x", "y", "text", "customdata", "name", "meta", "legendgroup")
_LAYOUT_TEXTS = ("ticktext", "categoryarray")


@dataclass(frozen=True)
class Panel:
    """One image of a row."""

    label: str
    alt: str
    source: str  # a data: URI
    note: str = ""


@dataclass(frozen=True)
class Strip:
    """A row of panels about one validation image."""

    title: str
    panels: Sequence[Panel]


@dataclass
class Section:
    """A section of the page, with a link in its navigation."""

    id: str
    title: str
    intro: str = ""
    tables: list[Table] = field(default_factory=list)
    plots: list[Plot] = field(default_factory=list)
    small_plots: list[Plot] = field(default_factory=list)  # drawn side by side, under a title of their own
    small_title: str = ""
    small_intro: str = ""
    strips: list[Strip] = field(default_factory=list)
    commands: list[tuple[str, str]] = field(default_factory=list)
    listing: tuple[str, str] = ("", "")  # title, text of a file
    notes: list[str] = field(default_factory=list)

    @property
    def empty(self) -> bool:
        parts = (self.tables, self.plots, self.small_plots, self.strips, self.commands, self.notes, self.listing[1])
        return not any(parts)


@dataclass(frozen=True)
class Page:
    """The content of a page, in its order."""

    title: str
    kind: str  # the subject, such as a sweep or a run
    verdict: str
    facts: Sequence[Fact]
    sections: Sequence[Section]
    warnings: Sequence[str] = ()
    standing: Standing | None = None  # the verdict in a few words
    steps: Sequence[Step] = ()  # what to do next
    models: Table | None = None  # scores and costs of teacher and students
    card: Plot | None = None  # the verdict as one image for a slide

    @property
    def plots(self) -> list[Plot]:
        return [plot for section in self.sections for plot in (*section.plots, *section.small_plots)]

    @property
    def sentences(self) -> list[str]:
        """The sentences of the verdict; the first one is the answer."""
        return re.split(r"(?<=[^.][.!?]) (?=[A-Z])", self.verdict.replace(" %", "\N{NO-BREAK SPACE}%"))


def write(page: Page, file: Path) -> Path:
    """Writes a page to a file, whole or not at all.

    Raises:
        UserError: the file cannot be written.
    """
    content = render(page)
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        write_whole(file, content)
    except OSError as error:
        raise UserError(
            f"{file}: cannot be written: {error.strerror or error}; choose another place with --out"
        ) from None
    return file


def render(page: Page) -> str:
    """The page as HTML, self-contained."""
    environment = Environment(
        loader=PackageLoader("rdistill.report"),
        autoescape=select_autoescape(default=True),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    loader, plots = environment.loader, page.plots
    assert loader is not None
    style, script = (loader.get_source(environment, name)[0] for name in ("style.css", "page.js"))
    plots += [page.card] if page.card is not None else []
    figures = {plot.id: as_drawn(plot) for plot in plots}
    return environment.get_template("page.html.j2").render(
        page=page,
        sections=[section for section in page.sections if not section.empty],
        light=LIGHT,
        dark=DARK,
        font=FONT,
        style=style,
        script=script,
        plotly=_plotly() if plots else "",
        figures=packed({"themes": {"light": LIGHT, "dark": DARK}, "figures": figures}),
        version=rdistill.__version__,
        written=datetime.now().astimezone().strftime("%Y-%m-%d %H:%M %Z"),
    )


def packed(value: Any) -> str:
    """A value as gzipped JSON in base64: a third of the size, and no user's text in it can end the script element."""
    return _packed(json.dumps(value, separators=(",", ":"), allow_nan=False).encode())


def _packed(content: bytes) -> str:
    return base64.b64encode(gzip.compress(content, 9, mtime=0)).decode()


@functools.cache
def _plotly() -> str:
    from plotly.offline import get_plotlyjs

    return _packed(get_plotlyjs().encode())


def image_uri(file: Path) -> str:
    """An image file as a data: URI, in the size in which the page shows it."""
    from PIL import Image

    with Image.open(file) as opened:
        image = opened.convert("RGB")
    image.thumbnail((IMAGE_SIDE, IMAGE_SIDE))
    buffer = io.BytesIO()
    image.save(buffer, "WEBP", quality=86, method=4)
    return "data:image/webp;base64," + base64.b64encode(buffer.getvalue()).decode()


class _Figure(TypedDict):
    data: list[Trace]
    layout: Layout
    width: int  # the smallest width in pixels; 0 for any width


class Figure(_Figure, total=False):
    """A figure for plotly, with names in place of colours."""

    variants: dict[str, list[Trace]]  # name -> data that replaces `data`


def as_drawn(plot: Plot) -> Figure:
    """The plotly figure of a plot."""
    drawn: Figure = {
        "data": escaped(plot.data, _DATA_TEXTS),
        "layout": {**escaped(plot.layout, _LAYOUT_TEXTS), "height": plot.height},
        "width": plot.min_width,
    }
    if plot.variants:
        drawn["variants"] = {name: escaped(data, _DATA_TEXTS) for name, data in plot.variants.items()}
    return drawn


def escaped(value: Any, keys: Sequence[str], name: bool = False) -> Any:
    """A figure in which texts under the given keys are escaped, so that plotly does not read them as HTML."""
    if isinstance(value, Mapping):
        return {key: escaped(item, keys, name or key in keys) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [escaped(item, keys, name) for item in value]
    return as_text(value) if name and isinstance(value, str) else value

"""One HTML file with everything in it: styles, script, plotly.js, data and images. Opens from disk."""

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

IMAGE_SIDE = 360  # pixels of an image's longer side in the page; the files have more
# Texts that plotly would read as HTML, by the key of a figure they are found under.
_OF_DATA = ("x", "y", "text", "customdata", "name", "meta", "legendgroup")
_OF_A_LAYOUT = ("ticktext", "categoryarray")


@dataclass(frozen=True)
class Panel:
    """One image of a row."""

    label: str
    alt: str
    source: str  # a data: URI
    note: str = ""


@dataclass(frozen=True)
class Strip:
    """A validation image and what was drawn of it, in a row."""

    title: str
    panels: Sequence[Panel]


@dataclass
class Section:
    """A part of the page, reached from its navigation."""

    id: str
    title: str
    intro: str = ""
    tables: list[Table] = field(default_factory=list)
    plots: list[Plot] = field(default_factory=list)
    small_plots: list[Plot] = field(default_factory=list)  # side by side, under a title of their own
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
    """What a page says, in the order it says it."""

    title: str
    kind: str  # what it reports on
    verdict: str
    facts: Sequence[Fact]
    sections: Sequence[Section]
    warnings: Sequence[str] = ()
    standing: Standing | None = None  # the verdict in a few words
    steps: Sequence[Step] = ()  # what to do next
    models: Table | None = None  # teacher and students: what they reach and what they cost
    card: Plot | None = None  # the verdict as one image for a slide

    @property
    def plots(self) -> list[Plot]:
        return [plot for section in self.sections for plot in (*section.plots, *section.small_plots)]

    @property
    def sentences(self) -> list[str]:
        """The verdict, a sentence each; the first is the answer."""
        return re.split(r"(?<=[^.][.!?]) (?=[A-Z])", self.verdict.replace(" %", "\N{NO-BREAK SPACE}%"))


def write(page: Page, file: Path) -> Path:
    """Writes a page, whole or not at all.

    Raises:
        UserError: it cannot be written there.
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
    """JSON, gzipped, in base64: a third of its size, and no text of a user's can end the script it stands in."""
    return _packed(json.dumps(value, separators=(",", ":"), allow_nan=False).encode())


def _packed(content: bytes) -> str:
    return base64.b64encode(gzip.compress(content, 9, mtime=0)).decode()


@functools.cache
def _plotly() -> str:
    from plotly.offline import get_plotlyjs

    return _packed(get_plotlyjs().encode())


def image_uri(file: Path) -> str:
    """An image file as a data: URI, no larger than the page shows it."""
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
    width: int  # pixels that it needs; 0: as many as there are


class Figure(_Figure, total=False):
    """What Plotly draws, its colours still by name."""

    variants: dict[str, list[Trace]]  # name -> data in the place of `data`


def as_drawn(plot: Plot) -> Figure:
    """A plot as plotly takes it."""
    drawn: Figure = {
        "data": escaped(plot.data, _OF_DATA),
        "layout": {**escaped(plot.layout, _OF_A_LAYOUT), "height": plot.height},
        "width": plot.min_width,
    }
    if plot.variants:
        drawn["variants"] = {name: escaped(data, _OF_DATA) for name, data in plot.variants.items()}
    return drawn


def escaped(value: Any, keys: Sequence[str], name: bool = False) -> Any:
    """A figure whose texts under some keys are text to plotly, whatever they hold."""
    if isinstance(value, Mapping):
        return {key: escaped(item, keys, name or key in keys) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [escaped(item, keys, name) for item in value]
    return as_text(value) if name and isinstance(value, str) else value

"""A figure of the report: a plotly figure as plain dicts, with a summary in words and a table."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from rdistill.report.load import number
from rdistill.report.text import Table
from rdistill.report.theme import Layout, Trace, as_text
from rdistill.sweeps.study.records import TrialRecord

CURVE_POINTS = 60  # the largest number of points of one curve; more could not be distinguished


@dataclass(frozen=True)
class Plot:
    """One figure, with a sentence that describes it and a table of its numbers."""

    id: str
    title: str
    summary: str  # one sentence: the figure's text alternative
    data: list[Trace]
    layout: Layout
    table: Table
    height: int = 380  # pixels
    min_width: int = 0  # pixels; on narrower screens and on paper the figure is scaled down
    note: str = ""  # how to read the figure
    variants: Mapping[str, list[Trace]] = field(default_factory=dict)  # name -> data that replaces `data`
    chooses: str = ""  # the heading of the list of variants, such as `trial`


def curve(record: TrialRecord) -> list[tuple[int, float]]:
    """(iteration, mIoU) of a trial's validations that have a score."""
    return [
        (int(entry["iter"]), value)
        for entry in record.history
        if (value := number(entry.get("mIoU"))) is not None and number(entry.get("iter")) is not None
    ]


def thinned(items: Sequence[Any], max_items: int = CURVE_POINTS) -> list[Any]:
    """At most ``max_items`` of the items, evenly spread, including the first and the last."""
    if len(items) <= max_items:
        return list(items)
    return [items[round(index * (len(items) - 1) / (max_items - 1))] for index in range(max_items)]


def line(points_: Iterable[tuple[Any, Any]], name: str, colour: str, dash: str, markers: bool = True) -> Trace:
    kept = thinned(list(points_))
    return dict(
        type="scatter",
        mode="lines+markers" if markers and len(kept) <= 30 else "lines",
        name=name,
        x=[x for x, _ in kept],
        y=[y for _, y in kept],
        line=dict(color=colour, width=2.5, dash=dash),
        marker=dict(size=5, color=colour),
        hovertemplate=f"{plain(name)} at %{{x}}: %{{y:.4~g}}<extra></extra>",
    )


def zero_line(low: float, high: float, yref: str = "paper") -> Layout:
    """A vertical line at zero over the height of a figure; invisible if the axis does not include zero."""
    width = 1.5 if low <= 0 <= high else 0
    return dict(type="line", x0=0, x1=0, y0=0, y1=1, yref=yref, line=dict(color="$muted", width=width, dash="dot"))


def plain(name: str) -> str:
    """A name for a hover template, without the `%{...}` and the tags that plotly would read."""
    return as_text(name.replace("%", ""))

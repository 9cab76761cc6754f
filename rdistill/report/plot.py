"""A figure: what is drawn, what it says in words, and its table. Plotly's figures as plain dicts."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from rdistill.report.load import number
from rdistill.report.text import Table
from rdistill.report.theme import Layout, Trace, as_text
from rdistill.sweeps.study.records import TrialRecord

CURVE_POINTS = 60  # points of one curve; more would not be seen


@dataclass(frozen=True)
class Plot:
    """One figure: what is drawn, the sentence that says it, and the table that holds it."""

    id: str
    title: str
    summary: str  # one sentence: the figure's text alternative
    data: list[Trace]
    layout: Layout
    table: Table
    height: int = 380  # pixels
    min_width: int = 0  # pixels; on narrower screens and paper the figure is made smaller
    note: str = ""  # how to read it
    variants: Mapping[str, list[Trace]] = field(default_factory=dict)  # name -> data in the place of `data`
    chooses: str = ""  # what a variant's name is


def curve(record: TrialRecord) -> list[tuple[int, float]]:
    """(iteration, mIoU) of a trial's validations that have a score."""
    return [
        (int(entry["iter"]), value)
        for entry in record.history
        if (value := number(entry.get("mIoU"))) is not None and number(entry.get("iter")) is not None
    ]


def thinned(items: Sequence[Any], most: int = CURVE_POINTS) -> list[Any]:
    """``most`` of the items at most, evenly spread, the first and the last among them."""
    if len(items) <= most:
        return list(items)
    return [items[round(index * (len(items) - 1) / (most - 1))] for index in range(most)]


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
    """A line over the height of a figure at no difference; of no width where that is not on the axis."""
    width = 1.5 if low <= 0 <= high else 0
    return dict(type="line", x0=0, x1=0, y0=0, y1=1, yref=yref, line=dict(color="$muted", width=width, dash="dot"))


def plain(name: str) -> str:
    """A name inside a hover template: plotly reads %{...} and a few tags in it."""
    return as_text(name.replace("%", ""))

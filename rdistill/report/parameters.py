"""Figures of the trials' values and scores: parallel coordinates, and one figure for each parameter."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import mean
from typing import Any

from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

from rdistill.core.words import counted
from rdistill.report.load import Sweep, miou, number
from rdistill.report.plot import Layout, Plot, Trace, plain
from rdistill.report.study import TARGET, categories_of, distribution_of, scored
from rdistill.report.text import Column, Table, cell, points, short, show
from rdistill.report.theme import as_text, layout, log_ticks, percent_range, round_ticks
from rdistill.sweeps.study.records import TrialRecord

LONG = 12  # choices with more letters than this are drawn on the vertical axis
WIDE = 360  # width in pixels of such a figure, without the texts of the choices
LETTER = 7  # width of a letter in pixels
MARKERS = {"ran to its end": "circle", "stopped early": "x-thin-open", "best": "star"}  # Plotly's names


def parallel(sweep: Sweep) -> Plot | None:
    """Parallel coordinates: a line for each trial through its values and its score, with the best quarter in colour."""
    records = sorted(scored(sweep), key=lambda record: miou(record) or 0.0)
    axes = [axis for key in sweep.keys if (axis := _axis_of(sweep, key)) is not None]
    if len(records) < 2 or not axes:
        return None
    scores = [miou(record) or 0.0 for record in records]
    low, high = percent_range(scores)
    axes.append(_scale(TARGET, "", low, high, False))
    top, best = records[-max(1, len(records) // 4) :], sweep.chosen
    data = [_line(record, axes, is_best=record is best, is_top=record in top) for record in records]
    shapes = [
        dict(type="line", x0=index, x1=index, y0=0, y1=1, line=dict(color="$line", width=1))
        for index in range(len(axes))
    ]
    left = max(24, LETTER * max((len(text) for _, text in axes[0].ticks), default=0) - 30)
    figure = layout(
        xaxis=dict(
            tickvals=list(range(len(axes))),
            ticktext=[axis.name for axis in axes],
            range=[-0.35, len(axes) - 0.75],
            showgrid=False,
            showline=False,
            ticks="",
            side="top",
        ),
        yaxis=dict(range=[-0.04, 1.04], visible=False),
        annotations=_ticks(axes),
        shapes=shapes,
        margin=dict(l=left, r=16, t=36, b=8),
    )
    rows = [
        [cell(record.id), cell(miou(record), ".2f"), *[cell(record.values.get(axis.key)) for axis in axes[:-1]]]
        for record in records[::-1]
    ]
    columns = [Column("trial"), Column(TARGET, True), *[Column(axis.name, True, axis.key) for axis in axes[:-1]]]
    best = best if best in records else records[-1]
    chosen = ", ".join(f"{axis.name} {show(best.values.get(axis.key))}" for axis in axes[:-1])
    summary = (
        f"Each line is a trial, the best quarter in colour; the thick one is {best.id}, "
        f"{points(miou(best))} mIoU with {chosen}."
    )
    table = Table("Values and score of every trial, best first", columns, rows)
    return Plot(
        "parallel", "All parameters at once", summary, data, figure, table, height=440, min_width=150 * len(axes) + left
    )


def _line(record: TrialRecord, axes: Sequence[_Axis], *, is_best: bool, is_top: bool) -> Trace:
    """The line of a trial through its values on all axes, the last of which is the score's."""
    values = [*(record.values.get(axis.key) for axis in axes[:-1]), miou(record)]
    colour, width, opacity = (
        ("$best", 3.5 if is_best else 1.3, 1 if is_best else 0.7) if is_best or is_top else ("$other", 1, 0.35)
    )
    return dict(
        type="scatter",
        mode="lines",
        showlegend=False,
        x=list(range(len(axes))),
        opacity=opacity,
        y=[axis.place(value) for axis, value in zip(axes, values, strict=True)],
        line=dict(color=colour, width=width),
        text=[f"{axis.name} {show(value)}" for axis, value in zip(axes, values, strict=True)],
        hovertemplate=f"{plain(record.id)}, %{{text}}<extra></extra>",
        connectgaps=False,
    )


def _ticks(axes: Sequence[_Axis]) -> list[Layout]:
    """Plotly's annotations with the ticks of all axes."""
    return [
        dict(
            x=index,
            y=place,
            text=as_text(text),
            showarrow=False,
            xanchor="right",
            xshift=-5,
            bgcolor="$paper",
            borderpad=1,
            font=dict(size=11, color="$muted"),
        )
        for index, axis in enumerate(axes)
        for place, text in axis.ticks
    ]


@dataclass(frozen=True)
class _Axis:
    """One axis of the parallel coordinates."""

    name: str
    key: str
    place: Callable[[Any], float | None]  # value -> position from 0 to 1
    ticks: Sequence[tuple[float, str]]  # (position, text) of each tick


def _axis_of(sweep: Sweep, key: str) -> _Axis | None:
    distribution, name = distribution_of(sweep, key), short(key, sweep.keys)
    if isinstance(distribution, CategoricalDistribution):
        names = categories_of(sweep, key, distribution)
        places = {text: (index + 0.5) / len(names) for index, text in enumerate(names)}
        ticks = [(place, text) for text, place in places.items()]
        return _Axis(name, key, lambda value: places.get(show(value)), ticks)
    if isinstance(distribution, (FloatDistribution, IntDistribution)):
        return _scale(name, key, distribution.low, distribution.high, distribution.log)
    return None


def _scale(name: str, key: str, low: float, high: float, log: bool) -> _Axis:
    """An axis of numbers, with ticks at round numbers; a logarithmic axis has ticks at powers of ten and its ends."""

    def place(value: Any) -> float | None:
        if number(value) is None:
            return None
        if log:
            return (math.log(value) - math.log(low)) / (math.log(high / low) or 1)
        return (value - low) / (high - low or 1)

    if log:
        powers = [10.0**power for power in range(math.ceil(math.log10(low)), math.floor(math.log10(high)) + 1)]
        ticks = sorted({low, high, *(power for power in powers if min(power / low, high / power) > 1.3)})
    else:
        ticks = round_ticks(low, high)
    return _Axis(name, key, place, [(place(tick) or 0.0, show(float(f"{tick:.3g}"))) for tick in ticks])


def slices(sweep: Sweep) -> list[Plot]:
    """A figure for each parameter, with every trial's score over its value."""
    return [plot for key in sweep.keys if (plot := _slice(sweep, key)) is not None]


def _slice(sweep: Sweep, key: str) -> Plot | None:
    name = short(key, sweep.keys)
    records = [record for record in scored(sweep) if key in record.values]
    distribution = distribution_of(sweep, key)
    if not records or distribution is None:
        return None
    categories = isinstance(distribution, CategoricalDistribution)
    others = [record for record in records if record is not sweep.chosen]
    groups = {
        "ran to its end": [record for record in others if record.status != "stopped"],
        "stopped early": [record for record in others if record.status == "stopped"],
        "best": [record for record in records if record is sweep.chosen],
    }
    data = [_scatter(label, group, key, categories=categories) for label, group in groups.items() if group]
    names = categories_of(sweep, key, distribution) if isinstance(distribution, CategoricalDistribution) else []
    long = max(map(len, names), default=0) > LONG
    if long:  # long categories are on the vertical axis, so that each has a line of its own
        data = [_horizontal(trace) for trace in data]
    axis = _axis_of_values(name, distribution, names)
    reach = percent_range([miou(record) for record in scored(sweep)])  # the same for all parameters
    scores = dict(title="best mIoU, %", range=reach)
    if long:
        figure = layout(xaxis=scores, yaxis={**axis, "title": ""}, margin=dict(t=12, r=12))
    else:
        figure = layout(xaxis=axis, yaxis=scores, margin=dict(t=12, r=12))
    ordered = sorted(records, key=lambda record: -(miou(record) or 0))
    rows = [
        [cell(record.id), cell(record.values[key]), cell(miou(record), ".2f"), cell(record.status)]
        for record in ordered
    ]
    columns = [
        Column("trial"),
        Column(name, numeric=not categories, title=key),
        Column("mIoU", numeric=True),
        Column("status"),
    ]
    summary = _parameter_summary(ordered, key, categories)
    table = Table(f"Trials by {name}, best first", columns, rows)
    height, width = (90 + 26 * len(names), WIDE + LETTER * max(map(len, names))) if long else (280, 0)
    return Plot(f"slice-{name}", name, summary, data, figure, table, height=height, min_width=width)


def _scatter(label: str, records: Sequence[TrialRecord], key: str, *, categories: bool) -> Trace:
    """The scores of a group of trials, named in ``MARKERS``, over their values of one parameter."""
    colour, size = ("$best", 13) if label == "best" else ("$other", 7)
    trace: Trace = dict(
        name=label,
        showlegend=False,
        x=[show(record.values[key]) if categories else record.values[key] for record in records],
        y=[miou(record) for record in records],
        text=[record.id for record in records],
        marker=dict(symbol=MARKERS[label], color=colour, size=size, opacity=0.8, line=dict(width=1.5, color=colour)),
        hovertemplate="%{text}: %{x}, %{y:.2f}<extra></extra>",
    )
    if categories and label != "best":  # an invisible box plot draws points of one category side by side
        clear = "rgba(0,0,0,0)"
        trace.update(
            type="box",
            boxpoints="all",
            jitter=0.7,
            pointpos=0,
            line=dict(color=clear),
            fillcolor=clear,
            hoveron="points",
        )
    else:
        trace.update(type="scatter", mode="markers", cliponaxis=False)
    return trace


def _axis_of_values(name: str, distribution: BaseDistribution, categories: Sequence[str]) -> Layout:
    """The axis of a parameter's values, as long as the range of the search."""
    if isinstance(distribution, CategoricalDistribution):
        return dict(title=name, type="category", categoryorder="array", categoryarray=categories, showgrid=False)
    axis: Layout = dict(title=name)
    if isinstance(distribution, (FloatDistribution, IntDistribution)) and distribution.high > distribution.low:
        ends = [float(distribution.low), float(distribution.high)]
        if distribution.log:
            axis.update(type="log", title=f"{name}, log scale", **log_ticks(*ends))
            ends = [math.log10(end) for end in ends]
        axis["range"] = ends
    return axis


def _horizontal(trace: Trace) -> Trace:
    """A trace with its axes exchanged."""
    turned = {**trace, "x": trace["y"], "y": trace["x"], "hovertemplate": "%{text}: %{y}, %{x:.2f}<extra></extra>"}
    return {**turned, "orientation": "h"} if trace["type"] == "box" else turned


def _parameter_summary(ordered: Sequence[TrialRecord], key: str, categories: bool) -> str:
    """A sentence about a parameter: its best category, or the range of the best quarter of the trials."""
    if categories:
        groups: defaultdict[str, list[float]] = defaultdict(list)
        for record in ordered:
            groups[show(record.values[key])].append(miou(record) or 0.0)
        first = max(groups, key=lambda text: mean(groups[text]))
        scores = groups[first]
        return f"{first} has the highest mean, {points(mean(scores))} mIoU over {counted(len(scores), 'trial')}."
    top = [float(record.values[key]) for record in ordered[: max(1, len(ordered) // 4)]]
    values = f"at {show(top[0])}" if len(top) == 1 else f"from {show(min(top))} to {show(max(top))}"
    return f"The best {'quarter of ' if len(top) > 1 else 'of '}{counted(len(ordered), 'trial')} lies {values}."

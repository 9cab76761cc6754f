"""Figures for several objectives: mIoU against each cost of a student, with the Pareto front."""

from __future__ import annotations

from rdistill.core.words import counted
from rdistill.report.load import Sweep, miou, number
from rdistill.report.plot import Plot, plain
from rdistill.report.text import Column, Table, cell, points
from rdistill.report.theme import Trace, layout, percent_range
from rdistill.sweeps.study.records import TrialRecord

TITLES = {"flops": "FLOPs of one image", "params": "parameters", "latency": "latency of one image, ms"}


def fronts(sweep: Sweep) -> list[Plot]:
    """A figure for each objective besides mIoU; none for a sweep with mIoU alone."""
    others = [name for name in sweep.summary.get("objectives") or [] if name != "mIoU"]
    return [plot for name in others if (plot := _front(sweep, str(name))) is not None]


def _front(sweep: Sweep, name: str) -> Plot | None:
    measured = [
        (record, cost, score)
        for record in sweep.records
        if (cost := number(record.objectives.get(name))) is not None and (score := miou(record)) is not None
    ]
    if not measured:
        return None
    measured.sort(key=lambda point: point[1])
    best = set(sweep.summary.get("pareto") or [])
    title = TITLES.get(name, name)
    front = [point for point in measured if point[0].id in best]
    data = [
        _points(
            "trials",
            [point for point in measured if point not in front and not point[0].is_baseline],
            "$other",
            "circle",
            7,
        ),
        _points("students alone", [point for point in measured if point[0].is_baseline], "$baseline", "square", 9),
        {**_points("Pareto front", front, "$best", "star", 12), "mode": "lines+markers"},
    ]
    data[-1]["line"] = dict(color="$best", width=1.5, shape="hv")
    summary = (
        f"mIoU against {title}: {counted(len(front), 'trial')} of {len(measured)} "
        f"{'is' if len(front) == 1 else 'are'} on the Pareto front, where no other trial is better in one objective "
        "and as good in all."
    )
    columns = [Column("trial"), Column(title, numeric=True), Column("mIoU", numeric=True), Column("on the front")]
    rows = [
        [cell(record.id), cell(cost, ".4g"), cell(points(score)), cell(record.id in best)]
        for record, cost, score in measured
    ]
    figure = layout(
        xaxis=dict(title=title, rangemode="nonnegative"),
        yaxis=dict(title="mIoU, %", range=percent_range([score for _, _, score in measured])),
    )
    table = Table(f"mIoU and {title} of each trial", columns, rows)
    return Plot(
        f"pareto-{name}", f"mIoU against {title}", summary, [trace for trace in data if trace["x"]], figure, table
    )


def _points(name: str, measured: list[tuple[TrialRecord, float, float]], colour: str, symbol: str, size: int) -> Trace:
    return dict(
        type="scatter",
        mode="markers",
        name=name,
        x=[cost for _, cost, _ in measured],
        y=[score for _, _, score in measured],
        text=[plain(record.id) for record, _, _ in measured],
        marker=dict(color=colour, symbol=symbol, size=size),
        hovertemplate="%{text}: mIoU %{y:.2f}, %{x:.4~g}<extra></extra>",
    )

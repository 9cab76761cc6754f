"""Learning curves of all trials of a sweep, or of one run."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rdistill.core.words import counted
from rdistill.report.load import Run, Sweep, miou, number
from rdistill.report.plot import Plot, Trace, curve, line, thinned
from rdistill.report.text import Column, Table, cell, points
from rdistill.report.theme import layout, percent_range
from rdistill.sweeps.study.records import TrialRecord

VALIDATIONS_SHOWN = 8  # columns of the table


def learning_curves(sweep: Sweep) -> Plot | None:
    """Validation mIoU of every trial over its iterations; trials that ended early are marked."""
    scored = [record for record in sweep.records if curve(record)]
    if not scored:
        return None
    best, baseline = sweep.chosen, sweep.baseline
    special = {record.id for record in (best, baseline) if record is not None}
    others = [record for record in scored if record.id not in special]
    alone = {record.id for record in sweep.baselines}
    data = [
        _many_lines([record for record in others if record.id not in alone], "other trials", "$other"),
        _many_lines([record for record in others if record.id in alone], "other baselines", "$baseline"),
    ]
    data = [trace for trace in data if trace["x"]]
    for status, symbol, colour in (("stopped", "x-thin-open", "$muted"), ("failed", "diamond-open", "$bad")):
        ended = [record for record in scored if record.status == status]
        if ended:
            last = [curve(record)[-1] for record in ended]
            data.append(
                dict(
                    type="scatter",
                    mode="markers",
                    name=f"{status} here",
                    x=[point[0] for point in last],
                    y=[point[1] for point in last],
                    text=[record.id for record in ended],
                    marker=dict(symbol=symbol, size=8, color=colour, line=dict(width=1.5, color=colour)),
                    hovertemplate="%{text}: " + status + " at %{x}, mIoU %{y:.2f}<extra></extra>",
                )
            )
    for record, name, colour, dash in ((baseline, "baseline", "$baseline", "dash"), (best, "best", "$best", "solid")):
        if record is not None:
            label = name if record.id == name else f"{name}, {record.id}"
            data.append(line(curve(record), label, colour, dash))
    iterations = sweep.iterations or max(curve(record)[-1][0] for record in scored)
    shapes = _teacherline(sweep.teacher_mIoU, data, iterations)
    stopped = sum(record.status == "stopped" for record in scored)
    summary = f"{counted(len(scored), 'trial')} with a score"
    if best is not None:
        subject = f"{best.id}, the best on fresh seeds," if sweep.winner else f"the best, {best.id},"
        summary += f"; {subject} reaches {points(miou(best))} mIoU at iteration {best.best.get('iter')}"
    if baseline is not None:
        summary += f", the baseline {points(miou(baseline))}"
    summary += (
        f"; {stopped} {'was' if stopped == 1 else 'were'} stopped early." if stopped else "; none was stopped early."
    )
    reached = [*(score for record in scored for _, score in curve(record)), sweep.teacher_mIoU]
    figure = layout(
        xaxis=dict(title="iteration", rangemode="tozero"),
        yaxis=dict(title="validation mIoU, %", range=percent_range(reached)),
    )
    return Plot("curves", "Learning curves", summary, data + shapes, figure, _curve_table(scored), height=420)


def _many_lines(records: Sequence[TrialRecord], name: str, colour: str) -> Trace:
    """Many thin lines as one trace with gaps, so that a page with 200 trials stays fast."""
    x: list[Any] = []
    y: list[Any] = []
    text: list[str] = []
    for record in records:
        kept = thinned(curve(record))
        x += [*(point[0] for point in kept), None]
        y += [*(point[1] for point in kept), None]
        text += [record.id] * (len(kept) + 1)
    return dict(
        type="scatter",
        mode="lines",
        name=name,
        x=x,
        y=y,
        text=text,
        connectgaps=False,
        opacity=0.6 if len(records) < 50 else 0.35,
        line=dict(color=colour, width=1),
        hovertemplate="%{text} at %{x}: %{y:.2f}<extra></extra>",
    )


def _teacherline(score: float | None, data: list[Trace], iterations: int) -> list[Trace]:
    """The teacher's score as a horizontal line; no line if it is not known."""
    if score is None:
        return []
    return [
        dict(
            type="scatter",
            mode="lines",
            name="teacher",
            x=[0, iterations],
            y=[score, score],
            line=dict(color="$teacher", width=1.5, dash="dot"),
            hovertemplate="teacher %{y:.2f}<extra></extra>",
        )
    ]


def _curve_table(records: Sequence[TrialRecord]) -> Table:
    steps = sorted({step for record in records for step, _ in curve(record)})
    shown = thinned(steps, VALIDATIONS_SHOWN)
    ordered = sorted(records, key=lambda record: -(miou(record) or 0))
    rows = []
    for record in ordered:
        scores = dict(curve(record))
        rows.append([cell(record.id), cell(record.status), *[cell(scores.get(step), ".2f") for step in shown]])
    columns = [Column("trial"), Column("status"), *[Column(str(step), numeric=True) for step in shown]]
    return Table("Validation mIoU by iteration, %, best trial first", columns, rows)


def run_curves(run: Run) -> list[Plot]:
    """A single run: its validations, and its losses as mmengine logged them."""
    plots = []
    scores = [(entry["step"], value) for entry in run.validations if (value := number(entry["mIoU"])) is not None]
    if scores:
        top = max(scores, key=lambda score: score[1])
        table = Table(
            "Validations",
            [Column("iteration", True), Column("mIoU", True)],
            [[cell(a), cell(b, ".2f")] for a, b in scores],
        )
        figure = layout(
            xaxis=dict(title="iteration", rangemode="tozero"),
            yaxis=dict(title="validation mIoU, %", range=percent_range([value for _, value in scores])),
        )
        summary = (
            f"Validation mIoU over {counted(len(scores), 'validation')}; "
            f"highest {points(top[1])} at iteration {top[0]}."
        )
        plots.append(Plot("curve", "Validation", summary, [line(scores, "mIoU", "$best", "solid")], figure, table))
    names = list(dict.fromkeys(key for entry in run.steps for key in entry if "loss" in key))
    if names:
        kept = thinned(run.steps)
        data = [
            line(
                [(entry["step"], number(entry.get(name))) for entry in kept],
                name,
                f"$series{index % 8}",
                "solid",
                markers=False,
            )
            for index, name in enumerate(names)
        ]
        table = Table(
            "Losses",
            [Column("iteration", True), *[Column(name, True) for name in names]],
            [[cell(entry["step"]), *[cell(number(entry.get(name))) for name in names]] for entry in thinned(kept, 20)],
        )
        figure = layout(xaxis=dict(title="iteration"), yaxis=dict(title="loss, as it is added up", type="log"))
        plots.append(
            Plot(
                "losses",
                "Losses",
                f"{counted(len(names), 'loss')} over {run.steps[-1]['step']} iterations.",
                data,
                figure,
                table,
            )
        )
    return plots

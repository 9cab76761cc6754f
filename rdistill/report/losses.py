"""A figure of each loss over a trial's iterations, raw and weighted."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rdistill.report.load import Sweep, is_baseline, miou, number
from rdistill.report.plot import Layout, Plot, Trace, thinned
from rdistill.report.text import Column, Table, cell
from rdistill.report.theme import SERIES, layout, log_ticks
from rdistill.sweeps.study.records import WEIGHT, TrialRecord

RAW = "raw/"  # prefix of a loss before its weight, in a record
DISTILL = "distill.loss_"
TAIL = 0.2  # "at the end of a trial" is the mean over this last fraction of its entries
POINTS = 50  # points of one curve, few enough for a page with 200 trials
SHARE_THAT_HIDES = 0.02  # a loss with less than this fraction of the sum has hardly any effect


def loss_sizes(sweep: Sweep) -> Plot | None:
    """A figure of each loss of one trial over time, with a list to choose another trial."""
    records = [record for record in (*sweep.trials, *sweep.baselines) if record.losses]
    if not records:
        return None
    records.sort(key=lambda record: (record is not sweep.chosen, is_baseline(record), -(miou(record) or 0)))
    names = list(dict.fromkeys(name for record in records for name in _names(record.losses)))
    colours = {name: f"$series{index % SERIES}" for index, name in enumerate(names)}
    variants = {_label(record): _traces(record, colours) for record in records}
    first = next(iter(variants))
    figure = layout(
        xaxis=dict(title="iteration", anchor="y2", rangemode="tozero"),
        yaxis=dict(title="raw", domain=[0.55, 1.0], **_logarithmic(variants, "y")),
        yaxis2=dict(title="weighted", domain=[0.0, 0.45], **_logarithmic(variants, "y2")),
        margin=dict(l=64),
    )
    shares = {record.id: _shares(record) for record in records}
    columns = [Column("trial"), *[Column(name, numeric=True) for name in names]]
    rows = [[cell(record.id), *[cell(shares[record.id].get(name), ".1%") for name in names]] for record in records]
    table = Table(f"Share of each loss in the sum, mean over the last {TAIL:.0%} of a trial", columns, rows)
    return Plot(
        "losses",
        "Size of each loss",
        _summary(records[0], shares[records[0].id]),
        variants[first],
        figure,
        table,
        height=520,
        variants=variants,
        chooses="trial",
        note=(
            "Above, what a loss returns; below, what is added up: times its weight and its schedule. "
            "A loss far below the others has no say, whatever its name."
        ),
    )


def weighted(entry: Mapping[str, Any]) -> dict[str, float | None]:
    """Loss name -> weighted value. The task's losses keep the names of their keys."""
    return {_name(key): number(value) for key, value in entry.items() if _is_loss(key)}


def raw(entry: Mapping[str, Any], task_weight: float) -> dict[str, float | None]:
    """Loss name -> value before its weight."""
    sizes = {}
    for name, value in weighted(entry).items():
        if RAW + name in entry:
            sizes[name] = number(entry[RAW + name])
        else:
            sizes[name] = value / task_weight if value is not None and task_weight else value
    return sizes


def _is_loss(key: str) -> bool:
    return "loss" in key and key != "loss" and not key.startswith((RAW, WEIGHT))


def _name(key: str) -> str:
    return (
        key.removeprefix(DISTILL) if key.startswith(DISTILL) else key.replace("decode.loss_", "").replace("loss_", "")
    )


def _names(losses: list[dict[str, float]]) -> list[str]:
    return list(dict.fromkeys(name for entry in losses[:3] for name in weighted(entry)))


def _label(record: TrialRecord) -> str:
    score = miou(record)
    return record.id if score is None else f"{record.id} (mIoU {score:.2f})"


def _traces(record: TrialRecord, colours: Mapping[str, str]) -> list[Trace]:
    kept = thinned(record.losses, POINTS)
    steps = [entry.get("iter") for entry in kept]
    task_weight = number(record.effective.get("distill.task_weight"))
    raws = [raw(entry, 1.0 if task_weight is None else task_weight) for entry in kept]
    parts = [weighted(entry) for entry in kept]
    traces = []
    for name in _names(record.losses):
        for sizes, axis in ((raws, "y"), (parts, "y2")):
            kind = "raw" if axis == "y" else "weighted"
            traces.append(
                dict(
                    type="scatter",
                    mode="lines",
                    name=name,
                    legendgroup=name,
                    showlegend=axis == "y",
                    xaxis="x",
                    yaxis=axis,
                    x=steps,
                    y=[_positive(entry.get(name)) for entry in sizes],
                    line=dict(color=colours[name], width=1.8),
                    meta=[name, kind],
                    hovertemplate="%{meta[0]}, %{meta[1]}, at %{x}: %{y:.3~g}<extra></extra>",
                )
            )
    return traces


def _logarithmic(variants: Mapping[str, list[Trace]], axis: str) -> Layout:
    sizes = [
        value
        for traces in variants.values()
        for trace in traces
        if trace["yaxis"] == axis
        for value in trace["y"]
        if value
    ]
    return dict(type="log", **(log_ticks(min(sizes), max(sizes)) if sizes else {}))


def _positive(value: float | None) -> float | None:
    """The value with four digits; None, a gap on the logarithmic scale, for 0 (a schedule that has not started)."""
    return float(f"{value:.4g}") if value is not None and value > 0 else None


def _shares(record: TrialRecord) -> dict[str, float]:
    """Each loss as a fraction of the sum at the end of a trial."""
    tail = record.losses[-max(1, round(len(record.losses) * TAIL)) :]
    sums: dict[str, float] = {}
    for entry in tail:
        for name, value in weighted(entry).items():
            sums[name] = sums.get(name, 0.0) + abs(value or 0.0)
    total = sum(sums.values())
    return {name: value / total for name, value in sums.items()} if total else {}


def _summary(record: TrialRecord, shares: Mapping[str, float]) -> str:
    if not shares:
        return f"{record.id}: no finite loss is recorded."
    parts = ", ".join(f"{name} {share:.0%}" for name, share in sorted(shares.items(), key=lambda item: -item[1]))
    text = f"At the end of {record.id} the sum consists of {parts}."
    silent = [name for name, share in shares.items() if share < SHARE_THAT_HIDES]
    if silent and len(shares) > 1:
        counts = "counts" if len(silent) == 1 else "count"
        text += f" {', '.join(silent)} hardly {counts}: less than {SHARE_THAT_HIDES:.0%}."
    return text

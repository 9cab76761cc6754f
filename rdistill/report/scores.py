"""Figures of the scores: of each class, of each image, and the confirmed differences with their intervals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from statistics import median
from typing import Any

from rdistill.core.words import counted
from rdistill.report.load import Sweep, iou, mapping, number
from rdistill.report.plot import Plot, Trace, plain, zero_line
from rdistill.report.standing import colour_of, decided
from rdistill.report.text import Column, Table, cell, points, signed
from rdistill.report.theme import layout, percent_range, round_range, round_step
from rdistill.schemas.pictures import Pictures
from rdistill.schemas.summary import Arm, Difference

MAX_GAP = 100.0  # the largest possible difference of two scores in percent
SHOWS = {"better": "better", "worse": "worse", "open": "not decided", "futile": "not decided, futile", None: ""}


def per_class(sweep: Sweep) -> Plot | None:
    """IoU of every class for teacher, baseline and best; means of the confirmation if there was one."""
    first = sweep.winner
    series: list[tuple[str, str, str, dict[str, float | None], dict[str, float | None]]] = []
    teacher = iou(mapping(sweep.summary.get("teacher")))
    if teacher:
        series.append(("teacher", "$teacher", "diamond", teacher, {}))
    if first:
        base = sweep.confirmed_baseline
        series.append(("baseline, mean", "$baseline", "square", *_mean_and_sd(base)))
        series.append((f"{first.get('id', 'best')}, mean", "$best", "circle", *_mean_and_sd(mapping(first))))
    else:
        for record, name, colour, symbol in (
            (sweep.baseline, "baseline", "$baseline", "square"),
            (sweep.chosen, "best", "$best", "circle"),
        ):
            if record is not None and iou(record.best):
                label = name if record.id == name else f"{name}, {record.id}"
                series.append((label, colour, symbol, iou(record.best), {}))
    classes = list(dict.fromkeys(name for entry in series for name in entry[3]))
    if not classes:
        return None
    data = []
    for name, colour, symbol, values, spread in series:
        trace: Trace = dict(
            type="scatter",
            mode="markers",
            name=name,
            x=[values.get(class_name) for class_name in classes],
            y=classes,
            marker=dict(color=colour, symbol=symbol, size=10),
            hovertemplate="%{y}: %{x:.2f}<extra>" + plain(name) + "</extra>",
        )
        if any(spread.values()):
            above, below = _within_percent(values, spread, classes)
            trace["error_x"] = dict(
                type="data", symmetric=False, array=above, arrayminus=below, color=colour, thickness=1.5
            )
        data.append(trace)
    columns = [Column("class"), *[Column(entry[0], numeric=True) for entry in series]]
    rows = [[cell(name), *[cell(entry[3].get(name), ".2f") for entry in series]] for name in classes]
    whose = "mean over the confirmation's seeds, bars one standard deviation" if first else "one seed each, searched"
    summary = f"IoU of {counted(len(classes), 'class')}: {whose}."
    if first:
        summary += _largest_difference(mapping(first))
    elif len(series) > 1:
        last: Any = series[-1][3]
        before: Any = series[-2][3]
        gains = {
            class_name: last[class_name] - before[class_name]
            for class_name in classes
            if _both(last.get(class_name), before.get(class_name))
        }
        if gains:
            largest = max(gains, key=lambda class_name: abs(gains[class_name]))
            summary += f" The largest difference to {series[-2][0]} is in {largest}: {signed(gains[largest])}."
    ends = [
        value + sign * (spread.get(name) or 0.0)
        for _, _, _, values, spread in series
        for name, value in values.items()
        if value is not None
        for sign in (-1, 1)
    ]
    figure = layout(
        xaxis=dict(title="IoU, %", range=percent_range(ends)),
        yaxis=dict(range=[len(classes) - 0.4, -0.6], type="category", showline=False, ticks="", griddash="dot"),
    )
    height = 130 + 34 * len(classes)
    return Plot("classes", "IoU of each class", summary, data, figure, Table(summary, columns, rows), height=height)


@dataclass(frozen=True)
class DifferenceRow:
    """A confirmed difference to the student alone."""

    label: str
    gap: Difference
    by_seed: Mapping[str, float] = field(default_factory=dict)  # seed -> difference of the two runs on it
    of: str = ""  # id of the configuration
    kind: str = ""  # 'equal iterations' or 'equal cost'

    def named(self, label: str) -> DifferenceRow:
        return replace(self, label=label)

    @property
    def ends(self) -> tuple[float, float, float]:
        """Low, mean and high; without an interval all three are the mean."""
        mean = number(self.gap.get("mean")) or 0.0
        low, high = number(self.gap.get("low")), number(self.gap.get("high"))
        return (
            (mean if low is None else max(low, -MAX_GAP)),
            mean,
            (mean if high is None else min(high, MAX_GAP)),
        )


def difference_rows(sweep: Sweep, prefix: str = "") -> list[DifferenceRow]:
    """The differences of every configuration to the baselines at equal iterations and at equal cost."""
    rows: list[DifferenceRow] = []
    for arm in sweep.confirmed.get("configurations", []):
        name, cost = str(arm.get("id")), mapping(arm.get("equal_cost"))
        for kind, alone, gap in (
            ("equal iterations", sweep.confirmed_baseline, mapping(arm.get("difference"))),
            ("equal cost", cost, mapping(cost.get("difference"))),
        ):
            if number(gap.get("mean")) is not None:
                label = prefix + name + (", equal cost" if kind == "equal cost" else "")
                rows.append(DifferenceRow(label, gap, _by_seed(arm, alone), name, kind))
    return rows


def _by_seed(arm: Arm, alone: Arm) -> dict[str, float]:
    """Seed -> difference, for the seeds on which both sides left one class."""
    stuck = {str(seed) for side in (arm, alone) for seed in side.get("never_trained") or []}
    scores, others = mapping(arm.get("scores")), mapping(alone.get("scores"))
    pairs = {seed: (number(scores[seed]), number(others.get(seed))) for seed in scores if seed not in stuck}
    return {seed: score - base for seed, (score, base) in pairs.items() if score is not None and base is not None}


def difference_range(rows: Sequence[DifferenceRow]) -> list[float]:
    """The ends of an axis that shows all differences, intervals, seeds and zero."""
    return round_range(
        [0.0, *(value for row in rows for value in (*row.ends, *row.by_seed.values()))], -MAX_GAP, MAX_GAP
    )


def difference_traces(rows: Sequence[DifferenceRow]) -> list[Trace]:
    """A square with its interval for each difference, in the colour of its decision, and a ring for each seed."""
    data: list[Trace] = []
    for row in rows:
        low, mean, high = row.ends
        colour = f"${colour_of(row.gap)}"
        data.append(
            dict(
                type="scatter",
                mode="markers",
                x=[mean],
                y=[row.label],
                showlegend=False,
                error_x=dict(
                    type="data",
                    symmetric=False,
                    array=[high - mean],
                    arrayminus=[mean - low],
                    color=colour,
                    thickness=2,
                    width=6,
                ),
                marker=dict(symbol="square", size=10, color=colour),
                hovertemplate="%{y}: %{x:+.2f}<extra></extra>",
            )
        )
    seeds = [(row.label, seed, gap) for row in rows for seed, gap in row.by_seed.items()]
    if seeds:
        data.append(
            dict(
                type="scatter",
                mode="markers",
                name="a seed",
                showlegend=False,
                x=[gap for _, _, gap in seeds],
                y=[label for label, _, _ in seeds],
                text=[f"seed {seed}" for _, seed, _ in seeds],
                marker=dict(symbol="circle-open", size=7, color="$ink", line=dict(width=1.2), opacity=0.8),
                hovertemplate="%{y}, %{text}: %{x:+.2f}<extra></extra>",
            )
        )
    return data


def forest(rows: Sequence[DifferenceRow], *, ident: str = "confirmed") -> Plot | None:
    """The forest plot: confirmed differences with their 95 % intervals, and a ring for each seed."""
    if not rows:
        return None
    low, high = difference_range(rows)
    figure = layout(
        xaxis=dict(title="difference in mIoU, points", range=[low, high]),
        yaxis=dict(range=[len(rows) - 0.4, -0.6], type="category", showline=False, ticks=""),
        shapes=[zero_line(low, high)],
        margin=dict(t=16),
    )
    seeds = list(dict.fromkeys(seed for row in rows for seed in row.by_seed))
    columns = [
        Column("configuration"),
        Column("difference", True, rank=0),
        *[Column(name, True) for name in ("from", "to")],
        Column("p", True, rank=2),
        Column("p adjusted", True),
        Column("shows"),
        *[Column(f"seed {seed}", True, rank=3) for seed in seeds],
    ]
    table = Table(
        "Differences to the baseline, with 95 % intervals and by seed",
        columns,
        [
            [
                cell(row.label),
                *[cell(signed(number(row.gap.get(key)))) for key in ("mean", "low", "high")],
                *[cell(number(row.gap.get(key)), ".3g") for key in ("p", "p_adjusted")],
                cell(SHOWS[decided(row.gap)]),
                *[cell(signed(row.by_seed.get(seed))) for seed in seeds],
            ]
            for row in rows
        ],
    )
    better = sum(decided(row.gap) == "better" for row in rows)
    first = rows[0]
    count = f"{better or 'None'} of {counted(len(rows), 'difference')} {'are' if better > 1 else 'is'}"
    summary = f"{count} shown to be above zero; {first.label} differs by {signed(first.ends[1])} points"
    if first.by_seed:
        above = sum(gap > 0 for gap in first.by_seed.values())
        summary += f", and is above zero on {above} of {counted(len(first.by_seed), 'seed')}"
    note = "Square: the mean, with its 95 % interval. Ring: one seed, both of its runs." if seeds else ""
    title = "Confirmed differences to the baseline"
    height = 120 + 40 * len(rows)
    return Plot(
        ident, title, f"{summary}.", data=difference_traces(rows), layout=figure, table=table, height=height, note=note
    )


def _within_percent(
    values: Mapping[str, float | None], spread: Mapping[str, float | None], names: Sequence[str]
) -> tuple[list[float], list[float]]:
    """Lengths of the bars above and below each value, cut off at 0 and 100 %."""
    above, below = [], []
    for name in names:
        value, deviation = values.get(name) or 0.0, spread.get(name) or 0.0
        above.append(min(deviation, 100.0 - value))
        below.append(min(deviation, value))
    return above, below


def per_image(images: Pictures) -> Plot | None:
    """A figure of each validation image's mIoU by the baseline and by the best student."""
    entries = [mapping(entry) for entry in images.get("per_image") or []]
    both, x, y = [], list[float](), list[float]()
    for entry in entries:
        alone, best = number(entry.get("baseline")), number(entry.get("best"))
        if alone is not None and best is not None:
            both.append(entry)
            x.append(alone)
            y.append(best)
    if len(both) < 2:
        return None
    better = sum(best > alone for best, alone in zip(y, x, strict=True))
    ends = percent_range([*x, *y])
    low, high = ends
    data = [
        dict(
            type="scatter",
            mode="lines",
            x=[low, high],
            y=[low, high],
            name="equal",
            line=dict(color="$faint", dash="dot"),
            hoverinfo="skip",
        ),
        dict(
            type="scatter",
            mode="markers",
            name="an image",
            x=x,
            y=y,
            text=[str(entry.get("name")) for entry in both],
            marker=dict(color="$best", size=7, opacity=0.7),
            hovertemplate="%{text}<br>baseline %{x:.1f}, best %{y:.1f}<extra></extra>",
        ),
    ]
    ids = [str(images.get(key) or key) for key in ("baseline", "best")]
    # Both axes have the same scale, so that the line of equal scores is at 45 degrees.
    step = round_step(low, high, 5)
    figure = layout(
        xaxis=dict(title=f"mIoU of the image, {ids[0]}, %", range=ends, dtick=step, constrain="domain"),
        yaxis=dict(
            title=f"mIoU of the image, {ids[1]}, %", range=ends, dtick=step, scaleanchor="x", constrain="domain"
        ),
    )
    summary = (
        f"{ids[1]} is better than {ids[0]} on {better} of {len(both)} validation images; "
        f"the median image has {points(median(y))}."
    )
    columns = [Column("image"), *[Column(name, numeric=True) for name in ("teacher", "baseline", "best")]]
    rows = [
        [cell(entry.get("name")), *[cell(number(entry.get(key)), ".2f") for key in ("teacher", "baseline", "best")]]
        for entry in both
    ]
    return Plot(
        "images", "Image by image", summary, data, figure, Table("mIoU of each image, %", columns, rows), height=420
    )


def _mean_and_sd(arm: Arm) -> tuple[dict[str, float | None], dict[str, float | None]]:
    """(class -> mean IoU, class -> standard deviation) of a confirmed configuration."""
    classes = mapping(arm.get("IoU"))
    return (
        {name: number(mapping(figures).get("mean")) for name, figures in classes.items()},
        {name: number(mapping(figures).get("sd")) for name, figures in classes.items()},
    )


def _largest_difference(arm: Arm) -> str:
    gains = {name: mapping(mapping(gap).get("difference")) for name, gap in mapping(arm.get("IoU")).items()}
    with_mean = {name: gap for name, gap in gains.items() if number(gap.get("mean")) is not None}
    if not with_mean:
        return ""
    largest = max(with_mean, key=lambda name: abs(float(with_mean[name]["mean"])))
    low, high = (signed(number(with_mean[largest].get(key))) for key in ("low", "high"))
    return f" The largest difference is in {largest}: {signed(number(with_mean[largest]['mean']))} ({low} to {high})."


def _both(first: float | None, second: float | None) -> bool:
    return first is not None and second is not None

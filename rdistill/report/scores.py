"""What was reached: each class, each image, and the confirmed differences with their intervals."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median
from typing import Any

from rdistill.report.load import Sweep, iou, mapping, number
from rdistill.report.plot import Plot, Trace, plain, vertical
from rdistill.report.text import Column, Table, cell, plural, points, signed
from rdistill.report.theme import layout
from rdistill.schemas.pictures import Pictures
from rdistill.schemas.summary import Arm, Difference


def per_class(sweep: Sweep) -> Plot | None:
    """IoU of every class: teacher, baseline, best; of confirmed runs where there are any."""
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
            (sweep.best, "best", "$best", "circle"),
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
            deviations = [spread.get(class_name) or 0 for class_name in classes]
            trace["error_x"] = dict(type="data", array=deviations, color=colour, thickness=1.5)
        data.append(trace)
    columns = [Column("class"), *[Column(entry[0], numeric=True) for entry in series]]
    rows = [[cell(name), *[cell(entry[3].get(name), ".2f") for entry in series]] for name in classes]
    whose = "mean over the confirmation's seeds, bars one standard deviation" if first else "one seed each, searched"
    summary = f"IoU of {plural(len(classes), 'class')}: {whose}."
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
            most = max(gains, key=lambda class_name: abs(gains[class_name]))
            summary += f" The largest difference to {series[-2][0]} is in {most}: {signed(gains[most])}."
    figure = layout(
        xaxis=dict(title="IoU, %"),
        yaxis=dict(range=[len(classes) - 0.4, -0.6], type="category", showline=False, ticks="", griddash="dot"),
    )
    height = 130 + 34 * len(classes)
    return Plot("classes", "IoU of each class", summary, data, figure, Table(summary, columns, rows), height=height)


def forest(rows: Sequence[tuple[str, Difference]], *, ident: str = "confirmed") -> Plot | None:
    """Confirmed differences to the baseline with their 95 % intervals.

    Args:
        rows: label and ``difference`` (mean, low, high) of each configuration.
    """
    with_mean = [(label, gap) for label, gap in rows if number(gap.get("mean")) is not None]
    if not with_mean:
        return None
    labels = [label for label, _ in with_mean]
    means = [number(gap.get("mean")) or 0.0 for _, gap in with_mean]
    lows = [
        mean - low if (low := number(gap.get("low"))) is not None else 0
        for mean, (_, gap) in zip(means, with_mean, strict=True)
    ]
    highs = [
        high - mean if (high := number(gap.get("high"))) is not None else 0
        for mean, (_, gap) in zip(means, with_mean, strict=True)
    ]
    above = sum(bool(gap.get("above_zero")) for _, gap in with_mean)
    colours = ["$best" if gap.get("above_zero") else "$other" for _, gap in with_mean]
    data = [
        dict(
            type="scatter",
            mode="markers",
            x=[value],
            y=[label],
            showlegend=False,
            error_x=dict(
                type="data", symmetric=False, array=[high], arrayminus=[low], color=colour, thickness=2, width=6
            ),
            marker=dict(symbol="square", size=10, color=colour),
            hovertemplate="%{y}: %{x:+.2f}<extra></extra>",
        )
        for value, label, low, high, colour in zip(means, labels, lows, highs, colours, strict=True)
    ]
    figure = layout(
        xaxis=dict(title="difference in mIoU, points"),
        yaxis=dict(range=[len(with_mean) - 0.4, -0.6], type="category", showline=False, ticks=""),
        shapes=[vertical(0)],
        margin=dict(t=16),
    )
    columns = [
        Column("configuration"),
        *[Column(name, True) for name in ("difference", "from", "to", "p", "p adjusted")],
        Column("above zero"),
    ]
    table = Table(
        "Differences to the baseline, with 95 % intervals",
        columns,
        [
            [
                cell(label),
                *[cell(signed(number(gap.get(key)))) for key in ("mean", "low", "high")],
                *[cell(number(gap.get(key)), ".3g") for key in ("p", "p_adjusted")],
                cell(bool(gap.get("above_zero"))),
            ]
            for label, gap in with_mean
        ],
    )
    summary = (
        f"{above} of {plural(len(with_mean), 'confirmed configuration')} {'lies' if above == 1 else 'lie'} "
        f"above the baseline with the whole 95 % interval; {labels[0]} differs by {signed(means[0])} points."
    )
    return Plot(
        ident, "Confirmed differences to the baseline", summary, data, figure, table, height=120 + 40 * len(with_mean)
    )


def per_image(images: Pictures) -> Plot | None:
    """Each validation image: how well the baseline and the best student segment it."""
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
    low, high = min(*x, *y), max(*x, *y)
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
    figure = layout(xaxis=dict(title=f"mIoU of the image, {ids[0]}"), yaxis=dict(title=f"mIoU of the image, {ids[1]}"))
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
    """Mean and spread of each class of a confirmed configuration."""
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
    most = max(with_mean, key=lambda name: abs(float(with_mean[name]["mean"])))
    low, high = (signed(number(with_mean[most].get(key))) for key in ("low", "high"))
    return f" The largest difference is in {most}: {signed(number(with_mean[most]['mean']))} ({low} to {high})."


def _both(first: float | None, second: float | None) -> bool:
    return first is not None and second is not None

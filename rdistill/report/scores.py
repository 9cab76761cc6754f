"""What was reached: each class, each image, and the confirmed differences with their intervals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any

from rdistill.report.load import Sweep, iou, mapping, number
from rdistill.report.plot import Plot, plain, vertical
from rdistill.report.text import Column, Table, cell, plural, points, signed
from rdistill.report.theme import layout


def per_class(sweep: Sweep) -> Plot | None:
    """IoU of every class: teacher, baseline, best; of confirmed runs where there are any."""
    first = sweep.winner
    series: list[tuple[str, str, str, dict[str, float | None], dict[str, float | None]]] = []
    teacher = iou(mapping(sweep.summary.get("teacher")))
    if teacher:
        series.append(("teacher", "$teacher", "diamond", teacher, {}))
    if first:
        base = sweep.confirmed["baseline"]
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
    classes = list(dict.fromkeys(name for one in series for name in one[3]))
    if not classes:
        return None
    data = []
    for name, colour, symbol, values, spread in series:
        trace: dict[str, Any] = dict(
            type="scatter",
            mode="markers",
            name=name,
            x=[values.get(one) for one in classes],
            y=classes,
            marker=dict(color=colour, symbol=symbol, size=10),
            hovertemplate="%{y}: %{x:.2f}<extra>" + plain(name) + "</extra>",
        )
        if any(spread.values()):
            deviations = [spread.get(one) or 0 for one in classes]
            trace["error_x"] = dict(type="data", array=deviations, color=colour, thickness=1.5)
        data.append(trace)
    columns = [Column("class"), *[Column(one[0], numeric=True) for one in series]]
    rows = [[cell(name), *[cell(one[3].get(name), ".2f") for one in series]] for name in classes]
    whose = "mean over the confirmation's seeds, bars one standard deviation" if first else "one seed each, searched"
    summary = f"IoU of {plural(len(classes), 'class')}: {whose}."
    if first:
        summary += _largest_difference(mapping(first))
    elif len(series) > 1:
        ours: Any = series[-1][3]
        theirs: Any = series[-2][3]
        gains = {one: ours[one] - theirs[one] for one in classes if _both(ours.get(one), theirs.get(one))}
        if gains:
            most = max(gains, key=lambda one: abs(gains[one]))
            summary += f" The largest difference to {series[-2][0]} is in {most}: {signed(gains[most])}."
    figure = layout(
        xaxis=dict(title="IoU, %"),
        yaxis=dict(range=[len(classes) - 0.4, -0.6], type="category", showline=False, ticks="", griddash="dot"),
    )
    height = 130 + 34 * len(classes)
    return Plot("classes", "IoU of each class", summary, data, figure, Table(summary, columns, rows), height=height)


def forest(rows: Sequence[tuple[str, Mapping[str, Any]]], *, ident: str = "confirmed") -> Plot | None:
    """Confirmed differences to the baseline with their 95 % intervals.

    Args:
        rows: label and ``difference`` (mean, low, high) of each configuration.
    """
    known = [(label, one) for label, one in rows if number(one.get("mean")) is not None]
    if not known:
        return None
    labels = [label for label, _ in known]
    means = [number(one.get("mean")) or 0.0 for _, one in known]
    lows = [
        mean - low if (low := number(one.get("low"))) is not None else 0
        for mean, (_, one) in zip(means, known, strict=True)
    ]
    highs = [
        high - mean if (high := number(one.get("high"))) is not None else 0
        for mean, (_, one) in zip(means, known, strict=True)
    ]
    above = sum(bool(one.get("above_zero")) for _, one in known)
    colours = ["$best" if one.get("above_zero") else "$other" for _, one in known]
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
        yaxis=dict(range=[len(known) - 0.4, -0.6], type="category", showline=False, ticks=""),
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
                *[cell(signed(number(one.get(key)))) for key in ("mean", "low", "high")],
                *[cell(number(one.get(key)), ".3g") for key in ("p", "p_adjusted")],
                cell(bool(one.get("above_zero"))),
            ]
            for label, one in known
        ],
    )
    summary = (
        f"{above} of {plural(len(known), 'confirmed configuration')} {'lies' if above == 1 else 'lie'} "
        f"above the baseline with the whole 95 % interval; {labels[0]} differs by {signed(means[0])} points."
    )
    return Plot(
        ident, "Confirmed differences to the baseline", summary, data, figure, table, height=120 + 40 * len(known)
    )


def per_image(pictures: Mapping[str, Any]) -> Plot | None:
    """Each validation image: how well the baseline and the best student segment it."""
    images = [mapping(one) for one in pictures.get("per_image") or []]
    both = [one for one in images if _both(number(one.get("baseline")), number(one.get("best")))]
    if len(both) < 2:
        return None
    x, y = ([float(one[key]) for one in both] for key in ("baseline", "best"))
    better = sum(ours > theirs for ours, theirs in zip(y, x, strict=True))
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
            text=[str(one.get("name")) for one in both],
            marker=dict(color="$best", size=7, opacity=0.7),
            hovertemplate="%{text}<br>baseline %{x:.1f}, best %{y:.1f}<extra></extra>",
        ),
    ]
    ids = [str(pictures.get(key) or key) for key in ("baseline", "best")]
    figure = layout(xaxis=dict(title=f"mIoU of the image, {ids[0]}"), yaxis=dict(title=f"mIoU of the image, {ids[1]}"))
    summary = (
        f"{ids[1]} is better than {ids[0]} on {better} of {len(both)} validation images; "
        f"the median image has {points(median(y))}."
    )
    columns = [Column("image"), *[Column(name, numeric=True) for name in ("teacher", "baseline", "best")]]
    rows = [
        [cell(one.get("name")), *[cell(number(one.get(key)), ".2f") for key in ("teacher", "baseline", "best")]]
        for one in both
    ]
    return Plot(
        "images", "Image by image", summary, data, figure, Table("mIoU of each image, %", columns, rows), height=420
    )


def _mean_and_sd(entry: Mapping[str, Any]) -> tuple[dict[str, float | None], dict[str, float | None]]:
    """Mean and spread of each class of a confirmed configuration."""
    classes = mapping(entry.get("IoU"))
    return (
        {name: number(mapping(one).get("mean")) for name, one in classes.items()},
        {name: number(mapping(one).get("sd")) for name, one in classes.items()},
    )


def _largest_difference(entry: Mapping[str, Any]) -> str:
    gains = {name: mapping(mapping(one).get("difference")) for name, one in mapping(entry.get("IoU")).items()}
    known = {name: one for name, one in gains.items() if number(one.get("mean")) is not None}
    if not known:
        return ""
    most = max(known, key=lambda name: abs(float(known[name]["mean"])))
    low, high = (signed(number(known[most].get(key))) for key in ("low", "high"))
    return f" The largest difference is in {most}: {signed(number(known[most]['mean']))} ({low} to {high})."


def _both(first: float | None, second: float | None) -> bool:
    return first is not None and second is not None

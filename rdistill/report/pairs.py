"""Heat maps of feature pairs: the scores of each student feature with each teacher feature."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from statistics import mean

from rdistill.core.words import counted
from rdistill.report.load import Sweep, mapping, miou
from rdistill.report.plot import Plot
from rdistill.report.study import scored
from rdistill.report.text import Column, Table, cell, points, short
from rdistill.report.theme import COLORSCALE, layout

CELL, WIDE_CELL = 96, 150  # width of a cell in pixels, without and with text about trials that never left one class
LETTER = 7.5  # width of a letter in pixels


def heat_maps(sweep: Sweep) -> list[Plot]:
    """A heat map for each swept feature pair, with the mean and the best score of every combination."""
    space = mapping(sweep.spec.get("space"))
    keys = [key for key in sweep.keys if mapping(space.get(key)).get("type") == "pairs" or key.endswith(".pair")]
    return [plot for key in keys if (plot := _heat_map(sweep, key)) is not None]


def _heat_map(sweep: Sweep, key: str) -> Plot | None:
    cells: defaultdict[tuple[int, int], list[float]] = defaultdict(list)
    collapsed: Counter[tuple[int, int]] = Counter()  # trials that never left one class do not count in the means
    for record in scored(sweep):
        pair = record.values.get(key)
        if isinstance(pair, list) and len(pair) == 2 and all(isinstance(index, int) for index in pair):
            if record.id in sweep.never_trained:
                collapsed[pair[0], pair[1]] += 1
            else:
                cells[pair[0], pair[1]].append(miou(record) or 0.0)
    if not cells:
        return None
    students, teachers = _feature_names(sweep, key, [*cells, *collapsed])
    means = [
        [mean(cells[s, t]) if (s, t) in cells else None for t in range(len(teachers))] for s in range(len(students))
    ]
    marks = [[_mark(cells.get((s, t)), collapsed[s, t]) for t in range(len(teachers))] for s in range(len(students))]
    bests = [
        [max(cells[s, t]) if (s, t) in cells else None for t in range(len(teachers))] for s in range(len(students))
    ]
    counts = [[len(cells.get((s, t), [])) for t in range(len(teachers))] for s in range(len(students))]
    data = [
        dict(
            type="heatmap",
            z=means,
            x=_axis(teachers),
            y=_axis(students),
            colorscale=COLORSCALE,
            xgap=3,
            ygap=3,
            customdata=[[[b, n] for b, n in zip(*row, strict=True)] for row in zip(bests, counts, strict=True)],
            showscale=False,
            hovertemplate="student %{y}<br>teacher %{x}<br>mean %{z:.2f}, best %{customdata[0]:.2f}, "
            "n = %{customdata[1]}<extra></extra>",
            hoverongaps=False,
        )
    ]
    values = [value for row in means for value in row if value is not None]
    low, high = min(values), max(values)
    notes = [
        dict(
            x=t,
            y=s,
            text=marks[s][t],
            showarrow=False,
            font=dict(size=12, color=_on_scale(means[s][t], low, high)),
        )
        for s in range(len(students))
        for t in range(len(teachers))
        if marks[s][t]
    ]
    name = short(key, sweep.keys)
    figure = layout(
        xaxis=dict(
            title="teacher feature",
            showgrid=False,
            showline=False,
            ticks="",
            tickangle=-30 if LETTER * max(map(len, teachers)) > CELL else 0,
        ),
        yaxis=dict(title="student feature", showgrid=False, showline=False, ticks="", autorange="reversed"),
        annotations=notes,
        margin=dict(t=16),
    )
    top = max(cells, key=lambda pair: mean(cells[pair]))
    summary = (
        f"{students[top[0]]} (student) with {teachers[top[1]]} (teacher) has the highest mean, "
        f"{points(mean(cells[top]))} mIoU over {counted(len(cells[top]), 'trial')}, of "
        f"{sum(map(len, cells.values()))} over {counted(len(cells), 'pair')}."
    )
    if collapsed:
        summary += f" {counted(collapsed.total(), 'more trial')} never left one class and are in no mean."
    order = sorted({*cells, *collapsed}, key=lambda pair: -mean(cells[pair]) if pair in cells else 0.0)
    rows = [
        [
            cell(f"{s} {students[s]}"),
            cell(f"{t} {teachers[t]}"),
            cell(mean(cells[s, t]) if (s, t) in cells else None, ".2f"),
            cell(max(cells[s, t]) if (s, t) in cells else None, ".2f"),
            cell(len(cells.get((s, t), []))),
            cell(collapsed[s, t]),
        ]
        for s, t in order
    ]
    columns = [
        Column("student feature"),
        Column("teacher feature"),
        *[Column(text, True) for text in ("mean mIoU", "best", "trials", "never left one class")],
    ]
    table = Table(f"Feature pairs of {name}, best mean first", columns, rows)
    note = (
        "In each cell the mean over its trials, the best of them, and how many there are. Other parameters vary too: "
        "pairs of one or two trials cannot be compared."
    )
    height = 150 + 64 * len(students)
    width = 90 + round(7.5 * max(map(len, students))) + (WIDE_CELL if collapsed else CELL) * len(teachers)
    return Plot(
        f"pairs-{name}",
        f"Feature pairs: {name}",
        summary,
        data,
        figure,
        table,
        height=height,
        min_width=width,
        note=note,
    )


def _feature_names(sweep: Sweep, key: str, pairs: Sequence[tuple[int, int]]) -> tuple[list[str], list[str]]:
    """Names of the student's and the teacher's features by index; `feature INDEX` if the config has no name."""
    distill = mapping(sweep.config.get("distill"))
    features = mapping(distill.get("features"))
    loss = mapping(mapping(distill.get("losses")).get(key.split(".")[-2] if "." in key else ""))
    index = loss.get("teacher")
    teacher = index if isinstance(index, int) else 0
    teachers = distill.get("teachers")
    own = mapping(teachers[teacher]).get("features") if isinstance(teachers, list) and teacher < len(teachers) else None
    sides = []
    for side, listed in ((0, features.get("student")), (1, own or features.get("teacher"))):
        names = [str(name) for name in listed] if isinstance(listed, (list, tuple)) else []
        size = max([len(names), *[pair[side] + 1 for pair in pairs]])
        sides.append([names[index] if index < len(names) else f"feature {index}" for index in range(size)])
    return sides[0], sides[1]


def _axis(names: Sequence[str]) -> list[str]:
    """Names with their indices, since two features may have the same name."""
    return [f"{index} {name}" for index, name in enumerate(names)]


def _mark(scores: list[float] | None, collapsed: int) -> str:
    """The text of a cell: mean, best, number of trials, and number of further trials that never left one class."""
    stuck = f"{collapsed} never left one class" if collapsed else ""
    if not scores:
        return stuck
    best = f"best {max(scores):.2f}" if len(scores) > 1 else ""
    return "<br>".join(filter(None, (f"<b>{mean(scores):.2f}</b>", best, f"n = {len(scores)}", stuck)))


def _on_scale(value: float | None, low: float, high: float) -> str:
    """The colour of text that is readable on a cell's colour."""
    share = ((value or low) - low) / (high - low) if high > low else 0.0
    return "$paper" if share >= 0.55 else "$ink"

"""Heat maps of feature pairs: the scores of each student feature with each teacher feature."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import mean
from typing import TypeVar

from rdistill.core.words import counted
from rdistill.report.load import Sweep, mapping, miou
from rdistill.report.plot import Plot
from rdistill.report.study import scored
from rdistill.report.text import Column, Table, cell, points, short
from rdistill.report.theme import COLORSCALE, Layout, Trace, layout

CELL, WIDE_CELL = 96, 150  # width of a cell in pixels, without and with text about trials that never left one class
LETTER = 7.5  # width of a letter in pixels
Cell = TypeVar("Cell")


def heat_maps(sweep: Sweep) -> list[Plot]:
    """A heat map for each swept feature pair, with the mean and the best score of every combination."""
    space = mapping(sweep.spec.get("space"))
    keys = [key for key in sweep.keys if mapping(space.get(key)).get("type") == "pairs" or key.endswith(".pair")]
    return [plot for key in keys if (plot := _heat_map(sweep, key)) is not None]


@dataclass(frozen=True)
class _Pairs:
    """The trials of each feature pair: (index of the student's feature, index of the teacher's)."""

    scores: Mapping[tuple[int, int], Sequence[float]]  # best mIoU of each trial; no pair is without one
    collapsed: Counter[tuple[int, int]]  # number of trials that never left one class: they do not count in the means
    students: Sequence[str]  # names of the student's features
    teachers: Sequence[str]

    def mean(self, student: int, teacher: int) -> float | None:
        pair = student, teacher
        return mean(self.scores[pair]) if pair in self.scores else None

    def best(self, student: int, teacher: int) -> float | None:
        pair = student, teacher
        return max(self.scores[pair]) if pair in self.scores else None

    def count(self, student: int, teacher: int) -> int:
        return len(self.scores.get((student, teacher), []))

    def grid(self, value: Callable[[int, int], Cell]) -> list[list[Cell]]:
        """A value for each cell of the heat map, a row for each feature of the student."""
        return [[value(s, t) for t in range(len(self.teachers))] for s in range(len(self.students))]


def _pairs_of(sweep: Sweep, key: str) -> _Pairs | None:
    """The scored trials of a swept pair; None if there is none."""
    scores: defaultdict[tuple[int, int], list[float]] = defaultdict(list)
    collapsed: Counter[tuple[int, int]] = Counter()
    for record in scored(sweep):
        pair = record.values.get(key)
        if isinstance(pair, list) and len(pair) == 2 and all(isinstance(index, int) for index in pair):
            if record.id in sweep.never_trained:
                collapsed[pair[0], pair[1]] += 1
            else:
                scores[pair[0], pair[1]].append(miou(record) or 0.0)
    return _Pairs(scores, collapsed, *_feature_names(sweep, key, [*scores, *collapsed])) if scores else None


def _heat_map(sweep: Sweep, key: str) -> Plot | None:
    pairs = _pairs_of(sweep, key)
    if pairs is None:
        return None
    figure = layout(
        xaxis=dict(
            title="teacher feature",
            showgrid=False,
            showline=False,
            ticks="",
            tickangle=-30 if LETTER * max(map(len, pairs.teachers)) > CELL else 0,
        ),
        yaxis=dict(title="student feature", showgrid=False, showline=False, ticks="", autorange="reversed"),
        annotations=_texts_of_cells(pairs),
        margin=dict(t=16),
    )
    name = short(key, sweep.keys)
    note = (
        "In each cell the mean over its trials, the best of them, and how many there are. Other parameters vary too: "
        "pairs of one or two trials cannot be compared."
    )
    cell_width = WIDE_CELL if pairs.collapsed else CELL
    return Plot(
        f"pairs-{name}",
        f"Feature pairs: {name}",
        _summary(pairs),
        [_trace(pairs)],
        figure,
        _table(pairs, name),
        height=150 + 64 * len(pairs.students),
        min_width=90 + round(7.5 * max(map(len, pairs.students))) + cell_width * len(pairs.teachers),
        note=note,
    )


def _trace(pairs: _Pairs) -> Trace:
    return dict(
        type="heatmap",
        z=pairs.grid(pairs.mean),
        x=_axis(pairs.teachers),
        y=_axis(pairs.students),
        colorscale=COLORSCALE,
        xgap=3,
        ygap=3,
        customdata=pairs.grid(lambda s, t: [pairs.best(s, t), pairs.count(s, t)]),
        showscale=False,
        hovertemplate="student %{y}<br>teacher %{x}<br>mean %{z:.2f}, best %{customdata[0]:.2f}, "
        "n = %{customdata[1]}<extra></extra>",
        hoverongaps=False,
    )


def _texts_of_cells(pairs: _Pairs) -> list[Layout]:
    """Plotly's annotations with the text of each cell that has one."""
    means = pairs.grid(pairs.mean)
    values = [value for row in means for value in row if value is not None]
    low, high = min(values), max(values)
    marks = pairs.grid(lambda s, t: _mark(pairs.scores.get((s, t)), pairs.collapsed[s, t]))
    return [
        dict(
            x=t,
            y=s,
            text=text,
            showarrow=False,
            font=dict(size=12, color=_on_scale(means[s][t], low, high)),
        )
        for s, row in enumerate(marks)
        for t, text in enumerate(row)
        if text
    ]


def _summary(pairs: _Pairs) -> str:
    scores = pairs.scores
    top = max(scores, key=lambda pair: mean(scores[pair]))
    summary = (
        f"{pairs.students[top[0]]} (student) with {pairs.teachers[top[1]]} (teacher) has the highest mean, "
        f"{points(mean(scores[top]))} mIoU over {counted(len(scores[top]), 'trial')}, of "
        f"{sum(map(len, scores.values()))} over {counted(len(scores), 'pair')}."
    )
    if pairs.collapsed:
        summary += f" {counted(pairs.collapsed.total(), 'more trial')} never left one class and are in no mean."
    return summary


def _table(pairs: _Pairs, name: str) -> Table:
    order = sorted({*pairs.scores, *pairs.collapsed}, key=lambda pair: -(pairs.mean(*pair) or 0.0))
    rows = [
        [
            cell(f"{s} {pairs.students[s]}"),
            cell(f"{t} {pairs.teachers[t]}"),
            cell(pairs.mean(s, t), ".2f"),
            cell(pairs.best(s, t), ".2f"),
            cell(pairs.count(s, t)),
            cell(pairs.collapsed[s, t]),
        ]
        for s, t in order
    ]
    columns = [
        Column("student feature"),
        Column("teacher feature"),
        *[Column(text, True) for text in ("mean mIoU", "best", "trials", "never left one class")],
    ]
    return Table(f"Feature pairs of {name}, best mean first", columns, rows)


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


def _mark(scores: Sequence[float] | None, collapsed: int) -> str:
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

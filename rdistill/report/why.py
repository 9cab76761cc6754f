"""The section about why a confirmed configuration gains or does not: figures of its diagnosis, with sentences."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean

from rdistill.core.words import counted
from rdistill.report.load import Sweep, mapping, number
from rdistill.report.page import Section
from rdistill.report.plot import Plot, line
from rdistill.report.text import Cell, Column, Table, cell
from rdistill.report.theme import SERIES, layout
from rdistill.schemas.why import Why
from rdistill.sweeps.study.records import TrialRecord

FIGURES = {
    "agreement": "agreement, %",
    "errors_repeated": "teacher's errors repeated, %",
    "errors_to_learn": "errors to learn from, %",
    "teacher_confidence": "teacher's confidence, %",
    "teacher_calibration_error": "calibration error, %",
    "teacher_lead": "teacher's lead, mIoU",
    "late_rise": "late rise, mIoU",
}
TEACHER_FIGURES = {
    key: title for key, title in (FIGURES | {"teacher_error": "teacher's errors, %"}).items() if key != "late_rise"
}
OVER_TRAINING = ("gradient size", "gradient cosine")
CURVES = {
    "gradient_ratio": ("Size of the distillation's gradient over the task's", "times the task's gradient"),
    "gradient_cosine": ("Cosine of the distillation's gradient and the task's", "cosine, -1 to 1"),
}
Curve = list[tuple[int, float]]


def why_section(sweep: Sweep) -> Section:
    """The section of the page; empty if no run was diagnosed."""
    reasons = mapping(sweep.summary.get("why"))
    section = Section(
        "why",
        "Why",
        "Measured at each validation of the confirmation runs, on a few batches, without changing the training; means "
        "over the runs. A figure is marked where it may be why there is no gain.",
    )
    for name, entry in reasons.items():
        sentences = [mapping(sentence) for sentence in mapping(entry).get("sentences") or []]
        rows = [
            [
                cell(str(sentence.get("about", ""))),
                Cell(str(sentence.get("text", "")), note="may be why" if sentence.get("warning") else ""),
            ]
            for sentence in sentences
        ]
        if rows:
            section.tables.append(Table(str(name), [Column("about"), Column("finding", rank=0)], rows))
    if not section.tables:
        section.intro = ""
        return section
    section.tables.append(_figures(reasons))
    if (several := _teachers(reasons)).rows:
        section.tables.append(several)
        section.intro += " Each of several teachers is compared with the student."
    section.plots = [plot for key in CURVES if (plot := _over_training(sweep, list(reasons), key)) is not None]
    return section


def _over_training(sweep: Sweep, names: Sequence[str], key: str) -> Plot | None:
    """A figure of the gradients over training: a line for each configuration, the mean over its confirmation runs."""
    lines = {}
    for name in names:
        runs = [record for record in sweep.confirming if record.of == name and not record.rival]
        if points := _mean_curve(runs, key):
            lines[name] = points
    if not lines:
        return None
    title, unit = CURVES[key]
    data = [
        line(points, name, f"$series{index % SERIES}", "solid") for index, (name, points) in enumerate(lines.items())
    ]
    # The scale of a ratio is logarithmic, so that 0.1 and 10 are equally far from 1; it cannot show zero.
    logarithmic = key == "gradient_ratio" and all(value > 0 for points in lines.values() for _, value in points)
    figure = layout(
        xaxis=dict(title="iteration", rangemode="tozero"),
        yaxis=dict(title=unit, **(dict(type="log") if logarithmic else {})),
    )
    iterations = sorted({iteration for points in lines.values() for iteration, _ in points})
    rows = [[cell(name), *[cell(dict(points).get(at), ".3g") for at in iterations]] for name, points in lines.items()]
    table = Table(title, [Column("configuration"), *[Column(f"{at:,}", True) for at in iterations]], rows)
    ends = "; ".join(f"{name} from {points[0][1]:.2g} to {points[-1][1]:.2g}" for name, points in lines.items())
    summary = f"{title} over {counted(len(iterations), 'validation')}, mean over the runs: {ends}."
    return Plot(f"why-{key.replace('_', '-')}", title, summary, data, figure, table, height=320)


def _mean_curve(runs: Sequence[TrialRecord], key: str) -> Curve:
    """(iteration, mean over the runs) of a figure of the diagnosis."""
    values: dict[int, list[float]] = {}
    for run in runs:
        for entry in run.history:
            value = number(mapping(entry.get("diagnosis")).get(key))
            if value is not None:
                values.setdefault(int(entry["iter"]), []).append(value)
    return [(iteration, fmean(group)) for iteration, group in sorted(values.items())]


def _teachers(reasons: Mapping[str, Why]) -> Table:
    """A table with a row for each of several teachers; without rows if there is a single one."""
    columns = [Column("configuration"), Column("teacher", True)]
    columns += [Column(title, True) for title in TEACHER_FIGURES.values()]
    rows = []
    for name, entry in reasons.items():
        listed = mapping(mapping(entry).get("figures")).get("teachers")
        for index, teacher in enumerate(listed if isinstance(listed, list) else []):
            figures = mapping(teacher)
            cells = [cell(number(figures.get(key)), ".2f") for key in TEACHER_FIGURES]
            rows.append([cell(str(name)), cell(str(index)), *cells])
    return Table("Figures of each teacher", columns, rows)


def _figures(reasons: Mapping[str, Why]) -> Table:
    columns = [Column("configuration"), *[Column(title, True) for title in FIGURES.values()]]
    columns += [Column(f"{title}, {when}", True) for title in OVER_TRAINING for when in ("first", "last")]
    rows = []
    for name, entry in reasons.items():
        figures = mapping(mapping(entry).get("figures"))
        curves = (mapping(figures.get("gradient_ratio")), mapping(figures.get("gradient_cosine")))
        over = [value for curve in curves for value in (curve.get("first"), curve.get("last"))]
        rows.append(
            [
                cell(str(name)),
                *[cell(number(figures.get(key)), ".2f") for key in FIGURES],
                *[cell(number(value), ".3g") for value in over],
            ]
        )
    return Table("Figures", columns, rows)

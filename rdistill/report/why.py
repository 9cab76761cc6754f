"""Why a confirmed configuration gains, or does not: its figures and a sentence about each."""

from __future__ import annotations

from collections.abc import Mapping

from rdistill.report.load import mapping, number
from rdistill.report.page import Section
from rdistill.report.text import Cell, Column, Table, cell
from rdistill.schemas.why import Why

FIGURES = {
    "agreement": "agreement, %",
    "errors_repeated": "teacher's errors repeated, %",
    "errors_to_learn": "errors to learn from, %",
    "teacher_confidence": "teacher's confidence, %",
    "teacher_calibration_error": "calibration error, %",
    "teacher_lead": "teacher's lead, mIoU",
    "late_rise": "late rise, mIoU",
}
OVER_TRAINING = ("gradient size", "gradient cosine")


def why_section(reasons: Mapping[str, Why]) -> Section:
    """A section of the page; empty where nothing was diagnosed."""
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
                cell(str(sentence.get("text", ""))),
                Cell("may be why" if sentence.get("warning") else ""),
            ]
            for sentence in sentences
        ]
        if rows:
            section.tables.append(Table(str(name), [Column("about"), Column("finding"), Column("note")], rows))
    if section.tables:
        section.tables.append(_figures(reasons))
    else:
        section.intro = ""
    return section


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

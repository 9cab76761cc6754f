"""The table of the models: scores and costs of the teacher, the student alone and the distilled student."""

from __future__ import annotations

from rdistill.core.one_class import when_trained
from rdistill.report.load import Sweep, mapping, miou, number
from rdistill.report.text import MISSING, Cell, Column, Table, cell, condensed
from rdistill.schemas.pictures import ModelSize
from rdistill.sweeps.findings.confirm import PYTORCH, exported_kind
from rdistill.sweeps.study.records import TrialRecord

UNITS = ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))


def models_table(sweep: Sweep) -> Table | None:
    """The three models' scores, parameters, FLOPs and latency; None before the first score."""
    first = sweep.winner
    student = str(first.get("id") or (sweep.chosen.id if sweep.chosen is not None else ""))
    if first:
        best, alone = (number(when_trained(arm)["mean"]) for arm in (first, sweep.confirmed_baseline))
    else:
        best, alone = miou(sweep.chosen), miou(sweep.baseline)
    if best is None and alone is None:
        return None
    rows, marks = [], []
    for name, role, score, mark in (
        ("teacher", "teacher", sweep.teacher_mIoU, "is-teacher"),
        ("student alone", "baseline", alone, "is-baseline"),
        (f"student distilled, {student}", "best", best, "is-best"),
    ):
        size = size_of(sweep, role)
        rows.append(
            [
                Cell(name, name, note=_missing_figures(size, scored=score is not None)),
                cell(score, ".2f"),
                _quantity(size.get("params")),
                _quantity(size.get("flops")),
                cell(number(size.get("latency_ms")), ".3g"),
            ]
        )
        marks.append(mark)
    height_width = sweep.images.get("size")
    image = f"an image of {height_width[1]} x {height_width[0]}" if height_width else "an image"
    device = sweep.images.get("device")
    basis = "means over the confirmation's seeds" if first else "one seed"
    if (files := exported_kind(str(sweep.confirmed.get("of") or PYTORCH))) and first:
        basis += f"; students as {files}, all else in PyTorch"
    caption = f"What each model reaches on validation data ({basis})"
    if not any(size_of(sweep, role) for role in ("teacher", "baseline", "best")):
        caption += "; parameters, FLOPs and latency are measured when a sweep ends"
        return Table(caption, [Column("model"), Column("mIoU", True, rank=0)], [row[:2] for row in rows], marks)
    columns = [
        Column("model"),
        Column("mIoU", True, rank=0),
        Column("parameters", True),
        Column("FLOPs", True, f"of {image}"),
        Column("latency, ms", True, f"of {image} alone, median"),
    ]
    caption += f" and costs; FLOPs and latency of {image}" + (f", on {device}" if device else "")
    if busy := sweep.images.get("busy"):
        caption += f"; {busy}, so that latency is too long"
    return condensed(Table(caption, columns, rows, marks))


def size_of(sweep: Sweep, role: str) -> ModelSize:
    """A model's size, measured at the end of the sweep or for its objectives; empty if it is not known.

    Args:
        role: 'teacher', 'baseline' or 'best'.
    """
    measured: ModelSize = mapping(mapping(sweep.images.get("models")).get(role))
    if measured or role == "teacher":
        return measured
    record: TrialRecord | None = sweep.baseline if role == "baseline" else sweep.chosen
    objectives = record.objectives if record is not None else {}
    names = (("params", "params"), ("flops", "flops"), ("latency", "latency_ms"))
    figures = {key: objectives[name] for name, key in names if name in objectives}
    return ModelSize(**figures)  # type: ignore[typeddict-item]


def _missing_figures(size: ModelSize, *, scored: bool) -> str:
    """The reasons why figures of a model are missing; an empty text if all are known."""
    reasons = [] if scored else ["no mIoU: it was not scored on these images"]
    missing = [word for key, word in (("flops", "FLOPs"), ("latency_ms", "latency")) if key not in size]
    if not size:
        reasons.append("no size: it is no network of its own, or was not measured")
    elif missing:
        reason = size.get("problem") or "not measured"
        reasons.append(f"no {' and '.join(missing)}: {reason}")
    return "; ".join(reasons)


def _quantity(value: float | None) -> Cell:
    """The cell of a large number; see :func:`large`."""
    quantity = number(value)
    return Cell(MISSING) if quantity is None else Cell(large(quantity), quantity)


def large(value: float) -> str:
    """A number with three digits and the letter of its unit: 12.3 M."""
    for size, letter in UNITS:
        if value >= size:
            return f"{value / size:.3g} {letter}"
    return f"{value:.3g}"

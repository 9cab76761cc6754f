"""Several sweeps beside each other: their verdicts, what was confirmed, and whether they can be compared at all."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from rdistill.core.errors import UserError
from rdistill.core.one_class import when_trained
from rdistill.report import facts, repeat, scores
from rdistill.report.facts import Fact
from rdistill.report.load import Sweep, load_sweep, mapping, miou, number
from rdistill.report.page import Page, Section
from rdistill.report.plot import Plot, Trace
from rdistill.report.text import MISSING, Cell, Column, Table, cell, duration, points, show, signed
from rdistill.report.theme import layout

# What two sweeps must share for their scores to be about the same thing.
TERMS: dict[str, Callable[[Sweep], Any]] = {
    "validation data": lambda sweep: repeat.data_of(sweep.config),
    "training data": lambda sweep: repeat.data_of(sweep.config, "train"),
    "teacher's weights": lambda sweep: ", ".join(repeat.teacher_files(sweep.config)),
    "seed": lambda sweep: sweep.spec.get("seed"),
    "seeds of the confirmation": lambda sweep: mapping(sweep.spec.get("confirm")).get("seeds"),
    "iterations of a trial": lambda sweep: sweep.iterations,
    "images a step": lambda sweep: mapping(sweep.config.get("train_dataloader")).get("batch_size"),
}


def compare_page(folders: Sequence[Path]) -> Page:
    """The page that compares sweeps.

    Raises:
        UserError: fewer than two folders, or one that holds no sweep.
    """
    if len({folder.resolve() for folder in folders}) < 2:
        raise UserError("compare: needs two sweeps or more; give their --work-dir folders")
    problems: list[str] = []
    sweeps: list[Sweep] = []
    for folder in folders:
        try:
            sweeps.append(load_sweep(folder))
        except UserError as error:
            problems += error.problems
    if problems:
        raise UserError(*problems)
    names = _names(sweeps)
    verdicts = Table(
        "What each sweep says",
        [Column("sweep"), Column("verdict")],
        [[cell(name), Cell(facts.verdict(sweep))] for name, sweep in zip(names, sweeps, strict=True)],
    )
    confirmed = [
        (f"{name}: {mapping(arm).get('id')}", mapping(mapping(arm).get("difference")))
        for name, sweep in zip(names, sweeps, strict=True)
        for arm in sweep.confirmed.get("configurations", [])
    ]
    notes = [f"{name}: {note}" for name, sweep in zip(names, sweeps, strict=True) for note in sweep.notes]
    forest = scores.forest(confirmed)
    sections = [
        Section("verdicts", "Verdicts", tables=[verdicts], notes=notes),
        Section("scores", "Scores", tables=[_table(names, sweeps)], plots=[_dots(names, sweeps)]),
        Section("confirmed", "Confirmed", plots=[forest] if forest is not None else []),
        Section("terms", "On equal terms?", tables=[_terms(names, sweeps)]),
    ]
    shown = [Fact("sweeps", str(len(sweeps))), *_leaders(names, sweeps)]
    return Page("Sweeps compared", "Comparison", _verdict(names, sweeps), shown, sections, differing(names, sweeps))


def differing(names: Sequence[str], sweeps: Sequence[Sweep]) -> list[str]:
    """A warning for each term in which the sweeps are not alike."""
    notes = []
    for term, read in TERMS.items():
        values = [show(read(sweep)) for sweep in sweeps]
        if len(set(values)) > 1:
            listed = "; ".join(f"{name}: {value}" for name, value in zip(names, values, strict=True))
            notes.append(f"The sweeps differ in {term} ({listed}): their scores are not about the same thing.")
    return notes


def _names(sweeps: Sequence[Sweep]) -> list[str]:
    """Folder names; whole paths where two are the same."""
    short = [sweep.folder.resolve().name for sweep in sweeps]
    return [str(sweep.folder) if short.count(name) > 1 else name for name, sweep in zip(short, sweeps, strict=True)]


def _score(sweep: Sweep) -> tuple[float | None, float | None, str, bool]:
    """Best, baseline, the best's id and whether these are confirmed means."""
    first = sweep.winner
    if first:
        mean, base = (number(when_trained(arm)["mean"]) for arm in (first, sweep.confirmed_baseline))
        return mean, base, str(first.get("id")), True
    best = sweep.best
    return miou(best), miou(sweep.baseline), best.id if best is not None else MISSING, False


def _verdict(names: Sequence[str], sweeps: Sequence[Sweep]) -> str:
    ranked = sorted(zip(names, map(_score, sweeps), strict=True), key=lambda entry: -(entry[1][0] or 0))
    name, (best, _, ident, confirmed) = ranked[0]
    if best is None:
        return "None of these sweeps has a score yet."
    what = "confirmed mean" if confirmed else "searched, not confirmed"
    second = ranked[1]
    gap = "" if second[1][0] is None else f", {points(best - second[1][0])} points above {second[0]}"
    end = "" if all(entry[1][3] for entry in ranked) else "; confirm them on the same seeds before you choose"
    return f"{name} is ahead: {ident} with {points(best)} mIoU ({what}){gap}{end}."


def _leaders(names: Sequence[str], sweeps: Sequence[Sweep]) -> list[Fact]:
    facts_ = []
    for name, sweep in zip(names, sweeps, strict=True):
        best, baseline, ident, confirmed = _score(sweep)
        gap = signed(best - baseline) if best is not None and baseline is not None else MISSING
        facts_.append(Fact(name, points(best), f"{ident}, {gap}, {'confirmed' if confirmed else 'searched'}", "best"))
    return facts_[:6]


def _table(names: Sequence[str], sweeps: Sequence[Sweep]) -> Table:
    columns = [
        Column("sweep"), Column("best"), Column("mIoU", True), Column("baseline", True), Column("difference", True),
        Column("95 % interval", True), Column("teacher", True), Column("of teacher", True), Column("trials", True),
        Column("trial time", True), Column("numbers are"),
    ]  # fmt: skip
    rows = []
    for name, sweep in zip(names, sweeps, strict=True):
        best, baseline, ident, confirmed = _score(sweep)
        gap = best - baseline if best is not None and baseline is not None else None
        first = sweep.winner
        teacher = sweep.teacher_mIoU
        every = [*sweep.records, *sweep.confirming]
        seconds = sum(number(record.history[-1].get("seconds")) or 0.0 for record in every if record.history)
        rows.append(
            [
                cell(name), cell(ident), cell(best, ".2f"), cell(baseline, ".2f"), Cell(signed(gap), gap),
                Cell(facts.interval(mapping(first.get("difference"))) or MISSING), cell(teacher, ".2f"),
                cell(best / teacher if best is not None and teacher else None, ".1%"), cell(len(every)),
                Cell(duration(seconds), seconds), cell("confirmed" if confirmed else "searched"),
            ]
        )  # fmt: skip
    return Table("Scores of each sweep", columns, rows)


def _dots(names: Sequence[str], sweeps: Sequence[Sweep]) -> Plot:
    scores = [_score(sweep) for sweep in sweeps]
    data: list[Trace] = []
    for label, colour, symbol, values in (
        ("teacher", "$teacher", "diamond", [sweep.teacher_mIoU for sweep in sweeps]),
        ("student alone", "$baseline", "square", [score[1] for score in scores]),
        ("best", "$best", "circle", [score[0] for score in scores]),
    ):
        data.append(
            dict(
                type="scatter", mode="markers", name=label, x=values, y=list(names),
                marker=dict(color=colour, symbol=symbol, size=10),
                hovertemplate="%{y}: %{x:.2f}<extra>" + label + "</extra>",
            )
        )  # fmt: skip
    figure = layout(
        xaxis=dict(title="mIoU, %"),
        yaxis=dict(range=[len(names) - 0.4, -0.6], type="category", showline=False, ticks="", griddash="dot"),
    )
    table = Table(
        "mIoU of each sweep, %",
        [Column("sweep"), *[Column(str(trace["name"]), True) for trace in data]],
        [[cell(name), *[cell(trace["x"][index], ".2f") for trace in data]] for index, name in enumerate(names)],
    )
    summary = f"{_verdict(names, sweeps)[:-1]}; each row is a sweep."
    return Plot("sweeps", "Teacher, student alone and best", summary, data, figure, table, height=130 + 44 * len(names))


def _terms(names: Sequence[str], sweeps: Sequence[Sweep]) -> Table:
    rows = [[cell(term), *[Cell(show(read(sweep))) for sweep in sweeps]] for term, read in TERMS.items()]
    return Table("What each sweep was run with", [Column("term"), *[Column(name) for name in names]], rows)

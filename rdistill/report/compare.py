"""The page that compares several sweeps: verdicts, confirmed differences, and whether the sweeps are comparable."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rdistill.core.errors import UserError
from rdistill.core.one_class import when_trained
from rdistill.core.words import listed
from rdistill.report import facts, repeat, scores
from rdistill.report.facts import Fact
from rdistill.report.load import Sweep, load_sweep, mapping, miou, number
from rdistill.report.page import Page, Section
from rdistill.report.plot import Plot, Trace
from rdistill.report.text import MISSING, Cell, Column, Table, cell, duration, points, show, signed
from rdistill.report.theme import layout, percent_range
from rdistill.schemas.mappings import PlainConfig

# Name -> function: the terms that two sweeps must share for their scores to be comparable.
TERMS: dict[str, Callable[[Sweep], Any]] = {
    "validation data": lambda sweep: repeat.data_of(sweep.config),
    "training data": lambda sweep: repeat.data_of(sweep.config, "train"),
    "classes": lambda sweep: sweep.classes,
    "image size in training": lambda sweep: _sizes(sweep.config, "train"),
    "image size in validation": lambda sweep: _sizes(sweep.config, "val"),
    "teacher's weights": lambda sweep: ", ".join(repeat.teacher_files(sweep.config)),
    "teacher's mIoU": lambda sweep: points(sweep.teacher_mIoU),
    "seed": lambda sweep: sweep.spec.get("seed"),
    "seeds of the confirmation": lambda sweep: mapping(sweep.spec.get("confirm")).get("seeds"),
    "iterations of a trial": lambda sweep: sweep.iterations,
    "images a step": lambda sweep: mapping(sweep.config.get("train_dataloader")).get("batch_size"),
}
# Sections of a config that have no effect on a score.
IGNORED_KEYS = (
    "work_dir", "default_hooks", "log_level", "visualizer", "vis_backends", "log_processor", "env_cfg", "launcher",
    "default_scope", "resume", "load_from",
)  # fmt: skip
COMPARED = ("distill", "sweep")  # sections that sweeps are meant to vary: they are listed, but remain comparable
SHOWN = 12  # number of differences that a warning lists; the table has all


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
        [Column("sweep"), Column("verdict", rank=0)],
        [[cell(name), Cell(facts.verdict(sweep))] for name, sweep in zip(names, sweeps, strict=True)],
    )
    confirmed = [
        row for name, sweep in zip(names, sweeps, strict=True) for row in scores.difference_rows(sweep, f"{name}: ")
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
    """A warning for each term in which the sweeps differ, and one for all other differences."""
    notes = []
    for term, read in TERMS.items():
        values = [show(read(sweep)) for sweep in sweeps]
        if len(set(values)) > 1:
            each = "; ".join(f"{name}: {value}" for name, value in zip(names, values, strict=True))
            notes.append(f"The sweeps differ in {term} ({each}): their scores are not about the same thing.")
    rest = differences(sweeps)
    for compared, says in ((False, "Their configs differ too in"), (True, "What they try differs in")):
        keys = [key for key in rest if key.startswith(COMPARED) is compared]
        if keys:
            notes.append(f"{says} {listed(keys, SHOWN)}; the table On equal terms? has the values.")
    return notes


def differences(sweeps: Sequence[Sweep]) -> dict[str, list[str]]:
    """Key -> its value in each sweep, for keys of configs and sweep files that differ and belong to no term."""
    flat = [_flat(sweep.config) | _flat_spec(sweep) for sweep in sweeps]
    keys = list(dict.fromkeys(key for values in flat for key in values))
    rows = {key: [values.get(key, MISSING) for values in flat] for key in keys}
    return {key: values for key, values in rows.items() if len(set(values)) > 1 and not _is_a_term(key)}


def _flat_spec(sweep: Sweep) -> dict[str, str]:
    """Dotted key -> text of each leaf of the sweep file; each dimension of the space is one text."""
    space = {f"sweep.space.{key}": show(dimension) for key, dimension in mapping(sweep.spec.get("space")).items()}
    rest = {key: value for key, value in sweep.spec.items() if key != "space"}
    return space | {f"sweep.{key}": text for key, text in _flat(rest).items()}


def _flat(value: Any, where: str = "") -> dict[str, str]:
    """Dotted key -> text of each leaf; a list of plain values is one leaf."""
    if isinstance(value, Mapping) and value:
        parts = [_flat(item, f"{where}.{key}" if where else str(key)) for key, item in value.items()]
    elif isinstance(value, (list, tuple)) and any(isinstance(item, Mapping) for item in value):
        parts = [_flat(item, f"{where}.{index}") for index, item in enumerate(value)]
    else:
        return {where: show(value)}
    return {key: text for part in parts for key, text in part.items()}


def _is_a_term(key: str) -> bool:
    """Whether a key belongs to one of the terms, or has no effect on a score."""
    in_a_term = (
        "sweep.seed", "sweep.confirm.seeds", "sweep.config", "train_cfg.max_iters", "train_cfg.max_epochs",
        "train_dataloader.batch_size",
    )  # fmt: skip
    ends = (".data_root", ".ann_file", ".checkpoint")
    return key.split(".")[0] in IGNORED_KEYS or key in in_a_term or key.endswith(ends)


def _sizes(config: PlainConfig, split: str) -> str:
    """The sizes in pixels in a split's pipeline, in order, such as ``Resize 128 x 128``."""
    dataset = mapping(mapping(config.get(f"{split}_dataloader")).get("dataset"))
    while isinstance(dataset.get("dataset"), Mapping) and "pipeline" not in dataset:
        dataset = mapping(dataset["dataset"])
    made = []
    for step in dataset.get("pipeline") or []:
        size = next((step[key] for key in ("scale", "crop_size", "size") if isinstance(step.get(key), Sequence)), None)
        if size is not None:
            made.append(f"{step.get('type')} {' x '.join(map(show, size))}")
    return ", ".join(made)


def _names(sweeps: Sequence[Sweep]) -> list[str]:
    """The sweeps' folder names; whole paths if two names are the same."""
    short = [sweep.folder.resolve().name for sweep in sweeps]
    return [str(sweep.folder) if short.count(name) > 1 else name for name, sweep in zip(short, sweeps, strict=True)]


def _score(sweep: Sweep) -> tuple[float | None, float | None, str, bool]:
    """(best mIoU, baseline's mIoU, id of the best, whether these are confirmed means)."""
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
    if any(len({show(read(sweep)) for sweep in sweeps}) > 1 for read in TERMS.values()):
        return (
            f"These sweeps cannot be ranked: they were not run on equal terms (see the warnings). {name} has the "
            f"highest score, {ident} with {points(best)} mIoU ({what}){end}."
        )
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
        Column("sweep"), Column("best", rank=2), Column("mIoU", True, rank=0), Column("baseline", True),
        Column("difference", True, rank=0), Column("95 % interval", True), Column("teacher", True, rank=2),
        Column("of teacher", True, rank=3), Column("trials", True, rank=4), Column("trial time", True, rank=4),
        Column("numbers are"),
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
        xaxis=dict(title="mIoU, %", range=percent_range([value for trace in data for value in trace["x"]])),
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
    rows += [[cell(key), *[Cell(text) for text in texts]] for key, texts in differences(sweeps).items()]
    marks = ["is-different" if len({item.text for item in row[1:]}) > 1 else "" for row in rows]
    columns = [Column("term"), *[Column(name, rank=0) for name in names]]
    return Table("What each sweep was run with; where they differ, in colour", columns, rows, marks)

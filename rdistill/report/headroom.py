"""The section about headroom: how much there is to gain by the short trainings before a sweep, and what limits it."""

from __future__ import annotations

from pathlib import Path

from rdistill.core.files import DamagedFileError, read_json
from rdistill.report.facts import Fact
from rdistill.report.load import mapping, number
from rdistill.report.page import Page, Section
from rdistill.report.text import Cell, Column, Table, cell, condensed, points, signed
from rdistill.schemas.headroom import Headroom
from rdistill.sweeps.headroom.show import BRINGS, lines_of

HEADROOM = "headroom.json"  # a file in the work dir of `rdistill headroom`


def headroom_section(headroom: Headroom | None) -> Section:
    """The section of the page; empty if nothing was measured, and with a note if another version wrote the file."""
    section = Section("headroom", "Headroom")
    try:
        if not headroom:
            return section
        section.notes = [f"Advice: {headroom['recommendation']}."]
        section.notes += [f"{word.capitalize()}: {line}." for word, line in lines_of(headroom)]
        section.tables = [_table(headroom)]
    except (KeyError, TypeError, AttributeError, ValueError):
        return Section("headroom", "Headroom", notes=["headroom.json is of another version and is left out."])
    section.intro = (
        "Short trainings before the search: the student alone, and what one change to it brings. All start from the "
        "same weights; but for half of the labels they see the same batches."
    )
    return section


def headroom_page(folder: Path) -> Page | None:
    """The page of a `rdistill headroom`; None if the folder holds none."""
    file = folder / HEADROOM
    if not file.is_file():
        return None
    try:
        headroom: Headroom = read_json(file)
    except DamagedFileError:
        return None
    gap = mapping(headroom.get("gap"))
    facts = [
        Fact("teacher", points(number(headroom.get("teacher_mIoU"))), "", "teacher"),
        Fact("gap to the teacher", signed(number(gap.get("long"))), "after the longer training"),
    ]
    advice = str(headroom.get("recommendation") or "")
    return Page(folder.resolve().name, "Headroom", advice, facts, [headroom_section(headroom)])


def _table(headroom: Headroom) -> Table:
    columns = [
        Column("trained"),
        Column("iterations", True, rank=2),
        Column("runs", True, rank=2),
        Column("mean mIoU", True, rank=0),
        Column("sd", True, rank=2),
        Column("brings", True, rank=0),
        Column("compared with"),
        *[Column(f"seed {seed}", True, rank=3) for seed in headroom["seeds"]],
    ]
    rows = []
    for arm, run in headroom["arms"].items():
        effect, over = BRINGS.get(arm, (None, ""))
        brought = headroom["effects"].get(effect) if effect is not None else None
        mean = number(mapping(brought).get("mean"))
        stuck = run["one_class_seeds"]
        rows.append(
            [
                Cell(
                    run["words"],
                    note=f"one class only on seed {', '.join(map(str, stuck))}" if stuck else "",
                ),
                cell(run["iterations"]),
                cell(len(run["scores"]) - len(stuck)),
                cell(number(run["mean"]), ".2f"),
                cell(number(run["sd"]), ".2f"),
                Cell(signed(mean), mean),
                cell(over),
                *[cell(number(run["scores"].get(str(seed))), ".2f") for seed in headroom["seeds"]],
            ]
        )
    return condensed(Table("Short trainings before the search", columns, rows))

"""Texts of values, and tables of texts."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

MISSING = "\N{EN DASH}"
MINUS = "\N{MINUS SIGN}"


@dataclass(frozen=True)
class Cell:
    """One cell of a table."""

    text: str
    sort: float | str | None = None  # the value by which the column is sorted
    flag: str = ""  # a CSS class
    note: str = ""  # a note about the row, in small letters below the text


@dataclass(frozen=True)
class Column:
    """The heading of a column, and its rank if not all columns fit."""

    name: str
    numeric: bool = False
    title: str = ""  # the full name if `name` is a short form
    rank: int = 1  # columns with the highest rank are hidden first on a narrow page, and those with rank 0 never


@dataclass(frozen=True)
class Table:
    """A table with a caption; each row has as many cells as there are columns."""

    caption: str
    columns: Sequence[Column]
    rows: Sequence[Sequence[Cell]]
    marks: Sequence[str] = field(default=())  # a CSS class for each row; may be empty
    same: str = ""  # a sentence about columns that were left out, since they have the same text in every row

    def mark(self, row: int) -> str:
        return self.marks[row] if self.marks else ""


def condensed(table: Table) -> Table:
    """A table without the columns that have the same text in every row; a sentence names them. Those of rank 0 stay."""
    if len(table.rows) < 2:
        return table
    texts = [{row[index].text for row in table.rows} for index in range(len(table.columns))]
    left_out = [
        index for index, column in enumerate(table.columns) if index and column.rank > 0 and len(texts[index]) == 1
    ]
    if not left_out:
        return table
    kept = [index for index in range(len(table.columns)) if index not in left_out]
    named = [(table.columns[index].name, *texts[index]) for index in left_out]
    empty = [name for name, text in named if text in ("", MISSING)]
    shared = [f"{name} {text}" for name, text in named if name not in empty]
    parts = [f"The same in every row: {', '.join(shared)}."] if shared else []
    parts += [f"Empty: {', '.join(empty)}."] if empty else []
    return replace(
        table,
        columns=[table.columns[index] for index in kept],
        rows=[[row[index] for index in kept] for row in table.rows],
        same=" ".join(parts),
    )


def cell(value: Any, form: str = ".4g", flag: str = "") -> Cell:
    """A cell for any value; numbers are sorted by value."""
    if isinstance(value, Cell):
        return value
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return Cell(show(value, form), float(value) if math.isfinite(value) else None, flag)
    text = show(value)
    return Cell(text, None if text == MISSING else text.lower(), flag)


def show(value: Any, form: str = ".4g") -> str:
    """A value as one line: a dash for a missing value; a loss as its type and its other keys."""
    if value is None or value == "" or (isinstance(value, float) and math.isnan(value)):
        return MISSING
    if isinstance(value, Mapping):
        rest = [f"{key}={show(item)}" for key, item in value.items() if key != "type"]
        return " ".join([str(value["type"]), *rest] if "type" in value else rest)
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int) and abs(value) < 1e6:
        return format(value, form) if form[-1] in "df%" else str(value)
    if isinstance(value, (int, float)):
        return format(value, form).replace("-", MINUS)
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(show(item) for item in value) + "]"
    return str(value)


def signed(value: float | None) -> str:
    """A difference in points, with its sign: +1.23, and a true minus sign below zero."""
    return MISSING if value is None else f"{value:+.2f}".replace("-", MINUS)


def points(value: float | None) -> str:
    """Percent points with two digits."""
    return MISSING if value is None else f"{value:.2f}".replace("-", MINUS)


def short(key: str, keys: Sequence[str]) -> str:
    """The shortest end of a dotted key that no other of ``keys`` shares; a loss's parameter keeps the loss's name."""
    parts = key.lstrip("+").split(".")
    for length in range(2 if ".losses." in key else 1, len(parts) + 1):
        end = ".".join(parts[-length:])
        if sum(full_key == end or full_key.endswith(f".{end}") for full_key in keys) == 1:
            return end
    return key


def duration(seconds: float | None) -> str:
    """Seconds as a text: 42 s, 3 min 10 s, 5 h 07 min."""
    if seconds is None:
        return "not recorded"
    whole = round(seconds)
    if whole < 60:
        return f"{seconds:.1f} s" if seconds < 10 else f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"

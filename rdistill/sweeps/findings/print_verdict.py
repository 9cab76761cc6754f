"""The end of a sweep on the console: what was confirmed, with intervals, and the verdict."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table


def print_verdict(console: Console, summary: Mapping[str, Any]) -> None:
    """Prints the table of what was confirmed, if anything was, then the warnings and the verdict."""
    for data, part in (("validation", "confirmed"), ("test split, scored once", "test")):
        if summary[part] is not None:
            _print_table(console, summary[part], data)
    for warning in summary["warnings"]:
        console.print(f"warning: {warning}", markup=False)
    console.print(f"verdict   {summary['verdict']}", markup=False, style="bold")


def _print_table(console: Console, confirmed: Mapping[str, Any], data: str) -> None:
    baseline, found = confirmed["baseline"], confirmed["configurations"]
    title = f"Confirmed on fresh seeds ({data}); differences are paired"
    table = Table(title=title, title_justify="left", box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    headings = ("trial", "n", "mIoU", "sd", "difference", "95 % interval", "adj. p", "% teacher")
    for name in headings:
        table.add_column(name, justify="left" if name == "trial" else "right", no_wrap=True)
    for one in ([] if baseline is None else [baseline]) + sorted(found, key=lambda one: -(one["mean"] or 0.0)):
        difference = one.get("difference")
        table.add_row(
            one["id"],
            str(one["n"]),
            _text(one["mean"], ".2f"),
            _text(one["sd"], ".2f"),
            *(
                ("", "", "")
                if difference is None
                else (
                    f"{difference['mean']:+.2f}",
                    f"{difference['low']:+.2f} to {difference['high']:+.2f}",
                    f"{difference['p_adjusted']:.2g}",
                )
            ),
            _text(one["share_of_teacher"], ".1f"),
        )
    console.print(table)
    for one in ([] if baseline is None else [baseline]) + found:
        console.print(f"{one['id']:<9} {one['label']}", markup=False)


def _text(value: float | None, form: str) -> str:
    return "" if value is None else format(value, form)

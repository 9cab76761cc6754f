"""Prints the results of a confirmation, with intervals, and the verdict on the console."""

from __future__ import annotations

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from rdistill.core.one_class import trained_of, when_trained
from rdistill.schemas.summary import Arm, Difference, Evidence, Summary
from rdistill.sweeps.findings.confirm import PYTORCH, exported_kind
from rdistill.sweeps.findings.verdict import at_equal_cost


def print_verdict(console: Console, summary: Summary) -> None:
    """Prints the table of the confirmation, if there was one, then the warnings and the verdict."""
    confirmed, test = summary["confirmed"], summary["test"]
    if confirmed is not None:
        files = f", {called}" if (called := exported_kind(confirmed.get("of", PYTORCH))) else ""
        _print_table(console, confirmed, f"validation{files}", confirmed.get("seconds", "real"))
        if test is not None:
            _print_table(console, test, f"test split, scored once{files}", "real")
    for warning in summary["warnings"]:
        console.print(f"warning: {warning}", markup=False)
    console.print(f"verdict   {summary['verdict']}", markup=False, style="bold")


def _print_table(console: Console, confirmed: Evidence, data: str, seconds: str) -> None:
    baseline, configurations = confirmed["baseline"], confirmed["configurations"]
    title = f"Confirmed on fresh seeds ({data}); differences are paired"
    table = Table(title=title, title_justify="left", box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    headings = ("trial", "n", "mIoU", "sd", "difference", "95 % interval", "adj. p", "% teacher")
    both = any("pytorch" in arm for arm in configurations)
    for name in (*headings, *(["in PyTorch"] if both else [])):
        table.add_column(name, justify="left" if name == "trial" else "right", no_wrap=True)
    for arm in ([] if baseline is None else [baseline]) + sorted(configurations, key=lambda arm: -(arm["mean"] or 0.0)):
        _add_row(table, arm["id"], arm, arm.get("difference"))
        if cost := at_equal_cost(arm):
            _add_row(table, f"- {cost['iterations']:,} it.", cost, cost["difference"])
    console.print(table)
    if any(at_equal_cost(arm) for arm in configurations):
        console.print(
            f"A line that begins with '-' is the student alone at equal cost ({seconds} seconds), with the difference "
            "of the configuration above it to it.",
            markup=False,
        )
    for arm in ([] if baseline is None else [baseline]) + configurations:
        console.print(f"{arm['id']:<9} {arm['label']}", markup=False)


def _add_row(table: Table, name: str, arm: Arm, difference: Difference | None) -> None:
    shown = ("", "", "")
    if difference is not None:
        shown = (
            f"{difference['mean']:+.2f}",
            f"{difference['low']:+.2f} to {difference['high']:+.2f}",
            f"{difference['p_adjusted']:.2g}",
        )
    trained = when_trained(arm)
    table.add_row(
        name,
        trained_of(arm),
        _text(trained["mean"], ".2f"),
        _text(trained["sd"], ".2f"),
        *shown,
        _text(arm.get("share_of_teacher"), ".1f"),
        *([_text(arm["pytorch"]["mean"], ".2f")] if "pytorch" in arm else []),
    )


def _text(value: float | None, form: str) -> str:
    return "" if value is None else format(value, form)

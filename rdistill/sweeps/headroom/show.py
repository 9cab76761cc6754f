"""A headroom on the console: one screen."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

BINDS = {
    "teacher": "the teacher: it is hardly better than the student",
    "iterations": "iterations: twice as many bring most",
    "labels": "labels: twice as many bring most",
    "capacity": "the student's capacity: neither more iterations nor more labels bring much",
}
# Arm -> the effect that its row shows, and between what.
BRINGS = {
    "longer": ("longer", "over alone"),
    "half": ("labels", "all over half"),
    "hard": ("hard_labels", "over alone"),
    "distilled": ("distilled", "over alone"),
}


def show_headroom(console: Console, found: Mapping[str, Any]) -> None:
    """Prints the table of trainings, what follows from it, and the recommendation."""
    console.print(_table(found))
    for word, line in lines_of(found):
        console.print(f"{word:<9} {line}", markup=False, highlight=False, soft_wrap=True)
    console.print(f"advice    {found['recommendation']}", markup=False, soft_wrap=True, style="bold")


def lines_of(found: Mapping[str, Any]) -> list[tuple[str, str]]:
    """What follows from the trainings: a word and a line for each finding."""
    short, long = found["iterations"], 2 * found["iterations"]
    lines = []
    gaps = [(found["gap"][name], count) for name, count in (("short", short), ("long", long))]
    said = [f"{gap:+.2f} after {count:,} iterations" for gap, count in gaps if gap is not None]
    if said:
        lines.append(("gap", f"teacher minus student alone: {', '.join(said)}"))
    if found["binds"] is not None:
        lines.append(("binds", BINDS[found["binds"]]))
    if (spread := found["spread"]) is not None:
        lines.append(
            (
                "spread",
                f"a difference on the same seed varies by {spread['pairs']:.2f} (sd; 80 % interval "
                f"{spread['low']:.2f} to {spread['high']:.2f}), a score by {spread['runs']:.2f}",
            )
        )
        needed = ", ".join(f"{effect}: {_seeds(one)}" for effect, one in found["seeds_needed"].items())
        lines.append(("seeds", f"to show {needed} (paired t test, two-sided 5 %, power 80 %)"))
    if (plan := found.get("plan")) is not None:
        lines.append(
            (
                "cost",
                f"{plan['iterations']:,} iterations take {_duration(plan['seconds_alone'])} alone, "
                f"{_duration(plan['seconds_distilled'])} under the teacher; {plan['of']} takes "
                f"{_duration(plan['sweep_hours'] * 3600)} here at most",
            )
        )
    lines += [("failed", f"{one['arm']} on seed {one['seed']}: {one['reason']}") for one in found["failed"]]
    return lines


def _table(found: Mapping[str, Any]) -> Table:
    table = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for name in ("trained", "iters", "n", "mIoU", "sd", "brings", ""):
        table.add_column(name, justify="left" if name in ("trained", "") else "right", no_wrap=True)
    for arm, one in found["arms"].items():
        effect, over = BRINGS.get(arm, (None, ""))
        difference = found["effects"].get(effect) if effect else None
        stuck = len(one["one_class_seeds"])
        note = f"{stuck} of {len(one['scores'])} one class" if stuck else ""
        table.add_row(
            one["words"],
            f"{one['iterations']:,}",
            str(len(one["scores"]) - stuck),
            _text(one["mean"], ".2f"),
            _text(one["sd"], ".2f"),
            "" if difference is None else f"{difference['mean']:+.2f}",
            note or ("" if difference is None else over),
        )
    if found["teacher_mIoU"] is not None:
        table.add_row("the teacher", "", "", _text(found["teacher_mIoU"], ".2f"), "", "", "")
    return table


def _seeds(needed: Mapping[str, int | None]) -> str:
    def text(count: int | None) -> str:
        return "over 1,000" if count is None else str(count)

    middle, low, high = (text(needed[name]) for name in ("seeds", "low", "high"))
    return middle if low == high else f"{middle} ({low} to {high})"


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def _text(value: float | None, form: str) -> str:
    return "" if value is None else format(value, form)

"""Prints a headroom on the console."""

from __future__ import annotations

from collections.abc import Mapping

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from rdistill.core.words import rough_time
from rdistill.schemas.headroom import Binds, EffectName, Headroom, SeedsNeeded

BINDS: Mapping[Binds, str] = {
    "teacher": "the teacher: it is hardly better than the student",
    "iterations": "iterations: twice as many bring most",
    "labels": "labels: twice as many bring most",
    "capacity": "the student's capacity: neither more iterations nor more labels bring much",
}
# Arm -> (the effect that its row shows, the two arms that the effect is between).
BRINGS: Mapping[str, tuple[EffectName, str]] = {
    "longer": ("longer", "over alone"),
    "half": ("labels", "all over half"),
    "hard": ("hard_labels", "over alone"),
    "distilled": ("distilled", "over alone"),
}


def show_headroom(console: Console, headroom: Headroom) -> None:
    """Prints the table of trainings, the conclusions, and the recommendation."""
    console.print(_table(headroom))
    for word, line in lines_of(headroom):
        console.print(f"{word:<9} {line}", markup=False, highlight=False, soft_wrap=True)
    console.print(f"advice    {headroom['recommendation']}", markup=False, soft_wrap=True, style="bold")


def lines_of(headroom: Headroom) -> list[tuple[str, str]]:
    """The conclusions from the trainings: (word, line) for each."""
    short, long = headroom["iterations"], 2 * headroom["iterations"]
    lines = []
    gaps = [(headroom["gap"]["short"], short), (headroom["gap"]["long"], long)]
    gap_texts = [f"{gap:+.2f} after {count:,} iterations" for gap, count in gaps if gap is not None]
    if gap_texts:
        lines.append(("gap", f"teacher minus student alone: {', '.join(gap_texts)}"))
    if headroom["binds"] is not None:
        lines.append(("binds", BINDS[headroom["binds"]]))
    spread, seeds_needed = headroom["spread"], headroom["seeds_needed"]
    if spread is not None and seeds_needed is not None:
        lines.append(
            (
                "spread",
                f"a difference on the same seed varies by {spread['pairs']:.2f} (sd; 80 % interval "
                f"{spread['low']:.2f} to {spread['high']:.2f}), a score by {spread['runs']:.2f}",
            )
        )
        needed = ", ".join(f"{effect}: {_seeds(seeds)}" for effect, seeds in seeds_needed.items())
        lines.append(("seeds", f"to show {needed} (paired t test, two-sided 5 %, power 80 %)"))
    if (plan := headroom.get("plan")) is not None:
        lines.append(
            (
                "cost",
                f"{plan['iterations']:,} iterations take {rough_time(plan['seconds_alone'])} alone, "
                f"{rough_time(plan['seconds_distilled'])} under the teacher; {plan['of']} takes "
                f"{rough_time(plan['sweep_hours'] * 3600)} here at most",
            )
        )
    lines += [("failed", f"{run['arm']} on seed {run['seed']}: {run['reason']}") for run in headroom["failed"]]
    return lines


def _table(headroom: Headroom) -> Table:
    table = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for name in ("trained", "iters", "n", "mIoU", "sd", "brings", ""):
        table.add_column(name, justify="left" if name in ("trained", "") else "right", no_wrap=True)
    for arm, row in headroom["arms"].items():
        effect, over = BRINGS.get(arm, (None, ""))
        difference = headroom["effects"].get(effect) if effect else None
        stuck = len(row["one_class_seeds"])
        note = f"{stuck} of {len(row['scores'])} one class" if stuck else ""
        table.add_row(
            row["words"],
            f"{row['iterations']:,}",
            str(len(row["scores"]) - stuck),
            _text(row["mean"], ".2f"),
            _text(row["sd"], ".2f"),
            "" if difference is None else f"{difference['mean']:+.2f}",
            note or ("" if difference is None else over),
        )
    if headroom["teacher_mIoU"] is not None:
        table.add_row("the teacher", "", "", _text(headroom["teacher_mIoU"], ".2f"), "", "", "")
    return table


def _seeds(needed: SeedsNeeded) -> str:
    def text(count: int | None) -> str:
        return "over 1,000" if count is None else str(count)

    middle, low, high = text(needed["seeds"]), text(needed["low"]), text(needed["high"])
    return middle if low == high else f"{middle} ({low} to {high})"


def _text(value: float | None, form: str) -> str:
    return "" if value is None else format(value, form)

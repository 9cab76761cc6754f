"""The leaderboard of a sweep."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from rdistill.sweeps.study.records import TrialRecord, measured_names, never_trained
from rdistill.training.console import CLASSES_SHOWN


def print_leaderboard(console: Console, order: list[TrialRecord], gains: Mapping[str, float | None]) -> None:
    """Prints all trials, best first, each with its difference to the baseline."""
    keys = sorted({key for record in order for key in record.values})
    classes = list((order[0].best.get("IoU") or {}) if order else {})
    table = Table(title="Leaderboard (best validation of each trial, one seed)", title_justify="left", box=SIMPLE_HEAD)
    table.add_column("trial")
    for key in keys:
        # The last part below the rest: a loss's name over its parameter.
        table.add_column(short_key(key, keys).replace(".", "\n"), justify="right", overflow="fold")
    measured = measured_names(order)
    for name in measured:  # what came out, beside the share that was searched
        table.add_column(f"{name}\nweight", justify="right", overflow="fold")
    table.add_column("mIoU", justify="right")
    table.add_column("gain", justify="right")
    shown = classes[1:] if len(classes) <= CLASSES_SHOWN else []
    for name in shown:
        table.add_column(name, justify="right")
    table.add_column("note")
    stuck = never_trained(order)
    for record in order:
        best, gain = record.best, gains.get(record.id)
        note = record.reason or ("1 class" if record.id in stuck else "")
        table.add_row(
            record.id,
            *(text_of(record.effective.get(key, record.values.get(key))) for key in keys),
            *(text_of(record.weights.get(name)) for name in measured),
            text_of(best.get("mIoU"), ".2f"),
            "" if gain is None else f"{gain:+.2f}",
            *(text_of((best.get("IoU") or {}).get(name), ".2f") for name in shown),
            note if record.status == "finished" else f"{record.status} {note}".strip(),
        )
    console.print(table)
    if stuck:
        console.print("1 class   never left one class, or hardly: such a trial says little, and no gain is made of it")


def short_key(key: str, keys: list[str]) -> str:
    """The shortest end of a dotted key that no other key shares."""
    parts = key.split(".")
    for length in range(1, len(parts) + 1):
        end = ".".join(parts[-length:])
        if sum(full_key == end or full_key.endswith(f".{end}") for full_key in keys) == 1:
            return end
    return key


def text_of(value: Any, form: str = ".4g") -> str:
    if value is None:
        return ""
    if isinstance(value, Mapping):  # a whole loss: its type, then what else it says
        rest = (f"{key}={text_of(item)}" for key, item in value.items() if key != "type")
        return " ".join([*([str(value["type"])] if "type" in value else []), *rest])
    return format(value, form) if isinstance(value, float) else str(list(value) if isinstance(value, tuple) else value)

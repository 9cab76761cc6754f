"""The leaderboard of a sweep."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from rdistill.sweeps.study.records import TrialRecord, measured_names, never_trained
from rdistill.training.console import CLASSES_SHOWN

MAX_WORD_WIDTH = 10  # words of up to this many characters are not broken


def print_leaderboard(console: Console, order: list[TrialRecord], gains: Mapping[str, float | None]) -> None:
    """Prints all trials, best first, each with its difference to the baseline."""
    keys = sorted({key for record in order for key in record.values})
    classes = list((order[0].best.get("IoU") or {}) if order else {})
    table = Table(
        title="Leaderboard (best validation of each trial, one seed)",
        title_justify="left",
        box=SIMPLE_HEAD,
        pad_edge=False,
    )
    table.add_column("trial", no_wrap=True)
    for key in keys:
        cells = [cell_text(record.used(key)) for record in order]
        # The heading has the loss's name above its parameter.
        name = short_key(key, keys).replace(".", "\n")
        table.add_column(name, justify="right", overflow="fold", min_width=_longest_word(cells))
    measured = measured_names(order)
    for name in measured:  # the measured weight, next to the share that was searched
        table.add_column(f"{name}\nweight", justify="right", overflow="fold")
    table.add_column("mIoU", justify="right", min_width=len("99.99"))
    table.add_column("gain", justify="right", min_width=len("+99.99"))
    shown = classes[1:] if len(classes) <= CLASSES_SHOWN else []
    for name in shown:
        table.add_column(name, justify="right", min_width=len("99.99"))
    table.add_column("note", min_width=len("note"))
    stuck = never_trained(order)
    for record in order:
        best, gain = record.best, gains.get(record.id)
        note = record.reason or ("1 class" if record.id in stuck else "")
        table.add_row(
            record.id,
            *(cell_text(record.used(key)) for key in keys),
            *(cell_text(record.weights.get(name)) for name in measured),
            cell_text(best.get("mIoU"), ".2f"),
            "" if gain is None else f"{gain:+.2f}",
            *(cell_text((best.get("IoU") or {}).get(name), ".2f") for name in shown),
            note if record.status == "finished" else f"{record.status} {note}".strip(),
        )
    console.print(table)
    if stuck:
        console.print("1 class   never left one class, or hardly: such a trial says little, and no gain is made of it")


def _longest_word(cells: Iterable[str]) -> int:
    """The width of a column that breaks no word, except for very long ones."""
    return min(MAX_WORD_WIDTH, max((len(word) for text in cells for word in text.split()), default=1))


def short_key(key: str, keys: list[str]) -> str:
    """The shortest end of a dotted key that no other key shares."""
    parts = key.split(".")
    for length in range(1, len(parts) + 1):
        end = ".".join(parts[-length:])
        if sum(full_key == end or full_key.endswith(f".{end}") for full_key in keys) == 1:
            return end
    return key


def cell_text(value: Any, form: str = ".4g") -> str:
    """The text of a value in a table; losses that were chosen as a whole are ``CWD share=3 + KL share=3 tau=2``."""
    if value is None:
        return ""
    if isinstance(value, Mapping):
        if value and all(isinstance(item, Mapping) and "type" in item for item in value.values()):
            return " + ".join(cell_text(loss) for loss in value.values())
        return " ".join(_words_of(value))
    return format(value, form) if isinstance(value, float) else str(list(value) if isinstance(value, tuple) else value)


def _words_of(loss: Mapping[str, Any]) -> Iterator[str]:
    """The words for a loss: its type, then its other keys. ``on: logits`` is left out, since it is the default."""
    if "type" in loss:
        yield str(loss["type"])
    for key, value in loss.items():
        if key == "weight" and isinstance(value, Mapping):
            yield from (f"{name}={cell_text(item)}" for name, item in value.items())
        elif key != "type" and (key, value) != ("on", "logits"):
            yield f"{key}={cell_text(value)}"

"""The leaderboard of a sweep."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from rdistill.sweeps.study.records import TrialRecord, measured_names, never_trained
from rdistill.training.console import CLASSES_SHOWN

WORD = 10  # characters of a word that is not broken


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
        cells = [text_of(record.used(key)) for record in order]
        # The last part below the rest: a loss's name over its parameter.
        name = short_key(key, keys).replace(".", "\n")
        table.add_column(name, justify="right", overflow="fold", min_width=_longest_word(cells))
    measured = measured_names(order)
    for name in measured:  # what came out, beside the share that was searched
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
            *(text_of(record.used(key)) for key in keys),
            *(text_of(record.weights.get(name)) for name in measured),
            text_of(best.get("mIoU"), ".2f"),
            "" if gain is None else f"{gain:+.2f}",
            *(text_of((best.get("IoU") or {}).get(name), ".2f") for name in shown),
            note if record.status == "finished" else f"{record.status} {note}".strip(),
        )
    console.print(table)
    if stuck:
        console.print("1 class   never left one class, or hardly: such a trial says little, and no gain is made of it")


def _longest_word(cells: Iterable[str]) -> int:
    """Characters that keep each word of a column whole, where it is not a very long one."""
    return min(WORD, max((len(word) for text in cells for word in text.split()), default=1))


def short_key(key: str, keys: list[str]) -> str:
    """The shortest end of a dotted key that no other key shares."""
    parts = key.split(".")
    for length in range(1, len(parts) + 1):
        end = ".".join(parts[-length:])
        if sum(full_key == end or full_key.endswith(f".{end}") for full_key in keys) == 1:
            return end
    return key


def text_of(value: Any, form: str = ".4g") -> str:
    """A value as a cell shows it; losses that were chosen as a whole as ``CWD share=3 + KL share=3 tau=2``."""
    if value is None:
        return ""
    if isinstance(value, Mapping):
        if value and all(isinstance(item, Mapping) and "type" in item for item in value.values()):
            return " + ".join(text_of(loss) for loss in value.values())
        return " ".join(_words_of(value))
    return format(value, form) if isinstance(value, float) else str(list(value) if isinstance(value, tuple) else value)


def _words_of(loss: Mapping[str, Any]) -> Iterator[str]:
    """Its type, then what else it says; a loss without a pair of features is one on logits, which needs no word."""
    if "type" in loss:
        yield str(loss["type"])
    for key, value in loss.items():
        if key == "weight" and isinstance(value, Mapping):
            yield from (f"{name}={text_of(item)}" for name, item in value.items())
        elif key != "type" and (key, value) != ("on", "logits"):
            yield f"{key}={text_of(value)}"

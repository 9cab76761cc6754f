"""Why what was confirmed gains, or does not, on the console."""

from __future__ import annotations

from rich.console import Console

from rdistill.schemas.summary import Summary

SHOWN = 3  # sentences of a configuration; the report has all


def print_why(console: Console, summary: Summary) -> None:
    """Prints what may be why there is no gain; of a configuration with nothing of the kind, how it compares."""
    for name, reasons in (summary.get("why") or {}).items():
        warnings = [sentence["text"] for sentence in reasons["sentences"] if sentence["warning"]]
        lines = warnings[:SHOWN] or [sentence["text"] for sentence in reasons["sentences"][:1]]
        for line in lines:
            console.print(f"why       {name}: {line}", markup=False, highlight=False, soft_wrap=True)

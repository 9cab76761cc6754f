"""Prints the likely reasons why a confirmed configuration gains or does not on the console."""

from __future__ import annotations

from rich.console import Console

from rdistill.schemas.summary import Summary

SHOWN = 3  # the largest number of sentences for each configuration; the report has all


def print_why(console: Console, summary: Summary) -> None:
    """Prints each configuration's warnings, which may explain a missing gain, or its first sentence without any."""
    for name, reasons in (summary.get("why") or {}).items():
        warnings = [sentence["text"] for sentence in reasons["sentences"] if sentence["warning"]]
        lines = warnings[:SHOWN] or [sentence["text"] for sentence in reasons["sentences"][:1]]
        for line in lines:
            console.print(f"why       {name}: {line}", markup=False, highlight=False, soft_wrap=True)

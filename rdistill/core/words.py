"""Counts, sizes, times and lists in the words of a message."""

from __future__ import annotations

from collections.abc import Sequence

_ENDINGS = ("s", "x", "ch", "sh")


def counted(count: float, thing: str) -> str:
    """``1 teacher``, ``2 teachers``, ``2 classes``, ``2 entries``; of several words the last changes."""
    if count == 1:
        return f"1 {thing}"
    amount = f"{count:g}" if isinstance(count, float) else str(count)
    if thing.endswith("y") and thing[-2] not in "aeiou":
        return f"{amount} {thing[:-1]}ies"
    return f"{amount} {thing}" + ("es" if thing.endswith(_ENDINGS) else "s")


def the_first(count: int, thing: str) -> str:
    """``the first batch``, ``the first 8 batches``."""
    return f"the first {thing}" if count == 1 else f"the first {counted(count, thing)}"


def listed(items: Sequence[object], most: int) -> str:
    """``a, b and 3 more``: the first ``most`` of some things, and how many there are beside them."""
    more = f" and {len(items) - most} more" if len(items) > most else ""
    return ", ".join(map(str, items[:most])) + more


def in_bytes(count: float) -> str:
    """``123456789`` -> ``123 MB``."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 999.5:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.3g} TB"


def rough_time(seconds: float) -> str:
    """``45 s``, ``12 min`` or ``3.4 h``: a time that is estimated."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"

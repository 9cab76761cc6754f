"""Describes the differences between two configs, one line for each key."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

from rdistill.core.files import to_json

SHOWN = 10  # differences that a refusal names


def refusals(where: str, changed: Iterable[str], fix: str) -> list[str]:
    """``WHERE: KEY was 1, is 2; FIX``: a line for each difference, of many the first few and how many more there are.

    Args:
        where: a folder, and what looked at it.
        changed: differences, as :func:`differences` words them.
        fix: what the user can do; how many more there are goes before it.
    """
    lines = list(changed)
    more = f" (the first of {len(lines)} differences)" if len(lines) > SHOWN else ""
    return [f"{where}: {line}{more}; {fix}" for line in lines[:SHOWN]]


def plain(value: Any) -> Any:
    """A value as it is after a round trip through JSON (NaN becomes None), so that it compares equal to a file's."""
    return json.loads(to_json(value, default=str))


def differences(old: Any, new: Any, where: str = "", *, into_lists: bool = False) -> dict[str, str]:
    """Dotted key -> ``KEY was 1, is 2``, for every key in which two plain configs differ.

    With ``into_lists``, two lists of the same length are compared element by element (``KEY[0]``). ``where`` is the
    dotted key of ``old`` and ``new`` themselves.
    """
    pairs: list[tuple[str, Any, Any]] = []
    if isinstance(old, dict) and isinstance(new, dict):
        keys = sorted(old.keys() | new.keys())
        pairs = [(f"{where}.{key}".lstrip("."), old.get(key), new.get(key)) for key in keys]
    elif into_lists and isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        pairs = [(f"{where}[{index}]", *values) for index, values in enumerate(zip(old, new, strict=True))]
    else:
        return {} if old == new else {where: f"{where} was {old!r}, is {new!r}"}
    changes: dict[str, str] = {}
    for key, before, after in pairs:
        changes |= differences(before, after, key, into_lists=into_lists)
    return changes

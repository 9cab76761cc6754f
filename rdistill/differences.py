"""What is different between two configs, in lines a user can read."""

from __future__ import annotations

import json
from typing import Any


def plain(value: Any) -> Any:
    """As JSON has it: what a file says and what is in memory compare equal."""
    return json.loads(json.dumps(value, default=str))


def differences(old: Any, new: Any, where: str = "") -> dict[str, str]:
    """Dotted key -> ``KEY was 1, is 2``, for every key in which two plain configs differ."""
    if isinstance(old, dict) and isinstance(new, dict):
        found: dict[str, str] = {}
        for key in sorted(old.keys() | new.keys()):
            found |= differences(old.get(key), new.get(key), f"{where}.{key}".lstrip("."))
        return found
    return {} if old == new else {where: f"{where} was {old!r}, is {new!r}"}

"""Plain values as the source of a Python config, in mmengine's own style: ``dict(type='KL', weight=3.0)``.

``Config.dump`` gives the same to yapf, which takes half a second of a trial each time, and sorts the keys.
"""

from __future__ import annotations

import keyword
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mmengine.config import Config

WIDTH = 110  # characters of a line
_INDENT = 4


def config_source(cfg: Config) -> str:
    """All of a config, a key after the other; mmengine reads the same from it."""
    return "".join(assignment(key, value) for key, value in cfg.to_dict().items())


def assignment(key: str, value: Any, names: Mapping[str, str] | None = None) -> str:
    """``key = value``, over as many lines as it needs.

    Args:
        key: an identifier.
        value: of dictionaries, lists, tuples, strings, paths, numbers.
        names: string -> the variable that stands for it.
    """
    return f"{key} = {_source(value, names or {}, 0, len(key) + 3)}\n"


def _source(value: Any, names: Mapping[str, str], indent: int, used: int) -> str:
    """On one line if it fits there: ``used`` are the characters that it has before it."""
    flat = _flat(value, names)
    if not isinstance(value, (Mapping, list, tuple)) or not value or used + len(flat) < WIDTH:
        return flat
    opening, items, closing = _parts(value)
    inner = indent + _INDENT
    lines = [f"{' ' * inner}{name}{_source(item, names, inner, inner + len(name))}," for name, item in items]
    return "\n".join([opening, *lines, " " * indent + closing])


def _flat(value: Any, names: Mapping[str, str]) -> str:
    if isinstance(value, (Mapping, list, tuple)):
        opening, items, closing = _parts(value)
        comma = "," if isinstance(value, tuple) and len(value) == 1 else ""
        return opening + ", ".join(name + _flat(item, names) for name, item in items) + comma + closing
    if isinstance(value, Path):
        return repr(str(value))
    if isinstance(value, float) and not math.isfinite(value):
        return f"float('{value}')"
    return names.get(value, repr(value)) if isinstance(value, str) else repr(value)


def _parts(value: Any) -> tuple[str, list[tuple[str, Any]], str]:
    """A container's opening, its items with what stands before each, and its closing."""
    if not isinstance(value, Mapping):
        opening, closing = "[]" if isinstance(value, list) else "()"
        return opening, [("", item) for item in value], closing
    order = sorted(value, key=lambda key: key != "type")  # the type first, the others as they are
    if all(isinstance(key, str) and key.isidentifier() and not keyword.iskeyword(key) for key in order):
        return "dict(", [(f"{key}=", value[key]) for key in order], ")"
    return "{", [(f"{key!r}: ", value[key]) for key in order], "}"

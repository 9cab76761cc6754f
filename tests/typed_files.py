"""Whether a file's content is what a type of :mod:`rdistill.schemas` says."""

from __future__ import annotations

import types
from collections.abc import Sequence
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints, is_typeddict


def unlike(value: Any, kind: Any, where: str = "") -> list[str]:
    """Where a value differs from its type, one line a place: unknown and absent keys, values of another kind."""
    if is_typeddict(kind):
        if not isinstance(value, dict):
            return [f"{where}: {value!r} instead of {kind.__name__}"]
        hints = get_type_hints(kind)
        problems = [f"{where}.{key}: is no key of {kind.__name__}" for key in value if key not in hints]
        problems += [f"{where}.{key}: is absent" for key in sorted(kind.__required_keys__ - value.keys())]
        for key, item in value.items():
            problems += unlike(item, hints[key], f"{where}.{key}") if key in hints else []
        return problems
    origin, args = get_origin(kind), get_args(kind)
    if kind is Any:
        return []
    if origin in (Union, types.UnionType):
        each = [unlike(value, arg, where) for arg in args]
        return [] if [] in each else min(each, key=len)
    if origin is Literal:
        return [] if value in args else [f"{where}: {value!r} is none of {args}"]
    if origin in (list, Sequence):
        if not isinstance(value, origin) or isinstance(value, str):
            return [f"{where}: {value!r} instead of a list"]
        return [line for index, item in enumerate(value) for line in unlike(item, args[0], f"{where}.{index}")]
    if origin is dict:
        if not isinstance(value, dict):
            return [f"{where}: {value!r} instead of a mapping"]
        return [line for key, item in value.items() for line in unlike(item, args[1], f"{where}.{key}")]
    accepted = (int, float) if kind is float else kind
    good = isinstance(value, accepted) and (kind is bool or not isinstance(value, bool))
    return [] if good else [f"{where}: {value!r} instead of {getattr(kind, '__name__', kind)}"]

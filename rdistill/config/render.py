"""Writes plain values as a Python config in mmengine's style: ``dict(type='KL', weight=3.0)``.

``Config.dump`` formats the same text with yapf, which takes half a second for each trial, and sorts the keys.
"""

from __future__ import annotations

import ast
import keyword
import math
import re
import tempfile
import unicodedata
from collections.abc import Mapping
from numbers import Integral, Real
from pathlib import Path
from typing import Any

from mmengine.config import Config
from mmengine.config.config import RESERVED_KEYS

from rdistill.core.errors import UserError, one_line

WIDTH = 110  # characters of a line
_INDENT = 4
_USED_NAMES = ("dict", "float")  # Python names that the written files use


def config_source(cfg: Config) -> str:
    """The source of a whole config, from which mmengine reads the same values.

    Raises:
        UserError: it has a key or a value that a config file cannot hold.
    """
    values = as_written(cfg.to_dict())
    if problems := [f"{key}: {problem}" for key in values if (problem := top_key_problem(key))]:
        raise UserError(*problems)
    return "".join(assignment(key, value) for key, value in values.items())


def checked_source(cfg: Config) -> str:
    """Like :func:`config_source`, but also checks that mmengine reads the same values from the text.

    Raises:
        UserError: it does not. Otherwise a run would find out only when it is resumed.
    """
    text = config_source(cfg)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "config.py")
        file.write_text(text, encoding="utf-8")
        try:
            read = Config.fromfile(str(file), import_custom_modules=False).to_dict()
        except Exception as error:  # Python and mmengine may raise any error for a file
            message = one_line(str(error).replace(str(file), "it"), 200)
            raise UserError(f"the config cannot be read back: {type(error).__name__}: {message}") from None
    if key := _difference(as_written(cfg.to_dict()), read, ""):
        raise UserError(f"{key}: is another value when the config is read back; choose another key or value")
    return text


def top_key_problem(key: Any) -> str | None:
    """The reason why a config cannot have a top-level key of this name, which is a Python variable; None if it can."""
    if not isinstance(key, str) or not key.isidentifier() or keyword.iskeyword(key):
        return f"a key of a config must be a name of Python's: letters, digits and _, no keyword; got {key!r}"
    if unicodedata.normalize("NFKC", key) != key:
        return f"Python reads {key!r} as {unicodedata.normalize('NFKC', key)!r}; write that instead"
    if key.startswith("__") or key == "_base_" or key in RESERVED_KEYS or key in _USED_NAMES:
        return f"mmengine's config files keep {key!r} for themselves; choose another name"
    return None


def as_written(value: Any, where: str = "") -> Any:
    """A copy of a value with text instead of paths, Python numbers instead of numpy's, and plain containers.

    Raises:
        UserError: a value, whose key is named, has no Python literal, such as a date.
    """
    if isinstance(value, Mapping):
        return {_key(key, where): as_written(item, f"{where}.{key}".lstrip(".")) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        items = [as_written(item, f"{where}.{index}") for index, item in enumerate(value)]
        return items if isinstance(value, list) else tuple(items)
    if value is None or type(value) in (bool, int, float, str, bytes, complex, range, slice):
        return value
    if isinstance(value, (str, Path)):
        return str(value)
    if isinstance(value, Integral):
        return int(value)
    if isinstance(value, Real):
        return float(value)
    kind = type(value).__name__
    if kind in ("bool", "bool_"):
        return bool(value)
    if kind in ("date", "datetime"):
        raise UserError(f"{where}: {value} is a date, which no config can hold; write it as text")
    try:
        if ast.literal_eval(repr(value)) == value:  # a set of numbers
            return value
    except (ValueError, SyntaxError):
        pass
    raise UserError(f"{where}: a config file cannot hold a {kind}; use text, numbers, lists and sections")


def comment_line(line: str) -> str:
    """A text as a single comment line, without the double braces in which mmengine substitutes variables."""
    text = f"# {' '.join(line.splitlines())}".rstrip().replace("\0", " ")
    return re.sub(r"\{(?=\{)", "{ ", text)


def assignment(key: str, value: Any, names: Mapping[str, str] | None = None) -> str:
    """The source of ``key = value``, in one or several lines.

    Args:
        key: an identifier.
        value: dictionaries, lists, tuples, strings, paths or numbers.
        names: string -> the variable to write in its place.
    """
    return f"{key} = {_source(value, names or {}, 0, len(key) + 3)}\n"


def literal(value: Any) -> str:
    """The ``repr`` of a value without double braces, in which mmengine would substitute variables."""
    # Double braces can only be inside a string.
    return repr(value).replace("{{", "{\\x7b")


def _key(key: Any, where: str) -> Any:
    if key is None or type(key) in (bool, int, float, str):
        return key
    if isinstance(key, str):
        return str(key)
    raise UserError(f"{where or 'config'}: the key {key} is a {type(key).__name__}; write it as text")


def _difference(written: Any, read: Any, where: str) -> str | None:
    """The first key at which two plain values differ, in their types or values; None if they are equal."""
    if type(written) is not type(read):
        return where
    if isinstance(written, dict):
        if list(map(repr, sorted(written, key=repr))) != list(map(repr, sorted(read, key=repr))):
            return where or ", ".join(sorted(map(str, written.keys() ^ read.keys()))) or "config"
        pairs = [(key, value, read[key]) for key, value in written.items() if key == key]  # all keys except NaN
    elif isinstance(written, (list, tuple)):
        if len(written) != len(read):
            return where
        pairs = list(zip(range(len(read)), written, read, strict=True))
    else:
        return None if repr(written) == repr(read) else where
    places = (_difference(value, got, f"{where}.{key}".lstrip(".")) for key, value, got in pairs)
    return next(filter(None, places), None)


def _source(value: Any, names: Mapping[str, str], indent: int, used: int) -> str:
    """The source of a value, on one line if it fits; ``used`` is the number of characters before it on the line."""
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
        return literal(str(value))
    if isinstance(value, float) and not math.isfinite(value):
        return f"float('{value}')"
    return names.get(value, literal(value)) if isinstance(value, str) else literal(value)


def _parts(value: Any) -> tuple[str, list[tuple[str, Any]], str]:
    """The opening text of a container, its items with the text before each of them, and the closing text."""
    if not isinstance(value, Mapping):
        opening, closing = "[]" if isinstance(value, list) else "()"
        return opening, [("", item) for item in value], closing
    order = sorted(value, key=lambda key: key != "type")  # "type" first, the other keys in their order
    if all(isinstance(key, str) and _is_plain_name(key) for key in order):
        return "dict(", [(f"{key}=", value[key]) for key in order], ")"
    return "{", [(f"{_flat(key, {})}: ", value[key]) for key in order], "}"


def _is_plain_name(key: str) -> bool:
    """Whether Python accepts a key as an argument name and does not normalise it to another name."""
    return key.isidentifier() and not keyword.iskeyword(key) and unicodedata.normalize("NFKC", key) == key

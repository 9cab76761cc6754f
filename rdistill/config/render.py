"""Plain values as the source of a Python config, in mmengine's own style: ``dict(type='KL', weight=3.0)``.

``Config.dump`` gives the same to yapf, which takes half a second of a trial each time, and sorts the keys.
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
_USED = ("dict", "float")  # names that the written files use


def config_source(cfg: Config) -> str:
    """All of a config, a key after the other; mmengine reads the same from it.

    Raises:
        UserError: a key or a value that no config file can hold.
    """
    values = as_written(cfg.to_dict())
    if problems := [f"{key}: {problem}" for key in values if (problem := top_key_problem(key))]:
        raise UserError(*problems)
    return "".join(assignment(key, value) for key, value in values.items())


def checked_source(cfg: Config) -> str:
    """As :func:`config_source`, after mmengine has read it and found every value as it was.

    Raises:
        UserError: it did not, which a run would find out only when it is resumed.
    """
    text = config_source(cfg)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "config.py")
        file.write_text(text, encoding="utf-8")
        try:
            read = Config.fromfile(str(file), import_custom_modules=False).to_dict()
        except Exception as error:  # whatever Python and mmengine raise for a file
            message = one_line(str(error).replace(str(file), "it"), 200)
            raise UserError(f"the config cannot be read back: {type(error).__name__}: {message}") from None
    if key := _difference(as_written(cfg.to_dict()), read, ""):
        raise UserError(f"{key}: is another value when the config is read back; choose another key or value")
    return text


def top_key_problem(key: Any) -> str | None:
    """Why a config cannot have a key of its own with that name: in its file, each is a variable of Python."""
    if not isinstance(key, str) or not key.isidentifier() or keyword.iskeyword(key):
        return f"a key of a config must be a name of Python's: letters, digits and _, no keyword; got {key!r}"
    if unicodedata.normalize("NFKC", key) != key:
        return f"Python reads {key!r} as {unicodedata.normalize('NFKC', key)!r}; write that instead"
    if key.startswith("__") or key == "_base_" or key in RESERVED_KEYS or key in _USED:
        return f"mmengine's config files keep {key!r} for themselves; choose another name"
    return None


def as_written(value: Any, where: str = "") -> Any:
    """The same with text in place of paths, Python's numbers in place of numpy's, and plain containers.

    Raises:
        UserError: naming the first value that has no literal, such as a date.
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
    """A line of comment, which stays one, and in which mmengine finds nothing to substitute."""
    text = f"# {' '.join(line.splitlines())}".rstrip().replace("\0", " ")
    return re.sub(r"\{(?=\{)", "{ ", text)


def assignment(key: str, value: Any, names: Mapping[str, str] | None = None) -> str:
    """``key = value``, over as many lines as it needs.

    Args:
        key: an identifier.
        value: of dictionaries, lists, tuples, strings, paths, numbers.
        names: string -> the variable that stands for it.
    """
    return f"{key} = {_source(value, names or {}, 0, len(key) + 3)}\n"


def literal(value: Any) -> str:
    """``repr``, without the two braces in which mmengine replaces what it reads: variables of the environment, too."""
    # Two braces stand together only in the strings of a value's source.
    return repr(value).replace("{{", "{\\x7b")


def _key(key: Any, where: str) -> Any:
    if key is None or type(key) in (bool, int, float, str):
        return key
    if isinstance(key, str):
        return str(key)
    raise UserError(f"{where or 'config'}: the key {key} is a {type(key).__name__}; write it as text")


def _difference(written: Any, read: Any, where: str) -> str | None:
    """The first key at which two plain values differ, in their kinds or otherwise."""
    if type(written) is not type(read):
        return where
    if isinstance(written, dict):
        if list(map(repr, sorted(written, key=repr))) != list(map(repr, sorted(read, key=repr))):
            return where or ", ".join(sorted(map(str, written.keys() ^ read.keys()))) or "config"
        pairs = [(key, value, read[key]) for key, value in written.items() if key == key]  # all but NaN
    elif isinstance(written, (list, tuple)):
        if len(written) != len(read):
            return where
        pairs = list(zip(range(len(read)), written, read, strict=True))
    else:
        return None if repr(written) == repr(read) else where
    places = (_difference(value, got, f"{where}.{key}".lstrip(".")) for key, value, got in pairs)
    return next(filter(None, places), None)


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
        return literal(str(value))
    if isinstance(value, float) and not math.isfinite(value):
        return f"float('{value}')"
    return names.get(value, literal(value)) if isinstance(value, str) else literal(value)


def _parts(value: Any) -> tuple[str, list[tuple[str, Any]], str]:
    """A container's opening, its items with what stands before each, and its closing."""
    if not isinstance(value, Mapping):
        opening, closing = "[]" if isinstance(value, list) else "()"
        return opening, [("", item) for item in value], closing
    order = sorted(value, key=lambda key: key != "type")  # the type first, the others as they are
    if all(isinstance(key, str) and _is_plain_name(key) for key in order):
        return "dict(", [(f"{key}=", value[key]) for key in order], ")"
    return "{", [(f"{_flat(key, {})}: ", value[key]) for key in order], "}"


def _is_plain_name(key: str) -> bool:
    """Whether Python takes it as the name of an argument, and as that very name."""
    return key.isidentifier() and not keyword.iskeyword(key) and unicodedata.normalize("NFKC", key) == key

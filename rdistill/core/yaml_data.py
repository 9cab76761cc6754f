"""Reads YAML as plain data, as in sweep files and values of ``--set``, and refuses what is surprising or harmful.

PyYAML's safe loader runs no code, but it accepts duplicate keys, unlimited nesting, and aliases that expand to
gigabytes.
"""

from __future__ import annotations

import math
import re
from collections.abc import Hashable, Mapping
from pathlib import Path
from typing import Any

import yaml

from rdistill.core.errors import UserError
from rdistill.core.validation import short

MAX_DEPTH = 32  # levels of nested lists and mappings
MAX_NODES = 50_000  # keys and values of a file; those behind an alias count each time
MAX_BYTES = 2**20
ALLOWED_TAGS = ("map", "seq", "str", "int", "float", "bool", "null", "merge")


def read_yaml(path: Path) -> Any:
    """The content of a YAML file: lists, dicts, texts, numbers, booleans and None.

    Raises:
        UserError: the file cannot be read, is no text, or is not YAML of this kind; the message names the line.
    """
    try:
        with open(path, "rb") as file:
            content = file.read(MAX_BYTES + 1)
    except (OSError, ValueError) as error:  # ValueError: a NUL byte in the name
        raise UserError(f"{path}: cannot be read: {getattr(error, 'strerror', None) or error}") from None
    if len(content) > MAX_BYTES:
        raise UserError(f"{path}: is larger than {MAX_BYTES // 2**20} MiB; is it the right file?")
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        byte = f"{content[error.start]:#04x}"
        raise UserError(f"{path}:{line}: is not UTF-8 text (byte {byte}); save it as UTF-8") from None
    try:
        return parse_yaml(text)
    except yaml.YAMLError as error:
        raise UserError(f"{path}{yaml_problem(error)}") from None


def parse_yaml(text: str) -> Any:
    """Like :func:`read_yaml`, but for a text. Raises yaml.YAMLError; see :func:`yaml_problem`."""
    return yaml.load(text, Loader=_Loader)  # a SafeLoader


def yaml_problem(error: yaml.YAMLError) -> str:
    """Describes an error as ``:3: is not valid YAML: REASON``; the line number, from 1, is given if it is known."""
    if isinstance(error, yaml.reader.ReaderError):
        return f": is not valid YAML: {chr(int(error.character))!r} may not stand in it"
    mark = getattr(error, "problem_mark", None) or getattr(error, "context_mark", None)
    problem = str(getattr(error, "problem", None) or error)
    for original, plain in PLAIN_WORDS.items():
        if original in problem:
            problem = plain
    return f"{f':{mark.line + 1}' if mark else ''}: is not valid YAML: {problem}"


PLAIN_WORDS = {  # part of PyYAML's message -> rdistill's message
    r"found character '\t' that cannot start any token": "a tab cannot indent or begin a value; use spaces",
    "second occurrence": "an anchor (&name) is there twice",
    "but found another document": "a second document begins here (---); put each in a file of its own",
}


def not_plain(value: Any, where: str, *, as_json: bool = True, depth: int = 0) -> list[str]:
    """Finds the parts of a value that are not plain data; returns one line for each, with its key.

    Plain data are None, booleans, texts that UTF-8 can encode, numbers except NaN, and lists and dicts of these.

    Args:
        value: a value from a file, a command line, or a caller.
        where: dotted key of the value.
        as_json: whether numbers must also be finite and keys must be texts, so that JSON returns the same value.
        depth: nesting depth of the value; 0 in the first call.
    """
    if depth > MAX_DEPTH:
        return [f"{where}: is nested more than {MAX_DEPTH} deep"]
    if isinstance(value, Mapping):
        key_types = (str,) if as_json else (str, int)
        lines = [
            f"{where}: a key must be text, got {short(key)}"
            for key in value
            if not isinstance(key, key_types) or (isinstance(key, str) and not is_text(key))
        ]
        inner = [(f"{where}.{key}", entry) for key, entry in value.items()]
    elif isinstance(value, (list, tuple)):
        lines, inner = [], [(f"{where}.{index}", entry) for index, entry in enumerate(value)]
    elif isinstance(value, float) and (math.isnan(value) or (as_json and math.isinf(value))):
        return [f"{where}: must be a finite number, got {value}"]
    elif isinstance(value, int) and abs(value) >= 2**63:
        return [f"{where}: must be a whole number of at most 64 bits, got {short(value)}"]
    elif isinstance(value, str) and not is_text(value):
        return [f"{where}: holds half a character (a surrogate), got {short(value)}; write the character itself"]
    elif value is None or isinstance(value, (bool, int, float, str)):
        return []
    else:
        expected = "text, a number, true, false, null, or a list or mapping of them"
        return [f"{where}: must be {expected}, got {short(value)}"]
    return lines + [line for key, entry in inner for line in not_plain(entry, key, as_json=as_json, depth=depth + 1)]


def is_text(value: str) -> bool:
    """Whether UTF-8 can encode the text: a lone surrogate, such as ``"\\ud83d"``, is not a character."""
    try:
        value.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


class _Loader(yaml.SafeLoader):
    """A SafeLoader that refuses duplicate keys, unusual tags and unlimited nesting, and reads 1e-3 as a number."""

    def __init__(self, stream: str) -> None:
        super().__init__(stream)
        self._depth = self._nodes = 0
        self._open: set[str] = set()  # anchors of nodes that are not complete yet
        self._sizes: dict[str, int] = {}  # anchor -> number of nodes behind an alias of it

    def compose_node(self, parent: Any, index: Any) -> Any:
        event = self.peek_event()
        anchor, mark = event.anchor, event.start_mark
        if isinstance(event, yaml.AliasEvent):
            if anchor in self._open:
                raise yaml.composer.ComposerError(None, None, f"*{anchor} stands within itself", mark)
            self._count(self._sizes.get(anchor, 0), mark)
            return super().compose_node(parent, index)
        if self._depth >= MAX_DEPTH:
            raise yaml.composer.ComposerError(None, None, f"is nested more than {MAX_DEPTH} deep", mark)
        before = self._nodes
        self._count(1, mark)
        self._depth += 1
        if anchor is not None:
            self._open.add(anchor)
        node = super().compose_node(parent, index)
        self._depth -= 1
        if anchor is not None:
            self._open.discard(anchor)
            self._sizes[anchor] = self._nodes - before
        return node

    def _count(self, nodes: int, mark: Any) -> None:
        self._nodes += nodes
        if self._nodes > MAX_NODES:
            text = f"has more than {MAX_NODES} values, with what its aliases (*name) stand for"
            raise yaml.composer.ComposerError(None, None, text, mark)

    def construct_object(self, node: Any, deep: bool = False) -> Any:
        tag = node.tag.removeprefix("tag:yaml.org,2002:")
        if tag not in ALLOWED_TAGS:
            text = f"the tag {'!!' + tag if tag != node.tag else tag} is not taken; write plain values"
            raise yaml.constructor.ConstructorError(None, None, text, node.start_mark)
        try:
            return super().construct_object(node, deep=deep)
        except (ValueError, OverflowError, LookupError):  # such as `0x_`, `!!bool maybe`, or `!!int` without a value
            text = f"{_excerpt(node)} is no value of type {tag}"
            raise yaml.constructor.ConstructorError(None, None, text, node.start_mark) from None

    def construct_mapping(self, node: Any, deep: bool = False) -> Any:
        if isinstance(node, yaml.MappingNode):
            seen: dict[Any, int] = {}
            for key_node, _ in node.value:
                if key_node.tag.endswith(":merge"):
                    continue
                if key_node.tag.endswith(":bool"):  # `on` and `no` are texts as keys
                    key_node.tag = "tag:yaml.org,2002:str"
                key, line = self.construct_object(key_node, deep=True), key_node.start_mark.line + 1
                if not isinstance(key, Hashable):
                    text = "a list or a mapping cannot be a key"
                    raise yaml.constructor.ConstructorError(None, None, text, key_node.start_mark)
                if key in seen:
                    text = f"the key {_excerpt(key_node)} is there twice, first in line {seen[key]}; keep one of them"
                    raise yaml.constructor.ConstructorError(None, None, text, key_node.start_mark)
                seen[key] = line
        return super().construct_mapping(node, deep=deep)


def _excerpt(node: Any) -> str:
    text = str(getattr(node, "value", ""))
    return repr(text if len(text) <= 60 else f"{text[:60]}...")


def _resolvers() -> dict[str, list[tuple[str, re.Pattern[str]]]]:
    """The resolvers of YAML 1.2, where dates and base-60 numbers (in YAML 1.1, `1:30` is 90) are plain texts."""
    dropped = ("timestamp", "value")
    kept: dict[str, list[tuple[str, re.Pattern[str]]]] = {}
    for first, pairs in yaml.SafeLoader.yaml_implicit_resolvers.items():
        kept[first] = [(tag, _NUMBERS.get(tag, regexp)) for tag, regexp in pairs if tag.split(":")[-1] not in dropped]
    return kept


_INT = re.compile(r"[-+]?(0b[0-1_]+|0[0-7_]+|0|[1-9][0-9_]*|0x[0-9a-fA-F_]+)$")
_FLOAT = re.compile(  # numbers with a point, an exponent, or both
    r"[-+]?([0-9][0-9_]*\.[0-9_]*|\.[0-9][0-9_]*)([eE][-+]?[0-9]+)?$|[-+]?[0-9][0-9_]*[eE][-+]?[0-9]+$"
    r"|[-+]?\.(inf|Inf|INF)$|\.(nan|NaN|NAN)$"
)
_NUMBERS = {"tag:yaml.org,2002:int": _INT, "tag:yaml.org,2002:float": _FLOAT}
_Loader.yaml_implicit_resolvers = _resolvers()

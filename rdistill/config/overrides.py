"""Reads and sets values of a config by dotted keys, as ``--set`` and the search space of a sweep do."""

from __future__ import annotations

import ast
import math
import re
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import yaml
from mmengine.config import Config, ConfigDict

from rdistill._compat.mmengine import config_dict
from rdistill.config.render import as_written, top_key_problem
from rdistill.core.errors import UserError, did_you_mean
from rdistill.core.words import counted
from rdistill.core.yaml_data import not_plain, parse_yaml, yaml_problem
from rdistill.schemas.mappings import ConfigValues

INIT_SEED = "randomness.init_seed"  # seed of the initial weights of student and adapters; default: the run's seed


def parse_assignments(assignments: list[str]) -> ConfigValues:
    """``['a.b=1e-3', '+c=[1, 2]']`` -> ``{'a.b': 0.001, '+c': [1, 2]}``; values are Python or YAML literals."""
    values: ConfigValues = {}
    problems = []
    for assignment in assignments:
        key, equals, text = assignment.partition("=")
        if not equals or not key.strip():
            problems.append(f"--set {assignment}: must be key=value")
            continue
        try:
            value = _parse_value(text.strip())
        except yaml.YAMLError as error:
            reason = yaml_problem(error).split("is not valid YAML: ", maxsplit=1)[-1]
            problems.append(f"--set {assignment}: the value is neither a Python nor a YAML literal: {reason}")
            continue
        values[key.strip()] = value
        problems += not_plain(value, f"--set {key.strip()}", as_json=False)
    if problems:
        raise UserError(*problems)
    return values


def lookup(node: Any, dotted: str) -> Any:
    """The value at a dotted key of a config. Raises KeyError if there is no such key."""
    for part in dotted.split("."):
        if isinstance(node, (list, tuple)) and (index := _index(part, node)) is not None:
            node = node[index]
        elif isinstance(node, Mapping) and part in node:
            node = node[part]
        else:
            raise KeyError(dotted)
    return node


def _index(part: str, node: Sequence[Any]) -> int | None:
    """A part of a dotted key as an index into a list (from its end if negative); None if it is no valid index."""
    if not re.fullmatch(r"-?[0-9]{1,9}", part):  # not isdigit, which is True for '²', too
        return None
    return int(part) if -len(node) <= int(part) < len(node) else None


def _parse_value(text: str) -> Any:
    if text.startswith("@"):  # a feature name may begin with it, but YAML reserves this character
        return text
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Python warns about invalid escapes in literals, such as '\\d'
            return ast.literal_eval(text)
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):  # the last two for deep nesting
        return parse_yaml(text)


def apply_overrides(cfg: Config, overrides: Mapping[str, Any]) -> list[str]:
    """Sets dotted keys in place; returns a line for each key that cannot be set."""
    return [problem for key, value in overrides.items() if (problem := _override(cfg, key, value))]


def _override(cfg: Config, key: str, value: Any) -> str | None:
    """Sets one dotted key in place; returns the problem, if there is one."""
    may_add = key.startswith("+")
    parts = key.lstrip("+").split(".")
    if "" in parts or not key.isprintable():
        return f"{key!r} is no key; keys are written as a.b.c"
    if parts[0] not in config_dict(cfg) and may_add and (problem := top_key_problem(parts[0])):
        return f"{key!r}: {problem}"
    try:
        value = as_written(value, key)
    except UserError as error:
        return error.problems[0]
    node: Any = config_dict(cfg)
    parts = _expand_share(node, parts, value)
    for depth, part in enumerate(parts):
        last = depth == len(parts) - 1
        # Keys below `distill` need not exist yet, such as parameters of a loss; its own check reports unknown ones.
        free = may_add or (parts[0] == "distill" and depth > 0) or key == INIT_SEED
        if problem := _missing(node, parts[: depth + 1], key, may_add=free):
            return problem
        index: Any = part if isinstance(node, dict) else _index(part, node)
        if last:
            return _assign(node, index, value, parts)
        if isinstance(node, dict) and (part not in node or node[part] is None):
            node[part] = ConfigDict()
        node = node[index]
    return None


def _missing(node: Any, parts: Sequence[str], key: str, *, may_add: bool) -> str | None:
    """Why the last of ``parts`` cannot be reached in ``node``, to which the parts before it lead; None if it can.

    ``key`` is the whole key as the user wrote it.
    """
    where, part = ".".join(parts), parts[-1]
    if isinstance(node, (list, tuple)):
        if _index(part, node) is not None:
            return None
        return f"{where}: no such index; the list has {counted(len(node), 'entry')}"
    if not isinstance(node, dict):
        return f"{where}: {'.'.join(parts[:-1])} is {node!r}, which has no keys"
    if part in node or may_add:
        return None
    return f"unknown key {where}{did_you_mean(part, node)} (write +{key} to add a new key)"


def _assign(node: Any, index: Any, value: Any, parts: Sequence[str]) -> str | None:
    """Sets the value at an index or a key of ``node``, in place; returns the problem, if there is one."""
    where = ".".join(parts)
    if isinstance(node, tuple):
        return f"{where}: a tuple is set as a whole, not by index"
    old = node[index] if isinstance(node, list) else node.get(index)
    # The weight of a loss may change from a number to a section, and back.
    changes_form = _is_weight(parts) and isinstance(old, dict) != isinstance(value, dict)
    if not changes_form and (problem := _wrong_kind(old, value)):
        return f"{where}: {problem}"
    node[index] = ConfigDict(value) if isinstance(value, dict) else value
    return None


def _is_weight(parts: Sequence[str]) -> bool:
    """Whether a key is the weight of a loss, or its share."""
    return parts[:2] == ["distill", "losses"] and tuple(parts[3:]) in (("weight",), ("weight", "share"))


def _expand_share(root: Any, parts: list[str], value: Any) -> list[str]:
    """Turns a number at ``distill.losses.NAME.weight`` or ``.share`` into a section, in place, if a key is set in it.

    Returns:
        The parts of the key. If a number is set as the share and the share is a section, this is the key of its
        ``value``.
    """
    if not _is_weight(parts[:5]) or len(parts) < 5:
        return parts
    try:
        loss = lookup(root, ".".join(parts[:3]))
    except KeyError:
        return parts
    if not isinstance(loss, dict) or not isinstance(loss.get("weight"), (int, float, dict)):
        return parts
    if not isinstance(loss["weight"], dict):
        loss["weight"] = ConfigDict()
    share = loss["weight"].get("share")
    if len(parts) > 5 and isinstance(share, (int, float)):
        loss["weight"]["share"] = ConfigDict(value=share)
    return [*parts, "value"] if len(parts) == 5 and isinstance(share, dict) and not isinstance(value, dict) else parts


def _wrong_kind(old: Any, new: Any) -> str | None:
    """Describes the problem if a value is replaced by one of another kind, such as a number by a text; None if not."""
    if old is None or new is None:
        return None
    if isinstance(old, bool):
        return None if isinstance(new, bool) else f"must be true or false, got {new!r}"
    if isinstance(old, (int, float)):
        if isinstance(new, (int, float)) and not isinstance(new, bool):
            lost = isinstance(new, float) and not math.isfinite(new) and math.isfinite(old)
            return f"must be a finite number, got {new}" if lost else None
        return f"must be a number, got {new!r}"
    if isinstance(old, dict):
        return None if isinstance(new, dict) else f"is a section with keys {', '.join(old)}, got {new!r}"
    return None

"""Checks that the ``type`` of each section in a config exists, and that each key is an argument of that class.

Otherwise, a mistyped key would be silently ignored by a class that takes ``**kwargs``. For other classes, the run would
end when they are built, which for hooks is after the teachers were loaded.
"""

from __future__ import annotations

import ast
import inspect
import textwrap
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

from mmengine.registry import EVALUATOR, METRICS, OPTIM_WRAPPER_CONSTRUCTORS, Registry
from mmengine.utils import get_object_from_string
from torch.utils.data import DataLoader

from rdistill.config.types import SCOPE
from rdistill.config.walk import Part, dataloaders, kind_of, model_parts, parts
from rdistill.core.errors import did_you_mean

KNOWN_SCOPES = ("mmseg", "mmengine", "mmcv")  # names in scopes of other packages are checked only when they are built
NOT_ARGUMENTS = ("type", "_scope_")
RUNNER_LOADER_KEYS = ("num_batch_per_epoch",)  # keys of a dataloader that the Runner reads, not torch's DataLoader
RUNNER_ARGUMENTS = ("runner", "dataloader", "evaluator", "optimizer", "params")  # arguments that the Runner passes
# Segmentors that read `model.test_cfg`, and the keys that they read; these are no arguments of a class.
USE_TEST_CFG = ("EncoderDecoder", "CascadeEncoderDecoder", "MultimodalEncoderDecoder")
TEST_KEYS = ("mode", "crop_size", "stride")
TEST_MODES = ("whole", "slide")


@dataclass(frozen=True)
class Arguments:
    """The arguments of a class."""

    names: tuple[str, ...]
    ignores_others: bool = False  # whether it silently ignores other arguments


def argument_problems(cfg: Mapping[str, Any]) -> list[str]:
    """Finds types that are not registered, and keys that are no argument of their class; one line each.

    Args:
        cfg: a config with names as types and values of the right kinds; its ``custom_imports`` are imported.
    """
    if cfg.get("default_scope") not in (None, SCOPE, "mmengine"):
        return []
    problems = []
    accepted = Arguments((*inspect.signature(DataLoader).parameters, *RUNNER_LOADER_KEYS))
    for name, loader in dataloaders(cfg):
        problems += _unknown(name, loader, accepted, "a dataloader")
    problems += _part_problems(parts(cfg)) + _test_problems(cfg.get("model") or {}, "model")
    return list(dict.fromkeys(problems))


def model_problems(model: Mapping[str, Any], where: str) -> list[str]:
    """Like :func:`argument_problems`, but for a model only; of a teacher's config nothing else is used."""
    return list(dict.fromkeys(_part_problems(model_parts(model, where)) + _test_problems(model, where)))


def _part_problems(sections: Iterable[Part]) -> list[str]:
    problems = []
    for part in sections:
        named = part.section.get("type", part.default)
        if not isinstance(named, str):
            continue
        cls, problem = _class_of(named, part.registry)
        if problem:
            where = part.where if part.registry is OPTIM_WRAPPER_CONSTRUCTORS else f"{part.where}.type"
            problems.append(f"{where}: {problem}")
        elif cls is not None and not part.any_key and (of_class := arguments(cls)) is not None:
            accepted = Arguments((*of_class.names, *part.also), of_class.ignores_others)
            problems += _unknown(part.where, part.section, accepted, named)
        problems += [
            f"{part.where}.{key}: is required by {named}" for key in part.needs if part.section.get(key) is None
        ]
    return problems


def _test_problems(model: Mapping[str, Any], where: str) -> list[str]:
    """Keys of ``test_cfg`` that mmseg's segmentors would ignore, or would miss at the first prediction."""
    test = model.get("test_cfg")
    if kind_of(model) not in USE_TEST_CFG or not isinstance(test, Mapping):
        return []
    where = f"{where}.test_cfg"
    problems = _unknown(where, test, Arguments(TEST_KEYS, ignores_others=True), str(model["type"]))
    mode = test.get("mode", "whole")
    if mode not in TEST_MODES:
        hint = did_you_mean(str(mode), TEST_MODES)
        problems.append(f"{where}.mode: must be one of {', '.join(map(repr, TEST_MODES))}, got {mode!r}{hint}")
    if mode == "slide":
        problems += [
            f"{where}.{key}: is required where mode is 'slide': two numbers of pixels"
            for key in ("crop_size", "stride")
            if test.get(key) is None
        ]
    return problems


@cache
def arguments(cls: Any) -> Arguments | None:
    """The arguments of a class or function. ``**kwargs`` are followed to the base classes.

    None if they are passed to something else, so that the arguments cannot be known.
    """
    steps = [cls]
    if isinstance(cls, type):
        steps = [base.__dict__["__init__"] for base in cls.__mro__ if "__init__" in base.__dict__]
    names: list[str] = []
    for step in steps:
        if step is object.__init__:
            return None  # no base class takes the keyword arguments
        try:
            parameters = list(inspect.signature(step).parameters.values())
        except (TypeError, ValueError):
            return None
        plain = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
        names += [parameter.name for parameter in parameters if parameter.kind in plain and parameter.name != "self"]
        rest = next(
            (parameter.name for parameter in parameters if parameter.kind is inspect.Parameter.VAR_KEYWORD), None
        )
        if rest is None:
            return Arguments(tuple(dict.fromkeys(names)))
        use = _use_of(step, rest)
        if use == "ignored":
            return Arguments(tuple(dict.fromkeys(names)), ignores_others=True)
        if use != "passed to super":
            return None
    return None


def _class_of(named: str, root: Registry) -> tuple[Any, str | None]:
    """(The class that mmseg finds by a name, the problem); both are None if only building the section can tell."""
    own = root.children.get(SCOPE)
    classes: dict[str, object] = {}
    for registry in (root, own):
        if registry is not None:  # not a test for truth: an empty registry is False
            registry.import_from_location()
            classes.update(registry.module_dict)
    scope, _, name = named.rpartition(".")
    if scope in KNOWN_SCOPES:
        named = name
        if scope != SCOPE and name in root.module_dict:
            return root.module_dict[name], None
    elif scope:
        try:
            return get_object_from_string(named), None
        except Exception:  # it is another package's, or not installed; building it will report that
            return None, None
    if named in classes:
        return classes[named], None
    if root is EVALUATOR and (named in METRICS.module_dict or named in METRICS.children[SCOPE].module_dict):
        return None, f"{named!r} is a metric; put it alone in place of the evaluator, or into `metrics`"
    hint = did_you_mean(named, classes) or "; a class of your own must be in a module that custom_imports names"
    return None, f"no {root.name.replace('_', ' ')} {named!r} is registered{hint}"


def _unknown(where: str, section: Mapping[str, Any], accepted: Arguments, what: str) -> list[str]:
    problems = []
    names = [name for name in accepted.names if name not in RUNNER_ARGUMENTS]
    for key in section:
        if key in accepted.names or key in NOT_ARGUMENTS:
            continue
        hint = did_you_mean(str(key), names)
        if hint or not accepted.ignores_others:
            hint = hint or f"; it takes {', '.join(names)}"
            problems.append(f"unknown key {where}.{key}: {what} has no such argument{hint}")
    return problems


def _use_of(function: Callable[..., Any], rest: str) -> str:
    """What a constructor does with its ``**rest``: "ignored", "passed to super" or "other"."""
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(function)))
    except (OSError, TypeError, SyntaxError):
        return "other"
    uses = sum(isinstance(node, ast.Name) and node.id == rest for node in ast.walk(tree))
    passed = sum(_is_passed_to_super(node, rest) for node in ast.walk(tree))
    return "ignored" if not uses else "passed to super" if uses == passed == 1 else "other"


def _is_passed_to_super(node: ast.AST, rest: str) -> bool:
    """Whether a node is ``super().__init__(..., **rest)``."""
    if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "__init__"):
        return False
    owner = node.func.value
    to_super = isinstance(owner, ast.Call) and isinstance(owner.func, ast.Name) and owner.func.id == "super"
    return to_super and _passes(node.keywords, rest)


def _passes(keywords: Iterable[ast.keyword], rest: str) -> bool:
    return any(
        keyword.arg is None and isinstance(keyword.value, ast.Name) and keyword.value.id == rest for keyword in keywords
    )

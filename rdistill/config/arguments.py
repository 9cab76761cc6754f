"""Whether what a config names exists: the ``type`` of each part, and each key as an argument of that class.

A mistyped key of a class that takes any (``**kwargs``) would be ignored in silence, one of a class that does not would
end the run when it is built, such as a hook after the teachers have been loaded.
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

OWN_SCOPES = ("mmseg", "mmengine", "mmcv")  # only building shows what other packages' scopes hold
NOT_ARGUMENTS = ("type", "_scope_")
OF_LOADERS = ("num_batch_per_epoch",)  # the Runner's own, beside those of torch's DataLoader
HANDED_OVER = ("runner", "dataloader", "evaluator", "optimizer", "params")  # the Runner gives these
# What mmseg's segmentors read of `model.test_cfg`, which is no argument of any class.
TESTED_BY = ("EncoderDecoder", "CascadeEncoderDecoder", "MultimodalEncoderDecoder")
TEST_KEYS = ("mode", "crop_size", "stride")
TEST_MODES = ("whole", "slide")


@dataclass(frozen=True)
class Arguments:
    """What a class takes."""

    names: tuple[str, ...]
    swallows: bool = False  # and ignores whatever else it is given


def argument_problems(cfg: Mapping[str, Any]) -> list[str]:
    """Types that are not registered, and keys that are no argument of their class; one line each.

    Args:
        cfg: with names as types, of the right shape; the modules of its ``custom_imports`` are imported.
    """
    if cfg.get("default_scope") not in (None, SCOPE, "mmengine"):
        return []
    problems = []
    takes = [*inspect.signature(DataLoader).parameters, *OF_LOADERS]
    for name, loader in dataloaders(cfg):
        problems += _unknown(name, loader, Arguments(tuple(takes)), "a dataloader")
    problems += _part_problems(parts(cfg)) + _test_problems(cfg.get("model") or {}, "model")
    return list(dict.fromkeys(problems))


def model_problems(model: Mapping[str, Any], where: str) -> list[str]:
    """As :func:`argument_problems`, of a model alone: a teacher's, whose config is read for nothing else."""
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
        elif cls is not None and not part.any_key and (takes_these := arguments(cls)) is not None:
            all_names = Arguments((*takes_these.names, *part.also), takes_these.swallows)
            problems += _unknown(part.where, part.section, all_names, named)
        problems += [
            f"{part.where}.{key}: is required by {named}" for key in part.needs if part.section.get(key) is None
        ]
    return problems


def _test_problems(model: Mapping[str, Any], where: str) -> list[str]:
    """What mmseg's segmentors would ignore in ``test_cfg``, or miss when they first predict."""
    test = model.get("test_cfg")
    if kind_of(model) not in TESTED_BY or not isinstance(test, Mapping):
        return []
    where = f"{where}.test_cfg"
    problems = _unknown(where, test, Arguments(TEST_KEYS, swallows=True), str(model["type"]))
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
    """What a class or function takes, ``**kwargs`` followed to the classes above; None where they lead elsewhere."""
    steps = [cls]
    if isinstance(cls, type):
        steps = [base.__dict__["__init__"] for base in cls.__mro__ if "__init__" in base.__dict__]
    names: list[str] = []
    for step in steps:
        if step is object.__init__:
            return None  # passed on to nobody that is known
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
        goes = _use_of(step, rest)
        if goes == "nowhere":
            return Arguments(tuple(dict.fromkeys(names)), swallows=True)
        if goes != "above":
            return None
    return None


def _class_of(named: str, root: Registry) -> tuple[Any, str | None]:
    """The class that mmseg finds by a name, or what is wrong; neither, where only building it can say."""
    own = root.children.get(SCOPE)
    classes: dict[str, object] = {}
    for registry in (root, own):
        if registry is not None:  # one that is empty yet counts as False
            registry.import_from_location()
            classes.update(registry.module_dict)
    scope, _, name = named.rpartition(".")
    if scope in OWN_SCOPES:
        named = name
        if scope != SCOPE and name in root.module_dict:
            return root.module_dict[name], None
    elif scope:
        try:
            return get_object_from_string(named), None
        except Exception:  # another package's, or one that is not installed: building it says so
            return None, None
    if named in classes:
        return classes[named], None
    if root is EVALUATOR and (named in METRICS.module_dict or named in METRICS.children[SCOPE].module_dict):
        return None, f"{named!r} is a metric; put it alone in place of the evaluator, or into `metrics`"
    hint = did_you_mean(named, classes) or "; a class of your own must be in a module that custom_imports names"
    return None, f"no {root.name.replace('_', ' ')} {named!r} is registered{hint}"


def _unknown(where: str, section: Mapping[str, Any], takes: Arguments, what: str) -> list[str]:
    problems = []
    names = [name for name in takes.names if name not in HANDED_OVER]
    for key in section:
        if key in takes.names or key in NOT_ARGUMENTS:
            continue
        hint = did_you_mean(str(key), names)
        if hint or not takes.swallows:
            hint = hint or f"; it takes {', '.join(names)}"
            problems.append(f"unknown key {where}.{key}: {what} has no such argument{hint}")
    return problems


def _use_of(function: Callable[..., Any], rest: str) -> str:
    """What a constructor does with its ``**rest``: passes it ``above``, lets it go ``nowhere``, or ``otherwise``."""
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(function)))
    except (OSError, TypeError, SyntaxError):
        return "otherwise"
    uses = sum(isinstance(node, ast.Name) and node.id == rest for node in ast.walk(tree))
    passed = sum(_is_passed_above(node, rest) for node in ast.walk(tree))
    return "nowhere" if not uses else "above" if uses == passed == 1 else "otherwise"


def _is_passed_above(node: ast.AST, rest: str) -> bool:
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

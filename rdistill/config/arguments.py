"""Whether what a config names exists: the ``type`` of each part, and each key as an argument of that class.

A mistyped key of a class that takes any (``**kwargs``) would be ignored in silence, one of a class that does not would
end the run when it is built, such as a hook after the teachers have been loaded.
"""

from __future__ import annotations

import ast
import inspect
import textwrap
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from mmengine.registry import (
    DATA_SAMPLERS,
    DATASETS,
    EVALUATOR,
    HOOKS,
    LOOPS,
    METRICS,
    OPTIM_WRAPPER_CONSTRUCTORS,
    OPTIM_WRAPPERS,
    OPTIMIZERS,
    PARAM_SCHEDULERS,
    TRANSFORMS,
    Registry,
)
from mmengine.utils import get_object_from_string
from torch.utils.data import DataLoader

from rdistill.config.types import SCOPE
from rdistill.config.walk import dataloaders, dataset_nodes, dataset_steps, kind_of, metrics_of
from rdistill.core.errors import did_you_mean

OWN_SCOPES = ("mmseg", "mmengine", "mmcv")  # only building shows what other packages' scopes hold
NOT_ARGUMENTS = ("type", "_scope_")
OF_LOADERS = ("num_batch_per_epoch",)  # the Runner's own, beside those of torch's DataLoader
HANDED_OVER = (
    "runner",
    "dataloader",
    "evaluator",
    "optimizer",
    "params",
)  # the Runner gives these: no user writes them
DEFAULT_CONSTRUCTOR = "DefaultOptimWrapperConstructor"


@dataclass(frozen=True)
class Part:
    """A section that mmengine builds a class from."""

    where: str  # its dotted key
    section: Mapping[str, Any]
    registry: Registry
    default: str | None = None  # its class, where it has no `type`
    also: tuple[str, ...] = ()  # keys that whoever builds it takes for itself
    any_key: bool = False  # built by a class of the user's, which may take any


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
    for part in _parts(cfg):
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
    return list(dict.fromkeys(problems))


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


def _parts(cfg: Mapping[str, Any]) -> Iterator[Part]:
    """The sections that the Runner builds, the model's aside: building it is part of every check."""
    by_epoch = (cfg.get("train_cfg") or {}).get("by_epoch", True)
    loops = ("EpochBasedTrainLoop" if by_epoch else "IterBasedTrainLoop", "ValLoop", "TestLoop")
    for key, loop in zip(("train_cfg", "val_cfg", "test_cfg"), loops, strict=True):
        yield from _sections(key, cfg.get(key), LOOPS, default=loop, also=("by_epoch",))
    for name, hook in (cfg.get("default_hooks") or {}).items():
        yield from _sections(f"default_hooks.{name}", hook, HOOKS, also=("priority",))
    yield from _sections("custom_hooks", cfg.get("custom_hooks"), HOOKS, also=("priority",))
    yield from _sections(
        "param_scheduler", cfg.get("param_scheduler"), PARAM_SCHEDULERS, also=("convert_to_iter_based",)
    )
    yield from _parts_of_data(cfg)
    for name in ("val_evaluator", "test_evaluator"):
        evaluator = cfg.get(name)
        if isinstance(evaluator, Mapping) and "metrics" in evaluator:
            yield from _sections(name, evaluator, EVALUATOR, default="Evaluator")
            name = f"{name}.metrics"
        alone = isinstance(evaluator, Mapping) and not isinstance(evaluator.get("metrics"), (list, tuple))
        metrics = metrics_of(evaluator)
        yield from _sections(name, metrics[0] if alone and metrics else metrics, METRICS)
    wrapper = cfg.get("optim_wrapper") or {}
    constructor = wrapper.get("constructor") or DEFAULT_CONSTRUCTOR
    yield Part("optim_wrapper.constructor", {"type": constructor}, OPTIM_WRAPPER_CONSTRUCTORS, any_key=True)
    own_way = constructor != DEFAULT_CONSTRUCTOR  # such as learning rates by layer
    also = ("optimizer", "constructor", "paramwise_cfg")
    yield Part("optim_wrapper", wrapper, OPTIM_WRAPPERS, "OptimWrapper", also, any_key=own_way)
    yield from _sections("optim_wrapper.optimizer", wrapper.get("optimizer"), OPTIMIZERS)


def _parts_of_data(cfg: Mapping[str, Any]) -> Iterator[Part]:
    for name, loader in dataloaders(cfg):
        for key in ("sampler", "batch_sampler"):
            yield from _sections(f"{name}.{key}", loader.get(key), DATA_SAMPLERS)
        for where, dataset in dataset_nodes(loader.get("dataset"), f"{name}.dataset"):
            yield from _sections(where, dataset, DATASETS)
        foreign: tuple[str, ...] = ()
        for where, step in dataset_steps(loader.get("dataset"), f"{name}.dataset"):
            if kind_of(step) == "Albu":  # holds albumentations' transforms
                foreign = (*foreign, f"{where}.")
            if not where.startswith(foreign):
                yield from _sections(where, step, TRANSFORMS)


def _sections(where: str, node: Any, registry: Registry, **options: Any) -> Iterator[Part]:
    """A section, or each of a list."""
    if isinstance(node, Mapping):
        yield Part(where, node, registry, **options)
    elif isinstance(node, (list, tuple)):
        for index, item in enumerate(node):
            yield from _sections(f"{where}.{index}", item, registry, **options)


def _class_of(named: str, root: Registry) -> tuple[Any, str | None]:
    """The class that mmseg finds by a name, or what is wrong; neither, where only building it can say."""
    own = root.children.get(SCOPE)
    classes: dict[str, Any] = {}
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
    hint = did_you_mean(named, classes) or "; a class of your own must be in a module that custom_imports names"
    return None, f"no {root.name} {named!r} is registered{hint}"


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

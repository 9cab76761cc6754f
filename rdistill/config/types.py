"""Replaces every ``type`` in a config by the registered name, if it is a name with a scope, a path or a class.

mmengine's pure Python configs (``with read_base():``) contain classes. rdistill compares names, sends configs to other
processes and writes them to files, so it replaces classes by names when a config is read.
"""

from __future__ import annotations

import inspect
import types
from collections.abc import Iterator
from typing import Any

import mmengine.registry
from mmengine.config import Config, ConfigDict
from mmengine.config.lazy import LazyAttr, LazyObject
from mmengine.registry import Registry
from mmengine.utils import get_object_from_string

from rdistill._compat.mmengine import config_dict, imported_names
from rdistill.core.errors import UserError
from rdistill.models import quiet_mmseg as _quiet_mmseg  # noqa: F401  makes mmseg's registries

SCOPE = "mmseg"  # the default scope: names of mmseg and of mmengine are found without a scope
_ROOTS = {"mmengine": "mmengine", "mmcv": "mmengine", SCOPE: SCOPE}  # scope in a config -> the registry's scope
_FUNCTION_KEYS = ("collate_fn", "worker_init_fn")  # mmengine accepts a section with `type` for these functions, too


def as_names(cfg: Config) -> Config:
    """The config with names instead of classes and paths; for a pure Python config this is a plain copy.

    Raises:
        UserError: a ``type`` is neither a name nor a class that another process can import.
    """
    if imported_names(cfg) or _holds_lazy(config_dict(cfg)):
        cfg = Config(cfg.to_dict(), filename=cfg.filename)
    for key, value in list(config_dict(cfg).items()):
        if isinstance(value, (type, types.ModuleType, types.FunctionType, types.BuiltinFunctionType)):
            config_dict(cfg).pop(key)  # something that the config file has imported
    replace_types_by_names(config_dict(cfg))
    return cfg


def replace_types_by_names(node: Any, where: str = "") -> None:
    """Replaces classes and paths by names in a section and all sections within it, in place."""
    if isinstance(node, dict):
        for key, value in list(node.items()):
            here = f"{where}.{key}" if where else str(key)
            if key == "type" and value is not None:
                if (name := _name(value, here)) != value:
                    node[key] = name
            elif isinstance(value, type):
                node[key] = _name(value, here)
            elif key in _FUNCTION_KEYS and inspect.isroutine(value):
                node[key] = ConfigDict(type=_name(value, here))
            else:
                replace_types_by_names(value, here)
    elif isinstance(node, (list, tuple)):
        for index, value in enumerate(node):
            replace_types_by_names(value, f"{where}.{index}")


def _holds_lazy(node: Any) -> bool:
    if isinstance(node, dict):
        return any(_holds_lazy(value) for value in dict.values(node))
    if isinstance(node, (list, tuple)):
        return any(map(_holds_lazy, node))
    return isinstance(node, (LazyObject, LazyAttr))


def _name(value: Any, where: str) -> Any:
    """The name to write as ``type``; a value that is no type stays, and the later check of shapes reports it."""
    if isinstance(value, str):
        return _name_of_text(value.replace("::", ".") if value.count("::") == 1 else value)
    if not isinstance(value, type) and not inspect.isroutine(value):
        return value
    if registered := _registered(value):
        return registered
    path = f"{value.__module__}.{value.__qualname__}"
    try:
        imported = get_object_from_string(path)
    except Exception:
        imported = None
    if imported is not value:
        raise UserError(
            f"{where}: {value.__qualname__} cannot be imported as {path} by another process; register it in a module "
            f"that custom_imports names"
        )
    return path


def _name_of_text(text: str) -> str:
    scope, dot, rest = text.partition(".")
    if not dot:
        return text
    if "." not in rest:
        return _without_scope(scope, rest) or text
    try:
        imported = get_object_from_string(text)
    except Exception:  # it is no path; building it will report what is wrong
        return text
    return (_registered(imported) if imported is not None else None) or text


def _without_scope(scope: str, name: str) -> str | None:
    """The shortest name of the class that is registered under ``name`` in a scope; None if there is none."""
    if scope not in _ROOTS:
        return None
    for root, own in _registries():
        registry = own if _ROOTS[scope] == SCOPE else root
        if registry is not None and name in registry.module_dict:
            return _shortest(root, own, name, registry.module_dict[name])
    return None


def _registered(wanted: Any) -> str | None:
    """The name under which a class or function is registered with mmseg or mmengine."""
    for root, own in _registries():
        for registry in (own, root):
            for name, registered in registry.module_dict.items() if registry is not None else ():
                if registered is wanted:
                    return _shortest(root, own, name, wanted)
    return None


def _shortest(root: Registry, own: Registry | None, name: str, wanted: Any) -> str:
    """The name without scope if mmseg finds the same class by it; otherwise with scope, as for mmcv's ``Resize``."""
    own_classes = own.module_dict if own is not None else {}
    bare = own_classes.get(name, root.module_dict.get(name))
    return name if bare is wanted else f"{root.scope}.{name}"


def _registries() -> Iterator[tuple[Registry, Registry | None]]:
    """Each registry of mmengine and mmseg's registry of the same kind, after their modules are imported."""
    for root in vars(mmengine.registry).values():
        if isinstance(root, Registry):
            own = root.children.get(SCOPE)
            for registry in (root, own):
                if registry is not None:
                    registry.import_from_location()
            yield root, own

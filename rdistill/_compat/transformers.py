"""Delays the import of transformers, which mmengine imports for one of its optimizers: it takes half a second.

Tested with onedl-mmengine 0.10.12 and transformers 5.24.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from types import ModuleType
from typing import Any

BUILDER = "mmengine.optim.optimizer.builder"  # this module registers all optimizers that are installed
LIBRARY, OPTIMIZER = "transformers", "Adafactor"


def import_at_its_use() -> None:
    """Makes mmengine import transformers only if a config uses its ``Adafactor``, and not at the start.

    This does nothing if mmengine's optimizers or transformers are imported already. If mmengine moves the module, it
    imports transformers at the start as before.
    """
    if BUILDER not in sys.modules and not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Finder())


def adafactor(params: Any, **options: Any) -> Any:
    """Builds transformers' Adafactor. mmengine passes the parameters by the name of the first argument."""
    from transformers import Adafactor

    return Adafactor(params, **options)


class _Finder(MetaPathFinder):
    """Finds the module :data:`BUILDER` like other finders, but loads it without transformers."""

    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        if name != BUILDER:
            return None
        sys.meta_path.remove(self)
        spec = find_spec(name)
        if spec is not None and spec.loader is not None and LIBRARY not in sys.modules:
            spec.loader = _Loader(spec.loader)
        return spec


class _Loader(Loader):
    def __init__(self, inner: Loader) -> None:
        self._inner = inner

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self._inner.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        sys.modules[LIBRARY] = None  # type: ignore[assignment]  # makes its import fail, as if it was not installed
        try:
            self._inner.exec_module(module)
        finally:
            del sys.modules[LIBRARY]
        optimizers = getattr(module, "OPTIMIZERS", None)
        if optimizers is not None and find_spec(LIBRARY) is not None and OPTIMIZER not in optimizers:
            optimizers.register_module(name=OPTIMIZER, module=adafactor)

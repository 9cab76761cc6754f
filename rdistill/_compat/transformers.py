"""transformers, which mmengine imports together with its optimizers, for one of them: half a second of every start.

Tried with onedl-mmengine 0.10.12 and transformers 5.24.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from types import ModuleType
from typing import Any

BUILDER = "mmengine.optim.optimizer.builder"  # registers every optimizer that it finds installed
LIBRARY, OPTIMIZER = "transformers", "Adafactor"


def import_at_its_use() -> None:
    """Has mmengine import transformers where a config names its ``Adafactor``, and not at the start.

    Without effect where mmengine's optimizers, or transformers, are imported already. Should mmengine move the module,
    it imports transformers as it did.
    """
    if BUILDER not in sys.modules and not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Finder())


def adafactor(params: Any, **options: Any) -> Any:
    """transformers' optimizer of this name. mmengine gives the parameters by the name that stands first here."""
    from transformers import Adafactor

    return Adafactor(params, **options)


class _Finder(MetaPathFinder):
    """Finds the one module as others do, and has it loaded without transformers."""

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
        sys.modules[LIBRARY] = None  # type: ignore[assignment]  # importing it raises ImportError: as if not installed
        try:
            self._inner.exec_module(module)
        finally:
            del sys.modules[LIBRARY]
        optimizers = getattr(module, "OPTIMIZERS", None)
        if optimizers is not None and find_spec(LIBRARY) is not None and OPTIMIZER not in optimizers:
            optimizers.register_module(name=OPTIMIZER, module=adafactor)

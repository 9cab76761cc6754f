"""Imports modules at their first use, so that declarations in a file can be read without its heavy imports."""

from __future__ import annotations

import importlib
from typing import Any


class LazyModule:
    """A placeholder for a module in another module's globals; at its first use it is replaced by the real module.

    Args:
        namespace: ``globals()`` of the module that uses it.
        name: its name in these globals.
        module: the module to import.
    """

    def __init__(self, namespace: dict[str, Any], name: str, module: str) -> None:
        self._namespace, self._name, self._module = namespace, name, module

    def __getattr__(self, attribute: str) -> Any:
        if attribute.startswith("__"):  # inspection, such as by doctest and pickle, must not import the module
            raise AttributeError(attribute)
        module = importlib.import_module(self._module)
        self._namespace[self._name] = module
        return getattr(module, attribute)


def lazily(namespace: dict[str, Any], **modules: str) -> None:
    """Binds names in a module's globals to modules that are imported at their first use.

    Type checkers and the architecture test read the same imports under ``TYPE_CHECKING``.

    >>> lazily(globals(), plain="colorsys")
    >>> plain.rgb_to_hsv(0.0, 0.0, 0.5)
    (0.0, 0.0, 0.5)
    """
    for name, module in modules.items():
        namespace[name] = LazyModule(namespace, name, module)

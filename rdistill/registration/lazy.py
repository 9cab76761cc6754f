"""Modules that are imported when they are first used, so that what stands beside their use can be read without them."""

from __future__ import annotations

import importlib
from typing import Any


class LazyModule:
    """Stands in a module's globals for another module, and puts that one into its own place at the first use.

    From the second use on nothing of this class is left: the name is bound to the module itself.

    Args:
        namespace: ``globals()`` of the module that uses the other one.
        name: the name that it has there.
        module: what to import.
    """

    def __init__(self, namespace: dict[str, Any], name: str, module: str) -> None:
        self._namespace, self._name, self._module = namespace, name, module

    def __getattr__(self, attribute: str) -> Any:
        if attribute.startswith("__"):  # inspection, such as doctest's and pickle's, is no use
            raise AttributeError(attribute)
        module = importlib.import_module(self._module)
        self._namespace[self._name] = module
        return getattr(module, attribute)


def lazily(namespace: dict[str, Any], **modules: str) -> None:
    """Binds names in a module's globals to modules that are imported at their first use.

    Type checkers and the test of the architecture see the import of the same names under ``TYPE_CHECKING``.

    >>> lazily(globals(), plain="colorsys")
    >>> plain.rgb_to_hsv(0.0, 0.0, 0.5)
    (0.0, 0.0, 0.5)
    """
    for name, module in modules.items():
        namespace[name] = LazyModule(namespace, name, module)

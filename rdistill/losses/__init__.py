"""The distillation losses: pure functions, the layers and memories that some of them need, and their declarations.

Each loss is declared beside its function by the decorator :func:`register`: what it compares, its parameters with
their defaults and bounds, its weight, and what it needs. :data:`LOSSES` holds all declarations, those of rdistill and
those of users; all code that checks, builds, shows or documents a loss reads them there. Begin with :mod:`.registry`,
then :mod:`.distributions` (KL), then :class:`.modules.Term`, which is one configured loss of a distillation.

The declarations are read without importing torch, so that the command line can check a config file quickly. For this,
the modules of functions (:mod:`.distributions`, :mod:`.relations`, :mod:`.attention`, :mod:`.elements`) import
``torch`` at the first call (:mod:`rdistill.registration.lazy`). A class with layers needs torch when it is defined; so
a declaration only names its class in :mod:`.modules`, which is imported when the loss is built.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from rdistill.losses.registry import LOSSES, LossInfo, check_params, register
from rdistill.registration.parameters import Choice, Number, Switch, Whole

# The order is that of docs/losses.md. Importing these modules adds their declarations to LOSSES.
from . import distributions, relations, attention, elements, moments, boundaries, contrast  # isort: skip  # noqa: F401

if TYPE_CHECKING:
    from .modules import Adapter, Term

__all__ = [
    "LOSSES", "Adapter", "Choice", "LossInfo", "Number", "Switch", "Term", "Whole", "check_params", "register",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    """Imports ``Term`` and ``Adapter`` at their first use, because they need torch."""
    if name in ("Adapter", "Term"):
        return getattr(importlib.import_module("rdistill.losses.modules"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

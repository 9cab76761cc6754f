"""The distillation losses: pure functions, the layers and memories that some of them need, and what each one is.

A loss is one declaration beside its function, by the decorator :func:`register`: what it compares, its parameters with
their defaults and bounds, its weight, what it needs. :data:`LOSSES` holds all declarations, those of rdistill and those
of users; whatever checks, builds, shows or documents a loss reads them there. Begin with :mod:`.registry`, then
:mod:`.distributions` (KL), then :class:`.modules.Term`, which is one configured loss of a distillation.

The declarations are read without torch, so that the command line can check a config file at once, and still stand
beside the functions: the modules of functions (:mod:`.distributions`, :mod:`.relations`, :mod:`.attention`,
:mod:`.elements`) bind ``torch`` at the first call (:mod:`rdistill.registration.lazy`). A class of layers needs torch
when it is defined: so a declaration names its class of :mod:`.modules`, which is loaded when the loss is built.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from rdistill.losses.registry import LOSSES, LossInfo, check_params, register
from rdistill.registration.parameters import Choice, Number, Switch, Whole

# The order is that of docs/losses.md; what they declare is in LOSSES from here on.
from . import distributions, relations, attention, elements, moments, boundaries, contrast  # isort: skip  # noqa: F401

if TYPE_CHECKING:
    from .modules import Adapter, Term

__all__ = [
    "LOSSES", "Adapter", "Choice", "LossInfo", "Number", "Switch", "Term", "Whole", "check_params", "register",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    """``Term`` and ``Adapter`` at their first use, since they need torch."""
    if name in ("Adapter", "Term"):
        return getattr(importlib.import_module("rdistill.losses.modules"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

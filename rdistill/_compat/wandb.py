"""Undocumented in wandb: which of its modules make temporary folders at import.

Tested with wandb 0.31.0; `setup.py` allows no later major version.
"""

from __future__ import annotations

import importlib
import logging
from typing import Any

MODULES = ("wandb.sdk.data_types._private", "wandb.sdk.artifacts.artifact")

_log = logging.getLogger(__name__)


def import_whole() -> Any:
    """Imports wandb with the modules that make temporary folders, after the caller has set where such folders go.

    If a later wandb does not have these modules, folders may be made elsewhere, and a warning says so.
    """
    for name in MODULES:
        try:
            importlib.import_module(name)
        except ImportError as error:
            _log.warning("wandb has changed (%s): it may leave folders in the temporary folder", error)
    return importlib.import_module("wandb")

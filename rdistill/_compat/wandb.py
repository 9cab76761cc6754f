"""What wandb does not document: which of its modules make temporary folders when they are imported.

Tried with wandb 0.31.0; `setup.py` allows no later major version.
"""

from __future__ import annotations

import importlib
import logging
from typing import Any

MODULES = ("wandb.sdk.data_types._private", "wandb.sdk.artifacts.artifact")

_log = logging.getLogger(__name__)


def import_whole() -> Any:
    """wandb, with the modules that make folders at import: now, where the caller has set where such folders go.

    Where a later wandb has no such module its folders may be made in the temporary folder, and a warning says so.
    """
    for name in MODULES:
        try:
            importlib.import_module(name)
        except ImportError as error:
            _log.warning("wandb has changed (%s): it may leave folders in the temporary folder", error)
    return importlib.import_module("wandb")

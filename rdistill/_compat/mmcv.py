"""Undocumented in mmcv: where its compiled operators are. Tested with onedl-mmcv 2.3.6."""

from __future__ import annotations

import importlib
from contextlib import suppress
from functools import cache

OPERATORS = "mmcv._ext"


@cache
def has_compiled_operators() -> bool:
    """Whether mmcv was built with its operators for this torch, which only an import can tell.

    If the module moves, models that need the operators are refused with a message that tells how to build them.
    """
    with suppress(Exception):  # if it was built for another torch, it raises errors from ImportError to OSError
        importlib.import_module(OPERATORS)
        return True
    return False

"""What mmcv does not document: where its compiled operators are. Tried with onedl-mmcv 2.3.6."""

from __future__ import annotations

import importlib
from contextlib import suppress
from functools import cache

OPERATORS = "mmcv._ext"


@cache
def has_compiled_operators() -> bool:
    """Whether mmcv was built with its operators, for this torch. It says so in no other way.

    Should they move, models that need them are refused with the line that tells how to build them.
    """
    with suppress(Exception):  # built for another torch, it raises anything from ImportError to OSError
        importlib.import_module(OPERATORS)
        return True
    return False

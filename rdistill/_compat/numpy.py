"""Undocumented in numpy: the functions that it names in pickled arrays. Tested with numpy 2.4.6."""

from __future__ import annotations

from typing import Any

import numpy as np

from rdistill._compat.changed import private

NAMES = ("scalar", "_reconstruct")


def pickled_functions() -> list[tuple[Any, str]]:
    """(function, name in a pickle) for the functions that rebuild numpy's scalars and arrays, for torch's safe globals.

    numpy 1 writes these two functions under ``numpy.core``, numpy 2 under ``numpy._core``. Without them no checkpoint
    of mmengine could be read, so it is an error if they are missing.
    """
    core = private("numpy", np, "_core.multiarray", "reads checkpoints without running their code")
    return [
        (private("numpy", core, name, "reads checkpoints"), f"numpy.{module}.multiarray.{name}")
        for name in NAMES
        for module in ("core", "_core")
    ]

"""What numpy does not document: the functions that it names in pickled arrays. Tried with numpy 2.4.6."""

from __future__ import annotations

from typing import Any

import numpy as np

from rdistill._compat.changed import private

NAMES = ("scalar", "_reconstruct")


def pickled_functions() -> list[tuple[Any, str]]:
    """(function, name in a pickle) of what rebuilds numpy's scalars and arrays, for torch's table of safe names.

    numpy 1 wrote them under ``numpy.core``, numpy 2 under ``numpy._core``: the same two functions. Where they are gone
    no checkpoint of mmengine's could be read, hence an error.
    """
    core = private("numpy", np, "_core.multiarray", "reads checkpoints without running their code")
    return [
        (private("numpy", core, name, "reads checkpoints"), f"numpy.{module}.multiarray.{name}")
        for name in NAMES
        for module in ("core", "_core")
    ]

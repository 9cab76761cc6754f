"""Imports torchvision, which timm needs: the build on PyPI is for CUDA, and its import fails with torch's CPU build.

Tested with torchvision 0.29.1 of PyPI and timm 1.0.31, with torch 2.13.0+cpu.
"""

from __future__ import annotations

from contextlib import suppress
from importlib import import_module
from importlib.util import find_spec

import torch

from rdistill._compat import texts

OPERATORS = ("nms", "qnms")  # operators (of object detection) that torchvision registers even if it has not loaded them
_libraries: list[torch.library.Library] = []  # kept alive, because torch drops definitions together with this object


def import_for_timm() -> None:
    """Imports torchvision if timm is installed: mmseg then imports timm, and mmseg's import would fail without this."""
    if find_spec("timm") is not None:
        with suppress(ImportError):  # mmseg also works without timm, which needs torchvision
            import_torchvision()


def import_torchvision() -> None:
    """Imports torchvision even if its compiled operators do not load; they then exist, but fail when they are called.

    timm's encoders use only Python code of torchvision. If it is imported already, this does nothing.

    Raises:
        ImportError: torchvision is not installed. Other errors of its import are raised, too.
    """
    try:
        import_module("torchvision")
    except RuntimeError as error:
        if _libraries or not texts.NO_SUCH_OPERATOR.is_in(error):
            raise
        _libraries.append(torch.library.Library("torchvision", "FRAGMENT"))
        for name in OPERATORS:
            _libraries[0].define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        import_module("torchvision")

"""torchvision, without which timm does not import: PyPI's build is for CUDA, and fails beside the CPU build of torch.

Tried with torchvision 0.29.1 of PyPI and timm 1.0.31, beside torch 2.13.0+cpu.
"""

from __future__ import annotations

from contextlib import suppress
from importlib import import_module
from importlib.util import find_spec

import torch

from rdistill._compat import texts

OPERATORS = ("nms", "qnms")  # that it describes to torch also where it has none; they keep the best of many boxes
_described: list[torch.library.Library] = []  # torch forgets what is defined with the object


def import_for_timm() -> None:
    """Imports torchvision where timm is installed: mmseg then imports timm, and would fail as a whole without this."""
    if find_spec("timm") is not None:
        with suppress(ImportError):  # mmseg does without timm, as it is without torchvision
            import_torchvision()


def import_torchvision() -> None:
    """Imports torchvision, also where its compiled operators do not load: then they have names, and fail when called.

    What timm's encoders use of it is Python. Without effect where it is imported already.

    Raises:
        ImportError: it is not installed; anything else that importing it raises.
    """
    try:
        import_module("torchvision")
    except RuntimeError as error:
        if _described or not texts.NO_SUCH_OPERATOR.is_in(error):
            raise
        _described.append(torch.library.Library("torchvision", "FRAGMENT"))
        for name in OPERATORS:
            _described[0].define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        import_module("torchvision")

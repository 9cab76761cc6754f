"""Undocumented in PyTorch: versions of tensors, hooks of modules, the base class of BatchNorm.

Tested with torch 2.13.0; `setup.py` allows no later major version.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules import batchnorm

from rdistill._compat.changed import private

PACKAGE = "torch"

# The base class of all BatchNorms of any dimension, also of SyncBatchNorm and of those of libraries such as mmengine;
# and the base class of BatchNorm and InstanceNorm. torch exports neither. If they are missing, the modules that train
# cannot be imported, and a line says why.
BatchNorm: Any = private(PACKAGE, batchnorm, "_BatchNorm", "finds the layers with running statistics")
NormWithStatistics: Any = private(PACKAGE, batchnorm, "_NormBase", "finds the layers with running statistics")


def version_of(tensor: Tensor) -> int:
    """Autograd's counter of how often a tensor was changed in place.

    Without it, a loss would use the wrong value of a feature that a later layer overwrites, so it is an error if the
    counter is missing.
    """
    return int(private(PACKAGE, tensor, "_version", "sees that a layer writes into a feature"))


def has_pre_hooks(module: nn.Module) -> bool:
    """Whether a module has forward pre-hooks, such as a weight normalisation that computes its weights.

    Without this check, such a convolution would be fused with its BatchNorm, and the hook would then overwrite the
    fused weights.
    """
    return bool(private(PACKAGE, module, "_forward_pre_hooks", "leaves computed weights as they are"))


def stop_data_workers(iterator: Any) -> None:
    """Ends the worker processes of a DataLoader's iterator now, if it has any.

    Otherwise they run until the garbage collector ends them after the run, which takes 5 s for each. If torch does not
    have the method any more, this happens; an iterator without processes does not have the method either.
    """
    if stop := getattr(iterator, "_shutdown_workers", None):
        stop()


def cudnn_mode() -> tuple[bool, bool]:
    """cuDNN's settings ``benchmark`` and ``deterministic``, which mmengine's Runner sets for the whole process."""
    return torch.backends.cudnn.benchmark, torch.backends.cudnn.deterministic


def set_cudnn_mode(benchmark: bool, deterministic: bool) -> None:
    torch.backends.cudnn.benchmark, torch.backends.cudnn.deterministic = benchmark, deterministic

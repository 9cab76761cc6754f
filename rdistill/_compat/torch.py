"""What PyTorch does not document, and rdistill needs: versions of tensors, hooks of modules, the base of BatchNorms.

Tried with torch 2.13.0; `setup.py` allows no later major version.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules import batchnorm

from rdistill._compat.changed import private

PACKAGE = "torch"

# What every BatchNorm is, of any number of dimensions, synchronised or a library's own such as mmengine's; and with it
# InstanceNorm. torch exports neither. Where they are gone, what trains cannot be imported: a line says why.
BatchNorm: Any = private(PACKAGE, batchnorm, "_BatchNorm", "finds the layers with running statistics")
NormWithStatistics: Any = private(PACKAGE, batchnorm, "_NormBase", "finds the layers with running statistics")


def version_of(tensor: Tensor) -> int:
    """How often a tensor was written to in place. Autograd's own counter: without it a feature that a later layer
    overwrites would be compared with what that layer made of it, hence an error where it is gone."""
    return int(private(PACKAGE, tensor, "_version", "sees that a layer writes into a feature"))


def has_pre_hooks(module: nn.Module) -> bool:
    """Whether something runs before a module's forward, such as a parametrisation that computes its weights.

    Without it such a convolution would be fused with its BatchNorm, and its weights computed anew without that.
    """
    return bool(private(PACKAGE, module, "_forward_pre_hooks", "leaves computed weights as they are"))


def stop_data_workers(iterator: Any) -> None:
    """Ends the processes of a DataLoader's iterator now, if it has any.

    Left to the garbage collector they live on after the run, and then take 5 s each to end. Where torch no longer has
    the method, that is what happens: an iterator without processes has none either.
    """
    if stop := getattr(iterator, "_shutdown_workers", None):
        stop()


def cudnn_mode() -> tuple[bool, bool]:
    """cuDNN's switches ``benchmark`` and ``deterministic``, which mmengine's runner sets for the whole process."""
    return torch.backends.cudnn.benchmark, torch.backends.cudnn.deterministic


def set_cudnn_mode(benchmark: bool, deterministic: bool) -> None:
    torch.backends.cudnn.benchmark, torch.backends.cudnn.deterministic = benchmark, deterministic

"""Mixed precision: bfloat16 on any device, float16 with scaled losses on a GPU."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from mmengine.optim import OptimWrapper
from mmengine.registry import OPTIM_WRAPPERS
from torch import nn

from rdistill.core.errors import UserError
from rdistill.schemas.mappings import PlainConfig


@OPTIM_WRAPPERS.register_module()
class Bfloat16OptimWrapper(OptimWrapper):
    """An OptimWrapper for bfloat16, which needs no loss scaling; mmengine's AmpOptimWrapper works on GPUs only."""

    @contextmanager
    def optim_context(self, model: nn.Module) -> Iterator[None]:
        device = next(model.parameters()).device.type
        with super().optim_context(model), torch.autocast(device, torch.bfloat16):
            yield


def wrapper_config(optim_wrapper: Mapping[str, Any]) -> PlainConfig:
    """Adapts a config's ``optim_wrapper`` to this machine.

    Raises:
        UserError: it sets a mixed precision that CPUs do not support.
    """
    cfg = dict(optim_wrapper)
    if cfg.get("type") != "AmpOptimWrapper":
        return cfg
    if cfg.get("dtype") == "bfloat16":
        cfg = {key: value for key, value in cfg.items() if key not in ("dtype", "loss_scale", "use_fsdp")}
        return {**cfg, "type": "Bfloat16OptimWrapper"}
    if not torch.cuda.is_available():
        raise UserError(
            f"optim_wrapper.dtype: {cfg.get('dtype') or 'float16'} needs a GPU; on a CPU set it to 'bfloat16', "
            f"as --amp does"
        )
    return cfg


def autocast(optim_wrapper: Mapping[str, Any], device: str) -> AbstractContextManager[object]:
    """The autocast context for a step with this optimizer wrapper."""
    cfg = wrapper_config(optim_wrapper)
    if cfg.get("type") == "Bfloat16OptimWrapper":
        return torch.autocast(device, torch.bfloat16)
    if cfg.get("type") == "AmpOptimWrapper":
        return torch.autocast(device, getattr(torch, cfg.get("dtype") or "float16"))
    return nullcontext()

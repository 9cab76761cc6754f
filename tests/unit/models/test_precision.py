"""Which optimizer wrapper a config's mixed precision means on this machine, and what a step runs in."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from mmengine.registry import OPTIM_WRAPPERS
from torch import nn

from rdistill.core.errors import UserError
from rdistill.models.precision import autocast, wrapper_config

SGD = {"optimizer": {"type": "SGD", "lr": 0.1}}
AMP = {**SGD, "type": "AmpOptimWrapper"}


def test_without_mixed_precision_nothing_changes() -> None:
    plain = {**SGD, "type": "OptimWrapper", "dtype": "kept"}
    assert wrapper_config(plain) == plain and wrapper_config(plain) is not plain


def test_bfloat16_needs_no_scaling_of_losses() -> None:
    section = {**AMP, "dtype": "bfloat16", "loss_scale": 512.0, "use_fsdp": False, "clip_grad": {"max_norm": 1}}
    assert wrapper_config(section) == {**SGD, "type": "Bfloat16OptimWrapper", "clip_grad": {"max_norm": 1}}
    assert section["loss_scale"] == 512.0  # the config stays as it is: it is written down


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU has float16")
@pytest.mark.parametrize("dtype", [None, "float16"])
def test_float16_is_refused_on_a_cpu(dtype: str | None) -> None:
    with pytest.raises(UserError, match=r"^optim_wrapper.dtype: float16 needs a GPU; on a CPU set it to 'bfloat16'"):
        wrapper_config({**AMP, **({} if dtype is None else {"dtype": dtype})})


@pytest.mark.parametrize(
    ("section", "dtype"),
    [({**AMP, "dtype": "bfloat16"}, torch.bfloat16), ({**SGD, "type": "OptimWrapper"}, torch.float32)],
)
def test_a_step_runs_in_that_precision(section: dict[str, Any], dtype: torch.dtype) -> None:
    layer, inputs = nn.Linear(2, 2), torch.ones(1, 2)
    with autocast(section, "cpu"):
        assert layer(inputs).dtype == dtype
    wrapper = OPTIM_WRAPPERS.build(dict(wrapper_config(section), optimizer=torch.optim.SGD(layer.parameters(), lr=0.1)))
    with wrapper.optim_context(layer):
        outputs = layer(inputs)
    assert outputs.dtype == dtype
    before = layer.weight.detach().clone()
    wrapper.update_params(outputs.float().sum())
    assert layer.weight.dtype == torch.float32
    torch.testing.assert_close(layer.weight.detach(), before - 0.1)  # the gradient of a sum over ones is one

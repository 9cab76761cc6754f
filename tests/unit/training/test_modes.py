"""Capture and losses under mixed precision; what trains for longer is in tests/e2e/training/test_modes.py."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from conftest import Tiny

from rdistill.distill.distiller import build_distiller

Batches = Callable[..., list[dict[str, Any]]]


def test_bfloat16_autocast(tiny: Tiny, stream_batches: Batches) -> None:
    """Adapters run in bfloat16, losses in float32; gradients are finite and close to those of float32."""
    cfg = tiny.load("distill")
    batch = stream_batches(cfg, 1)[0]
    by_precision = {}
    for enabled in (False, True):
        distiller = build_distiller(cfg, seed=0)
        distiller.train()
        data = distiller.data_preprocessor(batch, training=True)
        torch.manual_seed(0)
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled), distiller.capture:
            losses = distiller.loss(data["inputs"], data["data_samples"])
            assert (distiller.capture["backbone.layer4"].dtype == torch.bfloat16) == enabled
        assert all(losses[f"raw/{name}"].dtype == torch.float32 for name in distiller.terms)
        total, log = distiller.parse_losses(losses)
        total.backward()
        assert all(weight.grad.isfinite().all() for weight in distiller.parameters() if weight.grad is not None)
        by_precision[enabled] = {key: float(value.detach()) for key, value in log.items() if "loss" in key}
    assert by_precision[True] == pytest.approx(by_precision[False], rel=0.1)

"""Checkpointed layers change no gradient, and are copied with their model."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from conftest import Tiny
from torch import Tensor

from rdistill.core.errors import UserError
from rdistill.distill.distiller import build_distiller

Batches = Callable[..., list[dict[str, Any]]]


CHECKPOINTED = {"+activation_checkpointing": ["backbone"]}  # the student's own names, as in plain mmseg


def gradients(tiny: Tiny, batch: dict[str, Any], changes: dict[str, Any]) -> dict[str, Tensor]:
    """The student's gradients of one batch, distillation on a layer inside the checkpointed part included."""
    distiller = build_distiller(tiny.load("distill", changes), seed=0)
    distiller.train()
    data = distiller.data_preprocessor(batch, training=True)
    torch.manual_seed(0)
    with distiller.capture:
        total, _ = distiller.parse_losses(distiller.loss(data["inputs"], data["data_samples"]))
        total.backward()
    return {name: weight.grad for name, weight in distiller.named_parameters() if weight.grad is not None}


def test_activation_checkpointing_changes_no_gradient(tiny: Tiny, stream_batches: Batches) -> None:
    batch = stream_batches(tiny.load("distill"), 1)[0]
    plain, checkpointed = (gradients(tiny, batch, changes) for changes in ({}, CHECKPOINTED))
    assert plain.keys() == checkpointed.keys()
    for name, gradient in plain.items():
        torch.testing.assert_close(
            checkpointed[name], gradient, rtol=1e-5, atol=1e-7, msg=lambda m, n=name: f"{n}: {m}"
        )


def test_a_copy_runs_its_own_checkpointed_layers(tiny: Tiny) -> None:
    student = build_distiller(tiny.load("distill", CHECKPOINTED), seed=0).student.eval()
    copied = copy.deepcopy(student)
    for parameter in copied.backbone.parameters():
        parameter.data.zero_()
    image = torch.ones(1, 3, 32, 32)
    assert student.extract_feat(image)[-1].any() and not copied.extract_feat(image)[-1].any()


def test_checkpointing_a_layer_that_is_not_there(tiny: Tiny) -> None:
    with pytest.raises(UserError) as error:
        build_distiller(tiny.load("distill", {"+activation_checkpointing": "backbone.layre4"}), seed=0)
    assert error.value.problems == (
        "activation_checkpointing: EncoderDecoder has no layer 'backbone.layre4'; did you mean 'backbone.layer4'?",
    )

"""The losses of mmseg that a student's heads have, where no pixel of a batch has a label."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from rdistill._compat.mmseg import allow_wholly_ignored
from rdistill.models.quiet_mmseg import MODELS, CrossEntropyLoss, losses

SIGMOID = dict(type="CrossEntropyLoss", use_sigmoid=True)
HAS_IGNORED = pytest.mark.parametrize(
    ("channels", "loss"),
    [
        (1, SIGMOID),
        (1, {**SIGMOID, "avg_non_ignore": True}),
        (2, SIGMOID),
        (2, dict(type="CrossEntropyLoss")),
        (2, dict(type="CrossEntropyLoss", avg_non_ignore=True)),
        (2, dict(type="CrossEntropyLoss", class_weight=[1.0, 2.0])),
        (2, dict(type="DiceLoss")),
        (2, dict(type="LovaszLoss", per_image=True)),
        (2, dict(type="LovaszLoss", reduction="none")),
        (2, dict(type="TverskyLoss")),
        (2, dict(type="HuasdorffDisstanceLoss")),
        (2, dict(type="OhemCrossEntropy")),
    ],
    ids=str,
)


def value_and_gradient(module: nn.Module, logits: Tensor, label: Tensor) -> tuple[Tensor, Tensor]:
    logits = logits.clone().requires_grad_()
    options = {} if hasattr(module, "ignore_label") else {"ignore_index": 255}
    value = module(logits, label, **options)
    value.sum().backward()
    assert logits.grad is not None
    return value.detach(), logits.grad


def built(loss: dict[str, Any]) -> nn.Module:
    allow_wholly_ignored(losses)
    return MODELS.build(dict(loss))


@HAS_IGNORED
def test_a_batch_that_is_wholly_ignored_is_zero(channels: int, loss: dict[str, Any]) -> None:
    label = torch.full((2, 8, 8), 255)
    value, gradient = value_and_gradient(built(loss), torch.randn(2, channels, 8, 8), label)
    assert value.shape == () and not value.any() and not gradient.any()  # NaN would count as any


@HAS_IGNORED
def test_any_other_batch_is_as_before(channels: int, loss: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    module = built(loss)
    logits, label = torch.randn(2, channels, 8, 8), torch.randint(0, 2, (2, 8, 8))
    label[0, :4] = 255
    after = value_and_gradient(module, logits, label)
    monkeypatch.setattr(type(module), "forward", type(module).forward.__wrapped__)
    before = value_and_gradient(module, logits, label)
    assert torch.equal(before[0], after[0]) and torch.equal(before[1], after[1])
    assert after[1].any()


@pytest.mark.parametrize("loss_type", ["multi_class", "binary"])
def test_lovasz_per_image_leaves_out_an_image_that_is_wholly_ignored(loss_type: str) -> None:
    loss = built(dict(type="LovaszLoss", per_image=True, loss_type=loss_type))
    logits, label = torch.randn(2, 1 if loss_type == "binary" else 2, 8, 8), torch.randint(0, 2, (2, 8, 8))
    if loss_type == "binary":
        logits = logits.squeeze(1)
    label[0] = 255
    value, gradient = value_and_gradient(loss, logits, label)
    alone, of_alone = value_and_gradient(loss, logits[1:], label[1:])
    assert torch.allclose(value, alone / 2) and torch.allclose(gradient[1:], of_alone / 2)
    assert not gradient[0].any() and gradient[1].any()


def test_every_loss_is_wrapped_once() -> None:
    built(SIGMOID)
    forward = CrossEntropyLoss.forward
    built(SIGMOID)
    assert CrossEntropyLoss.forward is forward

"""No loss waits for the device, nor leaves a tensor on another: on torch's `meta` device either raises.

A tensor on `meta` has no values. What asks for one (`.item()`, `bool(tensor)`, `nonzero`, boolean indexing) would wait
on a GPU until every kernel before it is done; what makes a tensor on the CPU and mixes it in would fail there.
"""

from __future__ import annotations

import pytest
import torch

from rdistill.losses import LOSSES
from rdistill.losses.modules import Term

CLASSES, SIZE = 5, 8
EVERY_TERM = [(name, on) for name, info in LOSSES.items() for on in info.on]


@pytest.mark.parametrize(("name", "on"), EVERY_TERM)
def test_forward_and_backward(name: str, on: str) -> None:
    channels = (CLASSES, CLASSES) if on == "logits" else (4, 6)
    term = Term(
        name, student_channels=channels[0], teacher_channels=channels[1], num_classes=CLASSES, on_logits=on == "logits"
    ).to("meta")
    student = torch.randn(2, channels[0], SIZE, SIZE, device="meta", requires_grad=True)
    teacher = torch.randn(2, channels[1], SIZE, SIZE, device="meta")
    label = torch.zeros(2, SIZE, SIZE, dtype=torch.long, device="meta")
    loss = term(student, teacher, label)
    loss.backward()
    assert loss.device.type == "meta" and loss.shape == ()
    assert student.grad is not None and student.grad.shape == student.shape


def test_a_wait_raises_on_this_device() -> None:
    """The test above can fail: both of what it looks for do raise."""
    tensor = torch.randn(3, device="meta")
    with pytest.raises((RuntimeError, NotImplementedError)):
        (tensor > 0).nonzero()
    with pytest.raises((RuntimeError, NotImplementedError)):
        float(tensor.sum())
    with pytest.raises(RuntimeError):
        tensor + torch.randn(3)

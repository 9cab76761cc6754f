"""No loss waits for the device, nor leaves a tensor on another: on torch's `meta` device either raises.

A tensor on `meta` has no values. What asks for one (`.item()`, `bool(tensor)`, `nonzero`, boolean indexing) would wait
on a GPU until every kernel before it is done; what makes a tensor on the CPU and mixes it in would fail there. A scalar
and an index of the CPU may be mixed in, but are copied to the device; so no tensor may be made elsewhere at all.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from rdistill.losses import LOSSES
from rdistill.losses.modules import Term

CLASSES, SIZE = 5, 8
EVERY_TERM = [(name, on) for name, info in LOSSES.items() for on in info.on]


class Elsewhere(TorchDispatchMode):
    """Notes each operation that returns a tensor that is not on `meta`."""

    def __init__(self) -> None:
        super().__init__()
        self.operations: list[str] = []

    def __torch_dispatch__(
        self, func: Any, types: Sequence[type], args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        if any(isinstance(leaf, Tensor) and not leaf.is_meta for leaf in tree_leaves(result)):
            self.operations.append(str(func))
        return result


@pytest.mark.parametrize(("name", "on"), EVERY_TERM)
def test_forward_and_backward(name: str, on: str) -> None:
    channels = (CLASSES, CLASSES) if on == "logits" else (4, 6)
    term = Term(
        name, student_channels=channels[0], teacher_channels=channels[1], num_classes=CLASSES, on_logits=on == "logits"
    ).to("meta")
    student = torch.randn(2, channels[0], SIZE, SIZE, device="meta", requires_grad=True)
    teacher = torch.randn(2, channels[1], SIZE, SIZE, device="meta")
    label = torch.zeros(2, 12, 12, dtype=torch.long, device="meta")  # no multiple of the features
    with Elsewhere() as elsewhere:
        loss = term(student, teacher, label)
        loss.backward()
    assert elsewhere.operations == []
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
    with Elsewhere() as elsewhere:
        assert (tensor / torch.full((), 2.0))[torch.arange(2)].is_meta
    assert elsewhere.operations == ["aten.full.default", "aten.arange.default"]

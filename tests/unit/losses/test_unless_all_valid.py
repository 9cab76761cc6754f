"""A mask that is true everywhere: on the CPU the losses do without it, and no value changes."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from rdistill.losses import distributions, functional
from rdistill.losses.common import unless_all_valid


def test_a_mask_that_is_true_everywhere_is_not_applied_on_the_cpu() -> None:
    some = torch.tensor([[True, False]])
    assert unless_all_valid(None) is None and unless_all_valid(torch.ones(1, 2, dtype=torch.bool)) is None
    assert unless_all_valid(some) is some
    on_device = torch.ones(1, 2, dtype=torch.bool, device="meta")  # looking at a value would raise
    assert unless_all_valid(on_device) is on_device


@pytest.mark.parametrize("name", ["kl", "cwd", "dist", "dkd"])
def test_such_a_mask_changes_no_bit(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    student, teacher = torch.randn(2, 3, 8, 8, requires_grad=True), torch.randn(2, 3, 8, 8)
    everywhere = torch.ones(2, 8, 8, dtype=torch.bool)
    given = {"label": everywhere.long()} if name == "dkd" else {"mask": everywhere}

    def value_and_gradient() -> list[Tensor]:
        value = getattr(functional, name)(student, teacher, **given)
        return [value.detach(), *torch.autograd.grad(value, student)]

    without = value_and_gradient()
    monkeypatch.setattr(distributions, "unless_all_valid", lambda valid: valid)
    assert all(torch.equal(a, b) for a, b in zip(value_and_gradient(), without, strict=True))

"""What the losses share: masks, sizes, directions of vectors near zero, and the messages about shapes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from loss_cases import CLASSES, batch
from torch import Tensor

from rdistill.losses import functional as L


def test_a_mask_may_be_of_numbers() -> None:
    student, teacher, label = batch()
    mask = label != 255
    for number in (torch.uint8, torch.float32):
        assert torch.equal(L.kl(student, teacher, mask=mask.to(number)), L.kl(student, teacher, mask=mask))


def test_what_is_nearly_zero_is_so_beside_its_own_image() -> None:
    """A vector of 2e-5, a fifth of what counts beside vectors of 1, fades as its cube; in an image that is nearly empty
    it counts whole."""
    for rest, expected in ((1.0, 0.2**3), (0.0, 1.0)):
        x = torch.full((1, 1, 40_000), rest, dtype=torch.float64)
        x[0, 0, 0], x[0, 0, 1] = 2e-5, 1.0
        assert L.unit(x, dim=1)[0, 0, 0].item() == pytest.approx(expected, rel=1e-3)


def test_a_direction_fades_without_a_step() -> None:
    """From the length that counts in full down to zero, the value never jumps."""
    shares = torch.logspace(-5, -3, 201, dtype=torch.float64)
    lengths = []
    for share in shares:
        x = torch.ones(1, 1, 10_000, dtype=torch.float64)  # so many that one more hardly changes what is usual
        x[0, 0, 0] = share
        lengths.append(L.unit(x, dim=1)[0, 0, 0])
    stacked = torch.stack(lengths)
    assert (stacked.diff() > -1e-9).all() and stacked.diff().max() < 0.08
    assert stacked[0].item() == pytest.approx(1e-3, rel=0.01) and stacked[-1].item() == pytest.approx(1)


def test_what_has_to_agree_is_said() -> None:
    """Every axis, or all but the channels; never other numbers of axes."""
    x = torch.zeros(2, CLASSES, 4, 6)

    def problem(function: Callable[..., Tensor], *tensors: Any) -> str:
        with pytest.raises(ValueError) as caught:
            function(*tensors)
        return str(caught.value)

    assert problem(L.kl, x, x[:, :2]) == (
        "kl: student and teacher must be N x C x H x W and agree in every axis, got (2, 3, 4, 6) and (2, 2, 4, 6)"
    )
    for smaller in (x[:1], x[:, :, :3], x[..., :5]):
        assert problem(L.at, x, smaller) == (
            "at: student and teacher must be N x C x H x W and agree in N, H and W, "
            f"got (2, 3, 4, 6) and {tuple(smaller.shape)}"
        )
    for function in (L.kl, L.at):
        assert problem(function, x[0], x[0]).endswith("got (3, 4, 6) and (3, 4, 6)")
    assert problem(L.dsd, [x, x], [x]) == "dsd: as many layers of each model, got 2 and 1"
    assert problem(L.dsd, [], []) == "dsd: as many layers of each model, got 0 and 0"
    assert problem(L.dsd, [x, x], [x, x[:, :1]]).startswith("dsd, last layer: student and teacher must be")
    assert problem(L.dkd, x[:, :1], x[:, :1], torch.zeros(2, 4, 6)) == "dkd needs logits of at least 2 classes, got 1"


def test_nearest_resize_is_torchs_and_exact_for_labels() -> None:
    label = torch.randint(0, 255, (2, 12, 20))
    for size in ((12, 20), (6, 10), (24, 40), (5, 7), (1, 3)):
        expected = F.interpolate(label.unsqueeze(1).double(), size=size, mode="nearest").squeeze(1).long()
        assert torch.equal(L.resize_nearest(label, size), expected)

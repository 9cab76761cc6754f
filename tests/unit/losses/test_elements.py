"""FitNet, MGD, PKD, L1, L2 and cosine: values by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from loss_cases import CLASSES, ByHand, at_pixels, cases_in, cosine_of, one_valid_pixel, values

from rdistill.losses import functional as L


def pkd_by_hand(s: np.ndarray, t: np.ndarray) -> float:
    """As the paper puts it: one minus the channel's Pearson correlation."""
    return float(np.mean([1 - np.corrcoef(s[:, c].ravel(), t[:, c].ravel())[0, 1] for c in range(CLASSES)]))


BY_HAND: dict[str, ByHand] = {
    "fitnet": lambda s, t, label: float(np.mean((s - t) ** 2)),
    "mgd": lambda s, t, label: float(np.sum((s - t) ** 2)) / (2 * 4 * 6),
    "pkd": lambda s, t, label: pkd_by_hand(s, t),
    "l1": lambda s, t, label: float(np.mean(np.abs(at_pixels(s, label) - at_pixels(t, label)))),
    "l2": lambda s, t, label: float(np.mean((at_pixels(s, label) - at_pixels(t, label)) ** 2)),
    "cosine": lambda s, t, label: 1 - float(
        np.mean([cosine_of(a, b) for a, b in zip(at_pixels(s, label), at_pixels(t, label), strict=True)])
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", cases_in("elements"))
def test_value_is_the_one_worked_out_by_hand(name: str) -> None:
    by_hand, double, single = values(name, BY_HAND[name])
    assert double == pytest.approx(by_hand, rel=1e-6) and single == pytest.approx(by_hand, rel=1e-4)


@pytest.mark.parametrize("name", ["l1", "l2", "cosine"])
def test_a_single_valid_pixel_counts_whole(name: str) -> None:
    by_hand, double, _ = values(name, BY_HAND[name], one_valid_pixel())
    assert double == pytest.approx(by_hand, rel=1e-6)


def test_pkds_channel_that_hardly_varies_fades() -> None:
    """Its deviation is half of what counts beside the other channels' (1e-4 of their typical size), so the student's
    standardised channel is an eighth as long as the teacher's, of which it is a multiple."""
    teacher = torch.randn(2, 3, 4, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    teacher = (teacher - teacher.mean(dim=(0, 2, 3), keepdim=True)) / teacher.std(
        dim=(0, 2, 3), correction=0, keepdim=True
    )
    scales = torch.tensor([0.5e-4 * (2 / 3) ** 0.5, 1.0, 1.0]).view(1, 3, 1, 1)
    value = L.pkd(teacher * scales, teacher)
    assert value.item() == pytest.approx((1 - 1 / 8) ** 2 / 2 / 3, rel=1e-5)

"""BPKD: the value by hand, and what is an edge."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from loss_cases import CLASSES, ByHand, batch, cases_in, cwd_by_hand, halves, kl_by_hand, pixels, slopes, values

from rdistill.losses import functional as L


def bpkd_by_hand(s: np.ndarray, t: np.ndarray, label: np.ndarray) -> float:
    """Width 1, edge 2, body 1, tau 2 at the edge and 4 in the body."""
    label = halves(torch.from_numpy(label)).numpy()
    edge, body = np.full(label.shape, 255), np.full(label.shape, 255)
    for n, y, x in pixels(label):
        around = label[n, max(y - 1, 0) : y + 2, max(x - 1, 0) : x + 2]
        (edge if len(set(around[around != 255])) > 1 else body)[n, y, x] = label[n, y, x]
    return 2 * kl_by_hand(s, t, edge, tau=2.0) + cwd_by_hand(s, t, body)


BY_HAND: dict[str, ByHand] = {
    "bpkd": bpkd_by_hand,
}  # fmt: skip


@pytest.mark.parametrize("name", cases_in("boundaries"))
def test_value_is_the_one_worked_out_by_hand(name: str) -> None:
    by_hand, double, single = values(name, BY_HAND[name])
    assert double == pytest.approx(by_hand, rel=1e-6) and single == pytest.approx(by_hand, rel=1e-4)


@pytest.mark.parametrize("name", cases_in("boundaries"))
def test_gradient_is_that_of_the_value_by_hand(name: str) -> None:
    by_hand, slope = slopes(name, BY_HAND[name])
    assert abs(by_hand) > 1e-4 and slope == pytest.approx(by_hand, rel=1e-5)


@pytest.mark.parametrize("width", [1, 2, 3])
def test_the_width_of_the_edge_counts_pixels(width: int) -> None:
    """Twice the resolution with twice the width is the same; every width alone is another value."""
    student, teacher, label = (x.repeat_interleave(2, dim=-1).repeat_interleave(2, dim=-2) for x in batch())
    label = halves(label)
    big = [x.repeat_interleave(2, dim=-1).repeat_interleave(2, dim=-2) for x in (student, teacher, label)]
    value = L.bpkd(student, teacher, label, num_classes=CLASSES, width=width)
    torch.testing.assert_close(L.bpkd(*big, num_classes=CLASSES, width=2 * width), value)
    assert not torch.isclose(L.bpkd(*big, num_classes=CLASSES, width=width), value)


def test_an_ignored_neighbour_makes_no_edge() -> None:
    student, teacher, _ = batch()
    label = torch.full((2, 4, 6), 255)
    label[..., :2], label[..., 4:] = 0, 1  # two ignored columns between: further apart than the width
    apart = L.bpkd(student, teacher, label, num_classes=CLASSES, width=2, edge=1.0, body=0.0)
    assert apart.item() == 0.0
    assert L.bpkd(student, teacher, label, num_classes=CLASSES, width=3, edge=1.0, body=0.0).item() > 0

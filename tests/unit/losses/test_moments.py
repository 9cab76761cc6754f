"""WKD-F, HCL and Theia: values by hand, and the levels that count."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from loss_cases import ByHand, at_pixels, cases_in, cells_of, cosine_of, slopes, values

from rdistill.losses import functional as L


def wkdf_by_hand(s: np.ndarray, t: np.ndarray) -> float:
    s, t = cells_of(s), cells_of(t)
    squares = 3 * (s.mean(3) - t.mean(3)) ** 2 + (s.std(3) - t.std(3)) ** 2
    return float(squares.sum(axis=1).mean())


def hcl_by_hand(s: np.ndarray, t: np.ndarray) -> float:
    difference = s - t
    levels = [difference**2, cells_of(difference).mean(3) ** 2, difference.mean(axis=(2, 3)) ** 2]
    return float(sum(weight * level.mean() for weight, level in zip((1, 0.5, 0.25), levels, strict=True)) / 1.75)


def theia_by_hand(s: np.ndarray, t: np.ndarray) -> float:
    everywhere = np.zeros((2, 4, 6))
    angles = [1 - cosine_of(a, b) for a, b in zip(at_pixels(s, everywhere), at_pixels(t, everywhere), strict=True)]
    difference = np.abs(s - t)
    return float(0.9 * np.mean(angles) + 0.1 * np.where(difference < 1, difference**2 / 2, difference - 0.5).mean())


BY_HAND: dict[str, ByHand] = {
    "wkdf": lambda s, t, label: wkdf_by_hand(s, t),
    "hcl": lambda s, t, label: hcl_by_hand(s, t),
    "theia": lambda s, t, label: theia_by_hand(s, t),
}  # fmt: skip


@pytest.mark.parametrize("name", cases_in("moments"))
def test_value_is_the_one_worked_out_by_hand(name: str) -> None:
    by_hand, double, single = values(name, BY_HAND[name])
    assert double == pytest.approx(by_hand, rel=1e-6) and single == pytest.approx(by_hand, rel=1e-4)


@pytest.mark.parametrize("name", cases_in("moments"))
def test_gradient_is_that_of_the_value_by_hand(name: str) -> None:
    by_hand, slope = slopes(name, BY_HAND[name])
    assert abs(by_hand) > 1e-4 and slope == pytest.approx(by_hand, rel=1e-5)


def test_wkdfs_deviations_stay_precise_far_from_zero() -> None:
    """Each channel around a value of its own: the square of 10,000 leaves float32 no digit for a deviation of 1."""
    generator = torch.Generator().manual_seed(0)
    offsets = torch.tensor([-1e4, 0.0, 1e4]).view(3, 1, 1)
    student, teacher = (torch.randn(2, 3, 8, 8, generator=generator) for _ in range(2))
    value = L.wkdf(student + offsets, 2 * teacher + offsets, grid=2, mean_weight=0.0)
    expected = L.wkdf(student.double(), 2 * teacher.double(), grid=2, mean_weight=0.0)
    assert value.item() == pytest.approx(expected.item(), rel=1e-2)


@pytest.mark.parametrize(("share", "counted"), [(1e-3, 1e-3), (1.5e-4, 1.5e-4), (5e-5, 1e-4), (0.0, 1e-4)])
def test_a_deviation_in_wkdf_has_a_floor_of_a_ten_thousandth_of_the_images_typical_one(
    share: float, counted: float
) -> None:
    """The cells of the first channel vary by ``share`` of what all cells of the image do; the teacher's do not. The
    other image, which is the same on both sides, varies a thousand times as much."""
    pattern = torch.tensor([1.0, -1.0, 1.0, -1.0], dtype=torch.float64).expand(1, 2, 4, 4).clone()
    student, teacher = pattern.clone(), pattern.clone()  # each side's other channel makes the mean of the variances 1
    student[:, 0] *= share
    student[:, 1] *= (2 - share**2) ** 0.5
    teacher[:, 0] = 0
    teacher[:, 1] *= 2**0.5
    student, teacher = (torch.cat([x, 1e3 * pattern]) for x in (student, teacher))
    value = L.wkdf(student, teacher, grid=2, mean_weight=0.0).item()
    assert value == pytest.approx((counted - 1e-4) ** 2 / 2, rel=1e-6, abs=1e-16)


@pytest.mark.parametrize(("size", "counted"), [((4, 4), 2), ((8, 6), 3), ((2, 9), 1), ((1, 9), 0)])
def test_hcl_leaves_out_levels_that_are_not_coarser(size: tuple[int, int], counted: int) -> None:
    """A constant difference of 3 is 9 at every level, so the value is 9 however many count."""
    teacher = torch.randn(1, 2, *size)
    assert L.hcl(teacher + 3, teacher).item() == pytest.approx(9, rel=1e-5)
    spike = torch.zeros(1, 1, *size)
    spike[0, 0, 0, 0] = 1
    pooled = [F.adaptive_avg_pool2d(spike, cells).square().mean().item() for cells in (4, 2, 1) if cells < min(size)]
    assert len(pooled) == counted
    weights = {4: 0.5, 2: 0.25, 1: 0.125}
    used = [weights[cells] for cells in (4, 2, 1) if cells < min(size)]
    expected = (spike.square().mean().item() + sum(w * p for w, p in zip(used, pooled, strict=True))) / (1 + sum(used))
    assert L.hcl(spike, torch.zeros_like(spike)).item() == pytest.approx(expected)

"""OmniContrast: the value by hand, patches and groups."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from loss_cases import ByHand, batch, cases_in, cells_of, slopes, values

from rdistill.losses import functional as L


def contrast_by_hand(s: np.ndarray, t: np.ndarray) -> float:
    """One patch of 2 x 2 cells an image, three groups of one channel, tau 0.5."""
    s, t = cells_of(s).max(3), cells_of(t).max(3)
    each = []
    for n, group, cell in np.ndindex(2, 3, 4):
        positive = np.exp(-abs(s[n, group, cell] - t[n, group, cell]) / 0.5)
        rest = [j for j in range(3) if j != group]
        negatives = np.exp(-np.abs(s[n, group, cell] - t[n, rest]) / 0.5).sum()
        each.append(-np.log(positive / (positive + negatives)))
    return float(np.mean(each))


BY_HAND: dict[str, ByHand] = {
    "omni_contrast": lambda s, t, label: contrast_by_hand(s, t),
}  # fmt: skip


@pytest.mark.parametrize("name", cases_in("contrast"))
def test_value_is_the_one_worked_out_by_hand(name: str) -> None:
    by_hand, double, single = values(name, BY_HAND[name])
    assert double == pytest.approx(by_hand, rel=1e-6) and single == pytest.approx(by_hand, rel=1e-4)


@pytest.mark.parametrize("name", cases_in("contrast"))
def test_gradient_is_that_of_the_value_by_hand(name: str) -> None:
    by_hand, slope = slopes(name, BY_HAND[name])
    assert abs(by_hand) > 1e-4 and slope == pytest.approx(by_hand, rel=1e-5)


def test_contrast_is_over_the_other_groups_of_the_same_patch() -> None:
    student, teacher, _ = batch()
    left = [x[..., :2] for x in (student, teacher)]
    both = [x[..., :4] for x in (student, teacher)]
    each = [L.omni_contrast(student[..., i : i + 2], teacher[..., i : i + 2], patch=2) for i in (0, 2)]
    torch.testing.assert_close(L.omni_contrast(*both, patch=2), (each[0] + each[1]) / 2)
    torch.testing.assert_close(L.omni_contrast(*left, patch=2), each[0])
    cut_off = [x[..., :3, :5] for x in (student, teacher)]
    torch.testing.assert_close(
        L.omni_contrast(*cut_off, patch=2), L.omni_contrast(*(x[..., :2, :4] for x in cut_off), patch=2)
    )


def test_the_distance_of_two_groups_of_several_channels_is_the_sum_of_the_differences() -> None:
    """One cell, two groups of three channels: one positive and one negative for each."""
    student, teacher, _ = batch(dtype=torch.float64)
    s, t = (torch.cat([x, x.flip(2) * 0.7 - 0.1], dim=1)[:, :, :1, :1] for x in (student, teacher))
    near, far = ((s - other).abs().view(2, 2, 3).sum(dim=2) / 0.5 for other in (t, t.roll(3, dims=1)))
    expected = torch.log1p(torch.exp(near - far)).mean()
    torch.testing.assert_close(L.omni_contrast(s, t, tau=0.5, grid=1, patch=1, groups=2), expected)


def test_groups_are_as_many_as_divide_the_channels() -> None:
    assert [L.number_of_groups(channels, 16) for channels in (512, 24, 15, 3, 17, 1)] == [16, 12, 15, 3, 0, 0]
    assert [L.number_of_groups(8, groups) for groups in (2, 3, 7, 8, 9)] == [2, 2, 4, 8, 8]
    with pytest.raises(ValueError, match=r"^17 channels cannot be split into 2 to 16 groups of one size$"):
        L.omni_contrast(torch.zeros(1, 17, 4, 4), torch.zeros(1, 17, 4, 4))

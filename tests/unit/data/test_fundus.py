"""Drawn fundus photographs and their masks."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from rdistill.data.fundus import draw_fundus


def test_size_changes_resolution_not_anatomy() -> None:
    small = draw_fundus(seed=3, split="val", index=4, size=64)
    large = draw_fundus(seed=3, split="val", index=4, size=128)
    assert small[1].mean() == pytest.approx(large[1].mean(), rel=0.15)
    shrunk = cv2.resize(large[0], (64, 64), interpolation=cv2.INTER_AREA)
    assert np.abs(shrunk.astype(int) - small[0]).mean() < 5


def test_smallest_size_keeps_the_disc() -> None:
    for index in range(40):
        assert draw_fundus(seed=0, split="train", index=index, size=32)[1].sum() >= 5


def test_hurried_masks_are_off_by_so_much_and_not_to_one_side() -> None:
    """Of discs that the rim does not cut: centre by up to E radii, area by a factor of up to (1 + E)^2."""
    error, growths, shifts = 0.5, [], []
    for index in range(120):
        image, exact = draw_fundus(seed=3, split="train", index=index, size=48)
        again, mask = draw_fundus(seed=3, split="train", index=index, size=48, mask_error=error)
        np.testing.assert_array_equal(image, again)
        rows, columns = np.nonzero(exact)
        if min(rows.min(), columns.min()) < 8 or max(rows.max(), columns.max()) > 40:
            continue
        height, width = np.ptp(rows) + 1, np.ptp(columns) + 1
        hurried_rows, hurried_columns = np.nonzero(mask)
        growths.append(mask.sum() / exact.sum())
        down, right = hurried_rows.mean() - rows.mean(), hurried_columns.mean() - columns.mean()
        shifts.append((down / (height / 2), right / (width / 2)))
    assert len(growths) > 40
    assert 0.4 < min(growths) < 0.7 and 1.6 < max(growths) < 2.4  # 1 / 2.25 and 2.25, but for whole pixels
    lengths = np.hypot(*np.transpose(shifts))
    assert 0.4 < lengths.max() < 0.6 and np.abs(np.mean(shifts, axis=0)).max() < 0.12

"""Thresholds of repeated looks: Student's with a single look, and the promised error with many."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from rdistill.sweeps.proof.sequential import PATHS, chance_of_success, design


def test_one_look_is_students_t_test() -> None:
    plan = design(5, 5, 0.05)
    assert plan.threshold(5) == pytest.approx(2.776445, abs=1e-6) and plan.spent == (0.05,)


def test_thresholds_fall_and_the_last_is_above_students() -> None:
    plan = design(4, 16, 0.05)
    assert list(plan.thresholds) == sorted(plan.thresholds, reverse=True)
    assert plan.threshold(16) > stats.t.ppf(0.975, 15) and plan.spent[-1] == pytest.approx(0.05)


@pytest.mark.parametrize("alpha", [0.05, 0.025])
def test_the_error_over_all_looks_is_what_was_promised(alpha: float) -> None:
    """On differences of another random stream and another scale than those that made the thresholds."""
    studies = 40_000
    drawn = 7.3 * np.random.default_rng(99).standard_normal((studies, 12))
    claimed = np.zeros(studies, dtype=bool)
    for pairs in range(4, 13):
        seen = drawn[:, :pairs]
        t = seen.mean(1) / (seen.std(1, ddof=1) / math.sqrt(pairs))
        claimed |= np.abs(t) >= design(4, 12, alpha).threshold(pairs)
    error = math.sqrt(alpha * (1 - alpha) * (1 / studies + 1 / PATHS))
    assert claimed.mean() == pytest.approx(alpha, abs=4 * error)


def test_a_stricter_error_has_higher_thresholds() -> None:
    loose, strict = design(4, 10, 0.05), design(4, 10, 0.01)
    assert all(high > low for high, low in zip(strict.thresholds, loose.thresholds, strict=True))


@pytest.mark.parametrize(("first", "last", "alpha"), [(1, 4, 0.05), (5, 4, 0.05), (4, 8, 0.0), (4, 8, 1.0)])
def test_impossible_designs_are_refused(first: int, last: int, alpha: float) -> None:
    with pytest.raises(ValueError, match="got"):
        design(first, last, alpha)


def test_there_is_no_look_outside_the_design() -> None:
    with pytest.raises(ValueError, match="4 to 8 pairs, got 9"):
        design(4, 8).threshold(9)


def test_the_chance_of_success() -> None:
    plan = design(4, 16)
    chances = [chance_of_success(plan, 6, mean, 2.0, 0.0, 0.0) for mean in (-2.0, 0.0, 1.0, 2.0, 6.0)]
    assert chances == sorted(chances) and chances[0] < 0.01 and chances[-1] > 0.99
    assert chance_of_success(plan, 6, 2.0, 2.0, 3.0, 0.0) < chances[3]  # too few images: seeds cannot help
    assert chance_of_success(plan, 6, 2.0, 2.0, 0.0, 1.0) < chances[3]  # a margin asks for more
    assert (
        chance_of_success(plan, 16, 2.0, 1.0, 0.0, 0.0) == 1.0
        and chance_of_success(plan, 16, 0.1, 1.0, 0.0, 0.0) == 0.0
    )

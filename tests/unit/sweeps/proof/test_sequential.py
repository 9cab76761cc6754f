"""Thresholds of repeated looks: Student's with a single look, and the promised error with many."""

from __future__ import annotations

import math
import re

import numpy as np
import pytest
from scipy import stats

from rdistill.sweeps.proof import sequential
from rdistill.sweeps.proof.sequential import PATHS, Design, chance_of_success, design


def test_one_look_is_students_t_test() -> None:
    plan = design(5, 5, 0.05)
    assert plan.threshold(5) == pytest.approx(2.776445, abs=1e-6) and plan.spent == (0.05,)
    assert (plan.first, plan.last, plan.alpha) == (5, 5, 0.05)


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


def test_the_error_is_spent_a_little_at_each_look() -> None:
    """alpha (n / last)^1.5 up to look n; what the first look spends is Student's own level there."""
    plan = design(4, 9, 0.04)
    assert (plan.first, plan.last, plan.alpha) == (4, 9, 0.04)
    assert plan.spent == pytest.approx([0.04 * (pairs / 9) ** 1.5 for pairs in range(4, 10)])
    level = 2 * stats.t.sf(plan.threshold(4), 3)
    assert level == pytest.approx(plan.spent[0], abs=4 * math.sqrt(plan.spent[0] / PATHS))
    studies = 40_000
    drawn = np.random.default_rng(7).standard_normal((studies, 9))
    is_open = np.ones(studies, dtype=bool)
    for pairs, until in zip(range(4, 10), plan.spent, strict=True):
        seen = drawn[:, :pairs]
        t = seen.mean(1) / (seen.std(1, ddof=1) / math.sqrt(pairs))
        is_open &= np.abs(t) < plan.threshold(pairs)
        assert 1 - is_open.mean() == pytest.approx(until, abs=4 * math.sqrt(until * (1 / studies + 1 / PATHS)))


def test_more_looks_spend_what_is_left_of_the_error() -> None:
    """What was spent until the last look was put off stays spent, twice; over all looks it is what was promised."""
    before, once, grown = design(4, 8), design(4, 12, 0.05, ((6, 8),)), design(4, 15, 0.05, ((6, 8), (9, 12)))
    assert grown.thresholds[:3] == once.thresholds[:3] == before.thresholds[:3]
    assert grown.thresholds[3:6] == once.thresholds[3:6] != before.thresholds[3:5]
    assert once.spent_by(6) == before.spent_by(6) < once.spent_by(7) < before.spent_by(7)
    assert list(grown.spent) == sorted(grown.spent) and grown.spent_by(15) == pytest.approx(0.05)
    studies = 40_000
    drawn = np.random.default_rng(11).standard_normal((studies, 15))
    claimed = np.zeros(studies, dtype=bool)
    for pairs in range(4, 16):
        seen = drawn[:, :pairs]
        claimed |= np.abs(seen.mean(1) / (seen.std(1, ddof=1) / math.sqrt(pairs))) >= grown.threshold(pairs)
    assert claimed.mean() == pytest.approx(0.05, abs=4 * math.sqrt(0.05 * 0.95 * (1 / studies + 1 / PATHS)))


def test_each_simulated_study_is_claimed_once_and_as_many_as_were_promised() -> None:
    """Without rounding: of 2^18 studies, the whole number nearest to 4 % crosses at one of the looks."""
    plan, looks = design(4, 9, 0.04), sequential._simulated(4, 9)
    assert looks.shape == (6, PATHS) and looks.dtype == np.float32
    crossed = looks >= np.array(plan.thresholds, dtype=np.float32)[:, None]
    assert crossed.any(0).sum() == round(0.04 * PATHS)
    first = [(crossed[look] & ~crossed[:look].any(0)).sum() for look in range(6)]
    assert np.cumsum(first).tolist() == [round(until * PATHS) for until in plan.spent]


def test_what_is_spent_after_a_last_look_was_put_off_by_hand() -> None:
    """Planned for 8, put off after look 6 to 12: 0.05 (6 / 8)^1.5, and of the rest (3 / 6)^1.5 up to look 9."""
    spent = 0.05 * (6 / 8) ** 1.5
    plan = design(4, 12, 0.05, ((6, 8),))
    assert plan.spent_by(6) == pytest.approx(spent)
    assert plan.spent_by(9) == pytest.approx(spent + (0.05 - spent) * 0.5**1.5)


@pytest.mark.parametrize("replanned", [((8, 8),), ((6, 12),), ((9, 8),), ((-1, 8),)])
def test_a_last_look_that_was_taken_is_not_put_off(replanned: tuple[tuple[int, int], ...]) -> None:
    problem = f"a last look is put off before it is taken, to a later one; got {replanned} and 12"
    with pytest.raises(ValueError, match=f"^{re.escape(problem)}$"):
        design(4, 12, 0.05, replanned)


def test_a_last_look_that_is_put_off_before_any_look_is_another_plan() -> None:
    assert design(4, 12, 0.05, ((0, 8),)).thresholds == design(4, 12, 0.05).thresholds


def test_an_error_too_small_to_be_spent_yet_claims_nothing() -> None:
    """At the first look a third of one simulated study might claim, at the last the third of them does."""
    plan = design(2, 8, 1e-5)
    assert plan.threshold(2) == math.inf and plan.threshold(8) < math.inf


def test_the_same_design_has_the_same_thresholds_everywhere() -> None:
    plans = []
    for _ in range(2):
        sequential.design.cache_clear()
        sequential._simulated.cache_clear()
        plans.append(design(2, 3))
    assert plans[0] is not plans[1] and plans[0] == plans[1]


def test_a_stricter_error_has_higher_thresholds() -> None:
    loose, strict = design(4, 10, 0.05), design(4, 10, 0.01)
    assert all(high > low for high, low in zip(strict.thresholds, loose.thresholds, strict=True))


@pytest.mark.parametrize(("first", "last", "alpha"), [(1, 4, 0.05), (5, 4, 0.05), (4, 8, 0.0), (4, 8, 1.0)])
def test_impossible_designs_are_refused(first: int, last: int, alpha: float) -> None:
    problem = f"^alpha must lie .* got {alpha}$" if first == 4 else f"^the first look .* got {first} and {last}$"
    with pytest.raises(ValueError, match=problem):
        design(first, last, alpha)


def test_two_pairs_are_the_fewest_and_any_alpha_below_one_is_possible() -> None:
    assert design(2, 2, 0.999).threshold(2) == pytest.approx(stats.t.ppf(0.5005, 1))


def test_there_is_no_look_outside_the_design() -> None:
    for pairs in (3, 9):
        with pytest.raises(ValueError, match=f"^the design looks after 4 to 8 pairs, got {pairs}$"):
            design(4, 8).threshold(pairs)


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


def test_the_chance_of_success_by_hand() -> None:
    """After 4 of 9 pairs with mean 2 and sd 3: to be above 0.5 + hypot(2 x 3 / 3, 1.5) = 3.

    The final mean spreads by 3 x 5/9 x sqrt(1/5 + 1/4) = 1.118034, so 1 / 1.118034 of Student's t with 3 degrees.
    """
    plan = Design(4, 9, 0.05, (9.0, 9.0, 9.0, 9.0, 9.0, 2.0), (0.0,) * 6)
    assert chance_of_success(plan, 4, 2.0, 3.0, 1.5, 0.5) == pytest.approx(stats.t.sf(1 / 1.118034, 3), abs=1e-6)
    # The outcome is sure where there is no spread: above margin and images' part, or not.
    assert [chance_of_success(plan, 4, mean, 0.0, 1.5, 0.5) for mean in (1.9, 2.0, 2.1)] == [0.0, 0.0, 1.0]


def test_a_single_pair_to_come_leaves_the_outcome_open() -> None:
    """After 8 of 9 pairs, sd 1: to be above 2 / 3; the mean spreads by 1 x 1/9 x sqrt(1 + 1/8)."""
    plan = Design(4, 9, 0.05, (9.0, 9.0, 9.0, 9.0, 9.0, 2.0), (0.0,) * 6)
    expected = stats.t.cdf(0.1 / (math.sqrt(9 / 8) / 9), 7)
    assert chance_of_success(plan, 8, 2 / 3 + 0.1, 1.0, 0.0, 0.0) == pytest.approx(expected, abs=1e-6)

"""The spread of paired differences, and how many seeds a difference needs."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from rdistill.sweeps.headroom.power import plan, power, seeds_needed, spread_of


def test_the_power_is_that_of_the_textbooks() -> None:
    """Cohen (1988): a paired t test at d = 0.5 needs 34 pairs for a power of 80 %; at d = 1, 10; at d = 0.2, 199."""
    assert seeds_needed(0.5, 1.0) == 34
    assert seeds_needed(2.0, 2.0) == 10
    assert seeds_needed(0.2, 1.0) == 199
    assert power(34, 0.5, 1.0) == pytest.approx(0.8078, abs=5e-4)


def test_the_power_is_the_share_of_simulated_studies_that_show_it() -> None:
    drawn = np.random.default_rng(0).normal(2.0, 1.5, size=(20_000, 7))
    t = drawn.mean(1) / (drawn.std(1, ddof=1) / math.sqrt(7))
    shown = float((np.abs(t) > stats.t.ppf(0.975, 6)).mean())
    assert power(7, 2.0, 1.5) == pytest.approx(shown, abs=0.01)


def test_extremes() -> None:
    assert seeds_needed(5.0, 0.0) == 2  # no spread: two agree
    assert seeds_needed(1000.0, 0.01) == 2  # where scipy's own number is NaN
    assert seeds_needed(0.001, 5.0) is None  # more than a thousand


def test_the_spread_leaves_out_what_a_seed_brings_to_all() -> None:
    """Scores = configuration + seed + rest: hand-made rests of +1 and -1 in a 2 x 2 table."""
    spread = spread_of({"a": {0: 50.0 + 1, 1: 60.0 - 1}, "b": {0: 55.0 - 1, 1: 65.0 + 1}})
    assert spread is not None
    # One degree of freedom; the differences b - a are 3 and 7: sd = 2.828, and so is what the table gives.
    assert (spread.freedom, spread.pairs) == (1, pytest.approx(math.sqrt(8)))
    assert spread.runs == pytest.approx(math.sqrt((8**2 / 2 + 12**2 / 2) / 2))
    assert spread.low < spread.pairs < spread.high


def test_the_spread_is_unbiased_and_its_interval_holds() -> None:
    """Rests of sd 2 in four configurations on three seeds: differences of sd 2 * sqrt(2); 80 % of intervals hold it."""
    random, true = np.random.default_rng(1), 2 * math.sqrt(2)
    variances, held = [], 0
    for _ in range(2000):
        table = random.normal(0, 2, (4, 3)) + random.normal(0, 9, (1, 3)) + random.normal(0, 5, (4, 1))
        spread = spread_of({str(arm): dict(enumerate(row)) for arm, row in enumerate(table.tolist())})
        assert spread is not None
        variances.append(spread.pairs**2)
        held += spread.low <= true <= spread.high
    assert np.mean(variances) == pytest.approx(true**2, rel=0.05)
    assert held / 2000 == pytest.approx(0.8, abs=0.03)


def test_too_little_has_no_spread() -> None:
    assert spread_of({}) is None
    assert spread_of({"a": {0: 1.0, 1: 2.0}}) is None  # nothing to differ from
    assert spread_of({"a": {0: 1.0}, "b": {0: 2.0}}) is None  # one seed
    assert spread_of({"a": {0: 1.0, 1: 2.0}, "b": {0: 2.0}}) is None  # one of them lacks a seed


def test_a_plan_has_seeds_for_each_effect() -> None:
    spread = spread_of({"a": {0: 51.0, 1: 59.0}, "b": {0: 54.0, 1: 66.0}})
    assert spread is not None
    found = plan(spread, (1.0, 2.0))
    assert list(found) == ["+1", "+2"]
    assert found["+2"]["seeds"] == seeds_needed(2.0, spread.pairs)
    assert found["+2"]["low"] <= found["+2"]["seeds"] <= (found["+2"]["high"] or 10**9)  # type: ignore[operator]

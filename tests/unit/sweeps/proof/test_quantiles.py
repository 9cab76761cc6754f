"""Quantiles: of the normal distribution and Student's t by known values, of the chosen one's luck by drawing it."""

from __future__ import annotations

import math
from functools import cache

import numpy as np
import pytest

from rdistill.sweeps.proof.quantiles import luck_quantile, normal_quantile, student_quantile, two_sided_p


def test_known_quantiles() -> None:
    assert normal_quantile(0.05) == pytest.approx(1.959964, abs=1e-6)
    assert student_quantile(0.05, 4) == pytest.approx(2.776445, abs=1e-6)
    assert 3.182446 < student_quantile(0.05, 2.5) < 4.302653  # those of 3 and 2 degrees of freedom
    assert two_sided_p(1.959964) == pytest.approx(0.05, abs=1e-7) and two_sided_p(2.776445, 4) == pytest.approx(
        0.05, abs=1e-7
    )
    assert two_sided_p(math.inf, 3) == 0.0


def test_without_a_choice_luck_is_normal() -> None:
    assert luck_quantile(0.7, 1, 0.05) == luck_quantile(0.0, 16, 0.05) == normal_quantile(0.05)


@cache
def drawn_luck(share: float) -> np.ndarray:
    """Of the best of 16 in each of 100,000 studies."""
    random, studies = np.random.default_rng(1), 100_000
    with_images = random.normal(0, math.sqrt(share), (studies, 16))
    on_one_seed = with_images + random.normal(0, math.sqrt(1 - share), (studies, 16))
    chosen = with_images[np.arange(studies), on_one_seed.argmax(1)]
    baseline = random.normal(0, math.sqrt(share), studies)
    return (chosen - baseline) / math.sqrt(2 * share)


@pytest.mark.parametrize("share", [0.02, 0.3, 1.0])
@pytest.mark.parametrize("alpha", [0.05, 0.0125])
def test_the_luck_of_the_best_of_16_as_it_is_drawn(share: float, alpha: float) -> None:
    expected = float(np.quantile(drawn_luck(share), 1 - alpha / 2))
    assert luck_quantile(share, 16, alpha) == pytest.approx(expected, abs=0.05)

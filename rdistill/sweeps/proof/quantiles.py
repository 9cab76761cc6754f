"""Quantiles of the normal distribution, of Student's t, and of the selection bias of a search (here called luck).

A search scores many configurations on the validation images, and the configuration that it chooses is lucky with these
images: on other images its score is expected to be lower. Fresh seeds do not reveal this, since the confirmation is
scored on the same images. The size of this bias depends on how much of the variance of the search's scores comes from
the images and how much from the seed.

This module has pure functions of numbers and needs neither torch nor Ray.
"""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
from scipy import optimize, special

# A distribution is averaged over this many points: a probability of 0.001 then has a relative error of a twentieth.
STEPS = 20_000


def two_sided_p(statistic: float, freedom: float | None = None) -> float:
    """The probability that Student's t (a normal value if ``freedom`` is None) is at least as far from zero."""
    below = special.ndtr(-statistic) if freedom is None else special.stdtr(freedom, -statistic)
    return 2 * float(below)


def normal_quantile(alpha: float) -> float:
    """The value that the absolute value of a standard normal variable exceeds with probability ``alpha``."""
    return -float(special.ndtri(alpha / 2))


def student_quantile(alpha: float, freedom: float) -> float:
    """The same quantile of Student's t; the degrees of freedom may be a fraction."""
    return -float(special.stdtrit(freedom, alpha / 2))


def luck_quantile(share: float, chosen_from: int, alpha: float) -> float:
    """The value that the luck with images of the best of N configurations exceeds with probability ``alpha / 2``.

    The model: a configuration's luck with the images and its luck with the seed are normal and independent, and the
    search chooses the configuration with the largest sum of the two. The difference to a baseline has half of its
    variance from the configuration and half from the baseline, and only the configuration was chosen.

    Args:
        share: the fraction of the variance of that sum that comes from the images; 0 to 1.
        chosen_from: N; with 1, nothing was chosen, and the quantile is :func:`normal_quantile`.
        alpha: the two-sided level.

    Returns:
        The quantile in standard deviations of the difference's luck with images.
    """
    correlation = round(math.sqrt(min(max(share, 0.0), 1.0)), 2)
    if chosen_from == 1 or not correlation:
        return normal_quantile(alpha)
    return _luck_quantile(correlation, chosen_from, alpha)


@lru_cache(maxsize=1024)
def _luck_quantile(correlation: float, chosen_from: int, alpha: float) -> float:
    """:func:`luck_quantile` by the correlation between the luck with images and the sum."""
    chosen, rest = correlation / math.sqrt(2), math.sqrt(1 - correlation**2 / 2)
    largest = _largest_sums(chosen_from)

    def excess(quantile: float) -> float:
        return float(special.ndtr((chosen * largest - quantile) / rest).mean()) - alpha / 2

    return float(optimize.brentq(excess, 0.0, 12.0, xtol=1e-4))


@lru_cache(maxsize=16)
def _largest_sums(chosen_from: int) -> np.ndarray:
    """The distribution of the largest of N normal values, as its quantiles at equally spaced probabilities."""
    steps = (np.arange(STEPS) + 0.5) / STEPS
    return np.asarray(special.ndtri(steps ** (1 / chosen_from)))

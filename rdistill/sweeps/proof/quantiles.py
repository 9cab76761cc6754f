"""Quantiles of the normal distribution, of Student's t, and of the luck of a configuration that images have chosen.

A search scores many configurations on the validation images, and the one that it chooses is lucky with these very
images: on others it will do worse. Fresh seeds do not show it, since the confirmation is scored on the same images. How
lucky the chosen one is depends on how much of the search's scores was luck with images rather than with the seed.

Pure functions of numbers; needs neither torch nor ray.
"""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
from scipy import optimize, special

STEPS = 20_000  # averages over a distribution are of this many points: a chance of 0.001 is right to a twentieth


def level_of(statistic: float, freedom: float | None = None) -> float:
    """How often Student's t, or without ``freedom`` a normal value, is as far from zero by chance."""
    below = special.ndtr(-statistic) if freedom is None else special.stdtr(freedom, -statistic)
    return 2 * float(below)


def normal_quantile(alpha: float) -> float:
    """What a normal value exceeds, on either side, with a chance of ``alpha``."""
    return -float(special.ndtri(alpha / 2))


def student_quantile(alpha: float, freedom: float) -> float:
    """Likewise Student's t; ``freedom`` may be a fraction."""
    return -float(special.stdtrit(freedom, alpha / 2))


def luck_quantile(share: float, chosen_from: int, alpha: float) -> float:
    """What the luck with images of the best of N configurations exceeds with a chance of ``alpha / 2``.

    Of a difference to a baseline, half of whose variance each of the two brings. A configuration's luck with the images
    and with the seed are normal and independent; the best is the one with the largest sum, and of its luck with the
    images the part that its sum explains is as large as the largest of N sums.

    Args:
        share: of the luck with images in the sum, by variance; 0 to 1.
        chosen_from: N; 1: none was chosen, and the quantile is :func:`normal_quantile`.
        alpha: two-sided.

    Returns:
        In standard deviations of the difference's luck with images.
    """
    correlation = round(math.sqrt(min(max(share, 0.0), 1.0)), 2)
    if chosen_from == 1 or not correlation:
        return normal_quantile(alpha)
    return _luck_quantile(correlation, chosen_from, alpha)


@lru_cache(maxsize=1024)
def _luck_quantile(correlation: float, chosen_from: int, alpha: float) -> float:
    """``correlation``: of the luck with images and the sum."""
    chosen, rest = correlation / math.sqrt(2), math.sqrt(1 - correlation**2 / 2)
    largest = _largest_sums(chosen_from)

    def too_often(quantile: float) -> float:
        return float(special.ndtr((chosen * largest - quantile) / rest).mean()) - alpha / 2

    return float(optimize.brentq(too_often, 0.0, 12.0, xtol=1e-4))


@lru_cache(maxsize=16)
def _largest_sums(chosen_from: int) -> np.ndarray:
    """The largest of N normal values, at equal steps of its distribution."""
    steps = (np.arange(STEPS) + 0.5) / STEPS
    return np.asarray(special.ndtri(steps ** (1 / chosen_from)))

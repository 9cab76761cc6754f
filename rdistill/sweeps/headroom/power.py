"""The number of paired seeds that a difference needs, from the spread of differences and the power of the t test.

This module has pure functions of numbers and needs neither torch nor Ray.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

import numpy as np
from scipy import stats

from rdistill.schemas.headroom import SeedsNeeded, SpreadFigures

ALPHA, POWER = 0.05, 0.8  # level of the two-sided paired t test, and the wanted probability to show a true difference
MAX_SEEDS = 1000  # larger numbers of seeds are not computed
CONFIDENCE = 0.8  # confidence of a spread's interval; two or three seeds give a factor of two or three


@dataclass(frozen=True)
class Spread:
    """How much a difference of two trainings on one seed varies from seed to seed, in mIoU.

    Attributes:
        runs: standard deviation of one configuration's scores over seeds.
        pairs: standard deviation of the difference of two configurations on the same seed.
        low, high: ends of the 80 % interval of ``pairs``.
        freedom: degrees of freedom of ``pairs``.
    """

    runs: float
    pairs: float
    low: float
    high: float
    freedom: int

    def as_dict(self) -> SpreadFigures:
        return {
            "runs": self.runs,
            "pairs": self.pairs,
            "low": self.low,
            "high": self.high,
            "freedom": self.freedom,
        }


def spread_of(scores: Mapping[str, Mapping[int, float]]) -> Spread | None:
    """The spread over seeds, pooled over all configurations.

    It is a two-way analysis of variance without replication: a score is the sum of a part of its configuration, a part
    of its seed, and a residual. Differences on the same seed vary by the residuals alone, and a difference of two
    scores has twice the residual variance.

    Args:
        scores: configuration -> seed -> mIoU; configurations without all seeds are left out.

    Returns:
        None with fewer than two seeds or two configurations.
    """
    seeds = sorted({seed for by_seed in scores.values() for seed in by_seed})
    table = np.array([[by_seed[seed] for seed in seeds] for by_seed in scores.values() if len(by_seed) == len(seeds)])
    if table.ndim != 2 or min(table.shape) < 2:
        return None
    arms, count = table.shape
    rest = table - table.mean(1, keepdims=True) - table.mean(0, keepdims=True) + table.mean()
    freedom = (arms - 1) * (count - 1)
    variance = 2 * float((rest**2).sum()) / freedom
    tails = [float(stats.chi2.ppf(p, freedom)) for p in ((1 + CONFIDENCE) / 2, (1 - CONFIDENCE) / 2)]
    low, high = (math.sqrt(variance * freedom / tail) for tail in tails)
    runs = math.sqrt(fmean(table.var(axis=1, ddof=1).tolist()))
    return Spread(runs, math.sqrt(variance), low, high, freedom)


def power(pairs: int, effect: float, sd: float) -> float:
    """The probability that a two-sided paired t test at 5 % shows a difference, by the noncentral t distribution.

    Args:
        pairs: number of paired seeds, at least 2.
        effect: the true mean difference, in mIoU.
        sd: standard deviation of the differences over seeds, in mIoU, above 0.
    """
    freedom = pairs - 1
    needed = float(stats.t.ppf(1 - ALPHA / 2, freedom))
    shift = abs(effect) / sd * math.sqrt(pairs)
    value = float(stats.nct.sf(needed, freedom, shift))
    return 1.0 if math.isnan(value) else value  # scipy returns NaN for an enormous shift


def seeds_needed(effect: float, sd: float) -> int | None:
    """The smallest number of paired seeds that show a mean difference with a power of 80 %; None above 1,000."""
    if sd <= 0:
        return 2
    if power(MAX_SEEDS, effect, sd) < POWER:
        return None
    low, high = 2, MAX_SEEDS  # the power grows with the pairs
    while low < high:
        middle = (low + high) // 2
        if power(middle, effect, sd) >= POWER:
            high = middle
        else:
            low = middle + 1
    return low


def plan(spread: Spread, effects: Sequence[float]) -> dict[str, SeedsNeeded]:
    """Effect such as ``+2`` -> seeds needed with the measured spread, and with both ends of its interval."""
    return {
        f"{effect:+g}": {
            "seeds": seeds_needed(effect, spread.pairs),
            "low": seeds_needed(effect, spread.low),
            "high": seeds_needed(effect, spread.high),
        }
        for effect in effects
    }

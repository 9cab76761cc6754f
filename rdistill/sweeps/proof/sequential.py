"""The stopping rule of a confirmation: a group-sequential t test on paired differences, valid under repeated looks.

If a difference is tested at 5 % after every added seed, a false "significant" result is far more likely than 5 %.
Here a part of the allowed error is spent at each look (Lan and DeMets, Biometrika 1983; the power family of Kim and
DeMets, Biometrika 1987; the book is Jennison and Turnbull, Group Sequential Methods, 2000). Published tables assume a
known variance. With four to sixteen seeds the variance is not known, so the thresholds apply to the t statistics
themselves: without an effect, the joint distribution of the t statistics of normal differences depends on no unknown
parameter. It is simulated once for each design, always with the same random numbers.

If a study gets more pairs than were planned, the error that its looks have spent stays spent, and the rest is spent
over the remaining looks (Lan and DeMets, Biometrics 1989). That is exact if the decision to add pairs did not depend on
the results; docs/proof-details.md says how large the error may become otherwise.

This module has pure functions of numbers and needs neither torch nor Ray.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from scipy import special, stats

PATHS = 2**18  # simulated studies for each design: the spent error has a standard error of 0.0004
SEED = 20260715  # the seed of the simulation: a design has the same thresholds everywhere
SPENDING_POWER = 1.5  # error spent by look n: alpha * (n / last) ** power; 3 is like O'Brien-Fleming, 1 like Pocock
FUTILITY_BOUND = 0.05  # a comparison is futile if its chance to be shown better at the last look is below this


@dataclass(frozen=True)
class Design:
    """Looks after ``first``, ``first + 1``, ..., ``last`` pairs, with an error of ``alpha`` over all of them."""

    first: int
    last: int
    alpha: float
    thresholds: tuple[float, ...]  # the threshold of |t| at each look
    spent: tuple[float, ...]  # error spent up to and including each look

    def threshold(self, pairs: int) -> float:
        """The value that |t| has to exceed after this number of pairs, which is ``first`` to ``last``."""
        return self.thresholds[self._look(pairs)]

    def spent_by(self, pairs: int) -> float:
        """The error spent up to and including the look after this number of pairs."""
        return self.spent[self._look(pairs)]

    def _look(self, pairs: int) -> int:
        if not self.first <= pairs <= self.last:
            raise ValueError(f"the design looks after {self.first} to {self.last} pairs, got {pairs}")
        return pairs - self.first


# A pair for each time that looks were added: (pairs at the last look taken, pairs at the last look planned before).
Replanned = tuple[tuple[int, int], ...]


@lru_cache(maxsize=64)
def design(first: int, last: int, alpha: float = 0.05, replanned: Replanned = ()) -> Design:
    """Computes the thresholds of a two-sided test.

    Args:
        first, last: number of pairs at the first and at the last look; 2 <= first <= last. If they are equal, the test
            is Student's t test.
        alpha: the probability to claim a difference where there is none, over all looks together.
        replanned: the earlier plans, if looks were added to the study; the earliest first.

    Raises:
        ValueError: the numbers contradict each other.
    """
    if not 2 <= first <= last:
        raise ValueError(f"the first look needs at least 2 pairs and the last not fewer, got {first} and {last}")
    if not 0 < alpha < 1:
        raise ValueError(f"alpha must lie between 0 and 1, got {alpha}")
    if any(not 0 <= at < planned < last for at, planned in replanned):
        raise ValueError(f"a last look is put off before it is taken, to a later one; got {replanned} and {last}")
    if first == last:
        return Design(first, last, alpha, (float(stats.t.ppf(1 - alpha / 2, first - 1)),), (alpha,))
    looks = _simulated(first, last)
    thresholds, spent, open_paths, before = [], [], np.arange(looks.shape[1]), 0
    for pairs, t in zip(range(first, last + 1), looks, strict=True):
        until = spent_until(pairs, last, alpha, replanned)
        crossing = min(len(open_paths), round(until * PATHS) - before)
        values = t[open_paths]
        threshold = float(np.partition(values, -crossing)[-crossing]) if crossing else math.inf
        thresholds.append(threshold)
        spent.append(until)
        open_paths = open_paths[values < threshold]
        before += crossing
    return Design(first, last, alpha, tuple(thresholds), tuple(spent))


def spent_until(pairs: int, last: int, alpha: float, replanned: Replanned = ()) -> float:
    """The error that may be spent up to and including the look after ``pairs``; see :func:`design`."""
    spent, since = 0.0, 0
    for at, planned in (*replanned, (last, last)):
        until = spent + (alpha - spent) * ((min(pairs, at) - since) / (planned - since)) ** SPENDING_POWER
        if pairs <= at:
            return until
        spent, since = until, at
    return alpha


@lru_cache(maxsize=4)
def _simulated(first: int, last: int) -> np.ndarray:
    """|t| in simulated studies without an effect, as an array of looks x paths in float32."""
    random = np.random.default_rng(SEED)
    total, squares = np.zeros(PATHS), np.zeros(PATHS)
    looks = np.empty((last - first + 1, PATHS), dtype=np.float32)
    for pairs in range(1, last + 1):
        drawn = random.standard_normal(PATHS)
        total += drawn
        squares += drawn**2
        if pairs >= first:
            variance = (squares - total**2 / pairs) / (pairs - 1)
            looks[pairs - first] = np.abs(total) / np.sqrt(pairs * variance)
    return looks


def chance_of_success(design_: Design, pairs: int, mean: float, sd: float, images_half: float, margin: float) -> float:
    """The predictive probability that the last look shows the difference to be above ``margin``.

    The remaining differences are predicted from the mean of the first ``pairs`` differences; the uncertainty of that
    mean (Student's t with ``pairs - 1`` degrees of freedom) is included.

    Args:
        design_: looks and thresholds.
        pairs: number of differences so far.
        mean, sd: their mean and standard deviation, in mIoU.
        images_half: half width that the images add to the interval, in mIoU; more seeds do not reduce it.
        margin: the difference that has to be exceeded, in mIoU.
    """
    left = design_.last - pairs
    needed = margin + math.hypot(design_.threshold(design_.last) * sd / math.sqrt(design_.last), images_half)
    if left <= 0 or sd == 0:
        return float(mean > needed)
    spread = sd * (left / design_.last) * math.sqrt(1 / left + 1 / pairs)  # standard deviation of the final mean
    return float(special.stdtr(pairs - 1, (mean - needed) / spread))

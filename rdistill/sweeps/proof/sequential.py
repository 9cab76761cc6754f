"""When a confirmation may stop: a group-sequential t test on paired differences, valid under repeated looks.

A difference that is tested after every added seed, each time at 5 %, is "significant" by luck far more often than 5
%. Here the allowed error is spent a little at each look (Lan and DeMets, Biometrika 1983; the power family of Kim and
DeMets, Biometrika 1987; the book is Jennison and Turnbull, Group Sequential Methods, 2000). Their tables assume a
known variance. With four to sixteen seeds it is not known, so the thresholds are those of the t statistics
themselves: without an effect, the whole sequence of t statistics of normal differences has a distribution that
depends on nothing unknown, and is simulated once for each design, always with the same random numbers.

A study that is given more pairs than were planned keeps to what its looks have spent, and spends the rest of the error
over the looks that are left (Lan and DeMets, Biometrics 1989). That is exact where the decision did not rest on what
the looks had shown; docs/proof-details.md has what it may cost otherwise.

Pure functions of numbers; needs neither torch nor ray.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from scipy import special, stats

PATHS = 2**18  # simulated studies for each design: the error spent is right to 0.0004 (one standard error)
SEED = 20260715  # the simulation's: the same design has the same thresholds everywhere
SPENDING_POWER = 1.5  # error spent by look n: alpha * (n / last) ** power; 3 is like O'Brien-Fleming, 1 like Pocock
HOPELESS = 0.05  # a comparison is futile with less chance than this to be shown better by the last seed


@dataclass(frozen=True)
class Design:
    """Looks after ``first``, ``first + 1``, ..., ``last`` pairs, with an error of ``alpha`` over all of them."""

    first: int
    last: int
    alpha: float
    thresholds: tuple[float, ...]  # those of |t| at each look
    spent: tuple[float, ...]  # error spent up to and including each look

    def threshold(self, pairs: int) -> float:
        """What |t| has to exceed after this number of pairs, of ``first`` to ``last``."""
        return self.thresholds[self._look(pairs)]

    def until(self, pairs: int) -> float:
        """The error spent up to and including the look after this number of pairs."""
        return self.spent[self._look(pairs)]

    def _look(self, pairs: int) -> int:
        if not self.first <= pairs <= self.last:
            raise ValueError(f"the design looks after {self.first} to {self.last} pairs, got {pairs}")
        return pairs - self.first


Replanned = tuple[tuple[int, int], ...]  # a pair for each growth: the last look before it, the last planned


@lru_cache(maxsize=64)
def design(first: int, last: int, alpha: float = 0.05, replanned: Replanned = ()) -> Design:
    """The thresholds of a two-sided test.

    Args:
        first, last: pairs at the first and at the last look; 2 <= first <= last. Equal numbers give Student's t test.
        alpha: the chance to claim a difference where there is none, over all looks together.
        replanned: how often, when and from what the last look was put off; the earliest first.

    Raises:
        ValueError: impossible numbers.
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
    """The error that may be spent up to and including the look after ``pairs``; arguments as for :func:`design`."""
    spent, since = 0.0, 0
    for at, planned in (*replanned, (last, last)):
        until = spent + (alpha - spent) * ((min(pairs, at) - since) / (planned - since)) ** SPENDING_POWER
        if pairs <= at:
            return until
        spent, since = until, at
    return alpha


@lru_cache(maxsize=4)
def _simulated(first: int, last: int) -> np.ndarray:
    """|t| of simulated studies without an effect: looks x paths, float32."""
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
    """How likely the difference is shown above ``margin`` at the last look, by what is known after ``pairs``.

    The predictive probability: the remaining differences are drawn around the mean seen so far, whose own uncertainty
    (Student's t with ``pairs - 1`` degrees of freedom) is included.

    Args:
        design_: looks and thresholds.
        pairs: differences seen.
        mean, sd: of them, in mIoU.
        images_half: half width that the choice of images adds to the interval, in mIoU; more seeds do not lower it.
        margin: what has to be exceeded, in mIoU.
    """
    left = design_.last - pairs
    needed = margin + math.hypot(design_.threshold(design_.last) * sd / math.sqrt(design_.last), images_half)
    if left <= 0 or sd == 0:
        return float(mean > needed)
    spread = sd * (left / design_.last) * math.sqrt(1 / left + 1 / pairs)  # the final mean's
    return float(special.stdtr(pairs - 1, (mean - needed) / spread))

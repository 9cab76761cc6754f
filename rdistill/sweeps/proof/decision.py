"""Decides each question of a confirmation: the configuration is better, worse, futile to test further, or still open.

It combines the sequential test over seeds (:mod:`.sequential`) with the standard error over images (:mod:`.two_way`).
Several configurations are compared with one baseline. Holm's method at every look keeps the chance of any false claim
in the study at ``alpha`` (Ye, Li, Liu and Yao, Statistics in Medicine 2013).

This module has pure functions of numbers and needs neither torch nor Ray.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

import numpy as np
from scipy import stats

from rdistill.schemas.summary import Answer
from rdistill.sweeps.proof.quantiles import luck_quantile, normal_quantile, student_quantile, two_sided_p
from rdistill.sweeps.proof.sequential import FUTILITY_BOUND, Design, Replanned, chance_of_success, design
from rdistill.sweeps.proof.two_way import Errors, two_way_errors

ALPHA = 0.05
SIGN_FLIP_PAIRS = 6  # fewer pairs have no sign-flip p value below 0.05


@dataclass(frozen=True)
class Looks:
    """The looks of a study: the numbers of paired seeds after which it tests its differences."""

    first: int  # paired seeds at the first look
    last: int  # paired seeds at the last look
    margin: float = 0.0  # "better" means better by more than this mIoU
    chosen_from: int = 1  # number of configurations among which the search chose, by scores on the same images
    replanned: Replanned = ()  # see `rdistill.sweeps.proof.sequential.design`
    # The first and the last look of a confirmation that would add seeds after a single look; None if nothing would.
    would_follow: tuple[int, int] | None = None

    def design(self, alpha: float = ALPHA) -> Design:
        """The test's thresholds for an error of ``alpha`` over all looks."""
        return design(self.first, self.last, alpha, self.replanned)

    @property
    def to_come(self) -> Design:
        """The design that says how many seeds may follow and what their last look has to show."""
        return design(*self.would_follow) if self.would_follow is not None else self.design()


@dataclass(frozen=True)
class Comparison:
    """A configuration compared with the baseline after some paired seeds. Scores are in mIoU (percent)."""

    pairs: int  # number of paired seeds
    images: int  # number of images whose counts are known; 0: the interval is over seeds alone
    mean: float  # mean difference
    sd: float  # the standard deviation of the differences over seeds
    errors: Errors
    low: float  # lower end of the 95 % interval over seeds and images, valid at every look
    high: float
    low_seeds: float  # lower end of the 95 % interval over seeds alone, valid at every look
    high_seeds: float
    chance: float  # predictive probability that the last look shows it better; see `chance_of_success`


def compare(differences: Sequence[float], by_image: np.ndarray | None, looks: Looks) -> Comparison:
    """Computes mean, standard errors and intervals of paired differences.

    Args:
        differences: configuration minus baseline for each seed; at least ``looks.first`` of them.
        by_image: the differences of the pseudo-values (seeds x images), see
            :func:`rdistill.sweeps.proof.two_way.pseudo_values`. If it is None, because the counts of single images are
            not known, the interval is over seeds alone.
        looks: the study's looks.
    """
    pairs, mean = len(differences), fmean(differences)
    by_image = np.zeros((pairs, 0)) if by_image is None else by_image
    errors, images = two_way_errors(np.asarray(differences), by_image), by_image.shape[1]
    sd = errors.seeds * math.sqrt(pairs)
    wide = half_width(errors, images, pairs, looks, ALPHA)
    narrow = half_width(errors, 0, pairs, looks, ALPHA)
    at_the_end = images_half_width(errors, images, pairs, looks, ALPHA)
    chance = chance_of_success(looks.to_come, pairs, mean, sd, at_the_end, looks.margin)
    return Comparison(pairs, images, mean, sd, errors, mean - wide, mean + wide, mean - narrow, mean + narrow, chance)


def half_width(errors: Errors, images: int, pairs: int, looks: Looks, alpha: float) -> float:
    """Half width of the interval of a mean difference, valid at every look: the larger of the next two functions."""
    return max(seeds_half_width(errors, pairs, looks, alpha), two_way_half_width(errors, images, pairs, looks, alpha))


def seeds_half_width(errors: Errors, pairs: int, looks: Looks, alpha: float) -> float:
    """Half width of the interval over seeds alone, by the design's threshold of Student's t at this look."""
    return looks.design(alpha).threshold(pairs) * errors.seeds if errors.seeds else 0.0


def two_way_half_width(errors: Errors, images: int, pairs: int, looks: Looks, alpha: float) -> float:
    """Half width of the interval over seeds and images; over seeds alone if the counts of single images are not known.

    The seeds' part is tested again at every look, so it uses the level of that look. The images' part is the same at
    every look, so it uses ``alpha``. Their squares add up. The level of the sum then gives a quantile of Student's t
    with the degrees of freedom of the whole variance.
    """
    threshold = looks.design(alpha).threshold(pairs)
    if images < 2 or not errors.both or math.isinf(threshold):
        return seeds_half_width(errors, pairs, looks, alpha)
    of_seeds = normal_quantile(two_sided_p(threshold, pairs - 1)) * errors.seeds
    of_images = luck_quantile(image_share(errors, pairs), looks.chosen_from, alpha) * errors.images_alone
    return student_quantile(two_sided_p(math.hypot(of_seeds, of_images) / errors.both), errors.freedom) * errors.both


def images_half_width(errors: Errors, images: int, pairs: int, looks: Looks, alpha: float) -> float:
    """The images' part of :func:`two_way_half_width`, which remains however many seeds there are."""
    if images < 2:
        return 0.0
    quantile = luck_quantile(image_share(errors, pairs), looks.chosen_from, alpha)
    return student_quantile(two_sided_p(quantile), images - 1) * errors.images_alone


def image_share(errors: Errors, pairs: int) -> float:
    """The fraction of the variance of one seed's difference that comes from the images; 0 to 1."""
    of_images = errors.images_alone**2
    whole = of_images + pairs * errors.seeds**2
    return of_images / whole if whole else 0.0


def decide(comparisons: Mapping[str, Comparison], looks: Looks | Mapping[str, Looks]) -> dict[str, Answer]:
    """Decides each comparison, with an error of 5 % over the whole study.

    By Holm's method, the comparisons are ordered by their evidence, and each claim has to pass the threshold for its
    rank. A comparison without a claim is futile at the last look, or if its chance to be shown better has become too
    small; otherwise it is open. After a single look (``Looks.would_follow``) the looks that would follow count.

    Args:
        comparisons: name -> comparison; a configuration has two if it is compared both at equal iterations and at equal
            cost.
        looks: the study's looks; or name -> looks, if failed runs have left comparisons with different numbers of
            pairs.
    """
    looks_of = {name: looks if isinstance(looks, Looks) else looks[name] for name in comparisons}

    def evidence(name: str, alpha: float) -> float:
        comparison = comparisons[name]
        needed = half_width(comparison.errors, comparison.images, comparison.pairs, looks_of[name], alpha)
        distance = abs(comparison.mean - looks_of[name].margin)
        return distance / needed if needed else math.copysign(math.inf, distance) if distance else 0.0

    order = sorted(comparisons, key=lambda name: evidence(name, ALPHA), reverse=True)
    answers: dict[str, Answer] = {}
    claiming = True
    for place, name in enumerate(order):
        comparison = comparisons[name]
        claiming = claiming and evidence(name, ALPHA / (len(order) - place)) > 1
        if claiming:
            answers[name] = "better" if comparison.mean > looks_of[name].margin else "worse"
        else:
            no_more = comparison.pairs >= looks_of[name].to_come.last
            futile = no_more or comparison.chance < FUTILITY_BOUND
            answers[name] = "futile" if futile else "open"
    return {name: answers[name] for name in comparisons}


def p_value(comparison: Comparison, looks: Looks) -> float:
    """The p value of "no difference beyond the margin": the smallest ``alpha`` at which this look claims a difference.

    It covers seeds and images and is valid at every look (the repeated p value of Jennison and Turnbull 2000). It is
    not adjusted for several configurations.
    """
    distance = abs(comparison.mean - looks.margin)
    low, high = 0.0, 1.0
    for _ in range(13):  # exact to 0.0001
        alpha = round((low + high) / 2, 5)
        if half_width(comparison.errors, comparison.images, comparison.pairs, looks, alpha) < distance:
            high = alpha
        else:
            low = alpha
    return high


def sign_flip_p(differences: Sequence[float]) -> float | None:
    """The exact two-sided p value of the sign-flip test on the mean of paired differences.

    It is the fraction of the 2^n sign flips whose mean is at least as far from zero. It assumes only that, without an
    effect, both signs are equally likely. It is valid for a single look.

    Returns:
        The p value; None with fewer than six pairs, which cannot reach 0.05.
    """
    if len(differences) < SIGN_FLIP_PAIRS:
        return None
    values = np.asarray(differences, dtype=np.float64)
    test = stats.permutation_test(
        (values,), np.mean, permutation_type="samples", n_resamples=math.inf, alternative="two-sided", vectorized=True
    )
    return float(test.pvalue)

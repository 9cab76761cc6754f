"""Whether a confirmation has come to its answer: better, worse, futile, or still open.

Puts together what the seeds say at repeated looks (:mod:`.sequential`) and what the images add (:mod:`.two_way`).
Several configurations are held against one baseline: Holm's method at every look, which keeps the chance of any false
claim in the study at ``alpha`` (Ye, Li, Liu and Yao, Statistics in Medicine 2013).

Pure functions of numbers; needs neither torch nor ray.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

import numpy as np
from scipy import stats

from rdistill.schemas.summary import Answer
from rdistill.sweeps.proof.quantiles import level_of, luck_quantile, normal_quantile, student_quantile
from rdistill.sweeps.proof.sequential import HOPELESS, Design, Replanned, chance_of_success, design
from rdistill.sweeps.proof.two_way import Errors, two_way_errors

ALPHA = 0.05
SIGN_FLIP_PAIRS = 6  # fewer pairs have no sign-flip p value below 0.05


@dataclass(frozen=True)
class Looks:
    """After which numbers of paired seeds a study looks at its differences, and what it has to show."""

    first: int
    last: int
    margin: float = 0.0  # mIoU: "better" means better by more than this
    chosen_from: int = 1  # configurations that the same images chose the compared one from
    replanned: Replanned = ()  # how often the last look was put off

    def design(self, alpha: float = ALPHA) -> Design:
        """Its thresholds, with an error of ``alpha`` over all looks."""
        return design(self.first, self.last, alpha, self.replanned)


@dataclass(frozen=True)
class Comparison:
    """A configuration against the baseline, after some paired seeds. Scores in mIoU (percent)."""

    pairs: int
    images: int  # whose counts are known, by which the interval is wider
    mean: float
    sd: float  # the standard deviation of the differences over seeds
    errors: Errors
    low: float  # lower end of the 95 % interval over seeds and images, valid at every look
    high: float
    low_seeds: float  # lower end of the 95 % interval over seeds alone, valid at every look
    high_seeds: float
    chance: float  # how likely it is shown better at the last look, by what is known now


def compare(differences: Sequence[float], by_image: np.ndarray | None, looks: Looks) -> Comparison:
    """Mean, errors and intervals of paired differences.

    Args:
        differences: configuration minus baseline, one a seed; at least ``looks.first``.
        by_image: the differences of the pseudo-values (seeds x images), see
            :func:`rdistill.sweeps.proof.two_way.pseudo_values`; None where the counts of single images are not
            known: then the interval is over seeds alone.
        looks: of the study.
    """
    pairs, mean = len(differences), fmean(differences)
    by_image = np.zeros((pairs, 0)) if by_image is None else by_image
    errors, images = two_way_errors(np.asarray(differences), by_image), by_image.shape[1]
    sd = errors.seeds * math.sqrt(pairs)
    wide = half_width(errors, images, pairs, looks, ALPHA)
    narrow = half_width(errors, 0, pairs, looks, ALPHA)
    at_the_end = images_half_width(errors, images, pairs, looks, ALPHA)
    chance = chance_of_success(looks.design(), pairs, mean, sd, at_the_end, looks.margin)
    return Comparison(pairs, images, mean, sd, errors, mean - wide, mean + wide, mean - narrow, mean + narrow, chance)


def half_width(errors: Errors, images: int, pairs: int, looks: Looks, alpha: float) -> float:
    """Half of the width of the interval of a mean difference, valid at every look: the wider one of two."""
    return max(seeds_half_width(errors, pairs, looks, alpha), two_way_half_width(errors, images, pairs, looks, alpha))


def seeds_half_width(errors: Errors, pairs: int, looks: Looks, alpha: float) -> float:
    """Of the interval over seeds alone: the design's threshold of Student's t at this look."""
    return looks.design(alpha).threshold(pairs) * errors.seeds if errors.seeds else 0.0


def two_way_half_width(errors: Errors, images: int, pairs: int, looks: Looks, alpha: float) -> float:
    """Of the interval over seeds and images; that over seeds alone where the counts of single images are not known.

    The seeds' part is tested anew at every look and takes that look's level; the images' part is the same at every look
    and takes ``alpha``. The two add up as squares. The sum becomes Student's t with the degrees of freedom that the
    whole variance has.
    """
    threshold = looks.design(alpha).threshold(pairs)
    if images < 2 or not errors.both or math.isinf(threshold):
        return seeds_half_width(errors, pairs, looks, alpha)
    of_seeds = normal_quantile(level_of(threshold, pairs - 1)) * errors.seeds
    of_images = luck_quantile(image_share(errors, pairs), looks.chosen_from, alpha) * errors.images_alone
    return student_quantile(level_of(math.hypot(of_seeds, of_images) / errors.both), errors.freedom) * errors.both


def images_half_width(errors: Errors, images: int, pairs: int, looks: Looks, alpha: float) -> float:
    """The images' part of :func:`two_way_half_width`: what is left of it with any number of seeds."""
    if images < 2:
        return 0.0
    quantile = luck_quantile(image_share(errors, pairs), looks.chosen_from, alpha)
    return student_quantile(level_of(quantile), images - 1) * errors.images_alone


def image_share(errors: Errors, pairs: int) -> float:
    """The images' part of the luck that a configuration has on one seed, as in a search; a share of variance."""
    of_images = errors.images_alone**2
    whole = of_images + pairs * errors.seeds**2
    return of_images / whole if whole else 0.0


def decide(comparisons: Mapping[str, Comparison], looks: Looks | Mapping[str, Looks]) -> dict[str, Answer]:
    """The answer for each configuration, with the error of the whole study kept at 5 %.

    A claim needs the statistic beyond the threshold for its place among those compared (Holm). What cannot be claimed
    is futile at the last look, or when its chance to be shown better has become too small; open otherwise.

    Args:
        comparisons: by name; with baselines of equal iterations and of equal cost, two for each configuration.
        looks: of the study; or of each, where failed runs have left them another number of pairs.
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
            over = comparison.pairs >= looks_of[name].last or comparison.chance < HOPELESS
            answers[name] = "futile" if over else "open"
    return {name: answers[name] for name in comparisons}


def p_value(comparison: Comparison, looks: Looks) -> float:
    """Of no difference beyond the margin: the smallest ``alpha`` that would claim one by now, over seeds and images.

    Valid at every look (the repeated p value of Jennison and Turnbull 2000); not adjusted for several configurations.
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
    """Exact two-sided p value of the sign-flip test on the mean: how many of the 2^n ways to swap the two sides of each
    pair give a mean as far from zero. Assumes nothing but that without an effect both signs are as likely. For one look
    only; None with fewer than six pairs, which cannot reach 0.05."""
    if len(differences) < SIGN_FLIP_PAIRS:
        return None
    values = np.asarray(differences, dtype=np.float64)
    test = stats.permutation_test(
        (values,), np.mean, permutation_type="samples", n_resamples=math.inf, alternative="two-sided", vectorized=True
    )
    return float(test.pvalue)

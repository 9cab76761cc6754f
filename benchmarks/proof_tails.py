"""Why the interval of a chosen configuration has no equal tails: how often both kinds contain the true difference.

python -m benchmarks.proof_tails [--studies 2000]

Like `benchmarks.proof`, after five seeds and one look, where the images limit the answer; the 16 configurations may
have different true values. The interval of equal tails lowers its upper end by the luck of the best of 16 equal
configurations. Takes a minute.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
from scipy import optimize, special

from benchmarks.proof import LISTED, TRIALS, Arms, Rate, World
from benchmarks.simulations import print_simulations
from rdistill.sweeps.proof.decision import ALPHA, Comparison, compare, image_share, two_way_half_width
from rdistill.sweeps.proof.quantiles import normal_quantile, student_quantile, two_sided_p
from rdistill.sweeps.proof.sequential import design

WORLDS = [World(0.0, 1.0, 10.0), World(0.0, 0.5, 20.0)]
APART = (0.0, 1.0, 3.0)  # standard deviation of the configurations' true values, in mIoU
STEPS = (np.arange(1000) + 0.5) / 1000
LARGEST = special.ndtri(STEPS ** (1 / TRIALS))  # quantiles of the largest of TRIALS normal values


def least_luck(share: float) -> float:
    """The 2.5 % quantile of the luck with images of the best of equal configurations, in standard deviations."""
    correlation = math.sqrt(share)
    chosen, rest = correlation / math.sqrt(2), math.sqrt(1 - correlation**2 / 2)

    def too_often(luck: float) -> float:
        return float(special.ndtr((luck - chosen * LARGEST) / rest).mean()) - ALPHA / 2

    return float(optimize.brentq(too_often, -12, 12))


def upper_end(comparison: Comparison) -> float:
    """The distance of the upper end of the interval of equal tails from the mean."""
    errors, pairs = comparison.errors, LISTED.last
    of_seeds = normal_quantile(two_sided_p(design(pairs, pairs, ALPHA).threshold(pairs), pairs - 1)) * errors.seeds
    of_images = least_luck(image_share(errors, pairs)) * errors.images_alone
    if of_images > 0:  # the bound is below the mean
        return of_seeds - of_images
    level = two_sided_p(math.hypot(of_seeds, of_images) / errors.both)
    return student_quantile(level, errors.freedom) * errors.both


def measured(world: World, apart: float, studies: int, random: np.random.Generator) -> tuple[Rate, Rate]:
    """How often the verdict's interval and that of equal tails contain the true difference to a baseline."""
    verdict, equal = [], []
    for _ in range(studies):
        worth = [0.0, *random.normal(0, apart, TRIALS)]
        arms = Arms(world, worth, random)
        best = 1 + int(arms.scores(1).mean((1, 2))[1:].argmax())
        alone, chosen = arms.scores(LISTED.last, [0, best])
        differences = chosen - alone
        known = compare(differences.mean(1).tolist(), differences, LISTED)
        below = two_way_half_width(known.errors, known.images, LISTED.last, LISTED, ALPHA)
        verdict.append(known.low <= worth[best] <= known.high)
        equal.append(known.mean - below <= worth[best] <= known.mean + upper_end(known))
    return Rate.of(verdict), Rate.of(equal)


def lines(studies: int, random: np.random.Generator) -> Iterator[list[str]]:
    """For each world and spread of the configurations' worth, how often either interval contains the true value."""
    for world in WORLDS:
        for apart in APART:
            of_verdict, of_equal_tails = measured(world, apart, studies, random)
            yield [f"{world.spread:g}", f"{world.image_sd:g}", f"{apart:g}", f"{of_verdict}", f"{of_equal_tails}"]


if __name__ == "__main__":
    columns = ["spread", "images' sd", "sd of the worth", "verdict's interval", "equal tails"]
    print_simulations(__doc__, 1, columns, lines)

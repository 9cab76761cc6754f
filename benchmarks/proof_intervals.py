"""Which two-way interval to use: how often seven of them contain the true difference, by seeds and by images.

python -m benchmarks.proof_intervals [--studies 2000]

Each study has one look after a fixed number of seeds and no effect, so an interval without zero is a false claim. Four
intervals are of a configuration and a baseline that nobody chose; three are of the best of 16 configurations. The last
two do not split the 5 % equally between the sides: they ask how often the luck of the best of 16 exceeds the half width
on either side. Ten minutes of one core.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import lru_cache

import numpy as np
from scipy import optimize, special

from benchmarks.proof import BASELINES, TRIALS, Arms, Rate, World
from benchmarks.proof_tails import LARGEST
from benchmarks.simulations import print_simulations
from rdistill.sweeps.proof.decision import ALPHA, Looks, compare, half_width, image_share, seeds_half_width
from rdistill.sweeps.proof.quantiles import normal_quantile, student_quantile, two_sided_p
from rdistill.sweeps.proof.two_way import Errors

SPREADS = ((3.0, 5.0), (1.0, 10.0), (0.5, 20.0))  # standard deviations over seeds and over images, as in docs/proof.md
SEEDS, IMAGES = (2, 3, 4, 6, 10), (20, 76, 500)
NAMES = (
    "interaction twice, normal", "interaction once, normal", "t, smallest df", "t, Satterthwaite",
    "the verdict's, best of 16", "both sides, best of 16", "both sides, only it was chosen",
)  # fmt: skip


@lru_cache(maxsize=1024)
def luck_on_both_sides(correlation: float) -> float:
    """The 95 % quantile of the absolute luck of the best of 16 equal configurations, in standard deviations."""
    chosen, rest = correlation / math.sqrt(2), math.sqrt(1 - correlation**2 / 2)

    def too_often(luck: float) -> float:
        above = special.ndtr((chosen * LARGEST - luck) / rest).mean()
        below = special.ndtr((-luck - chosen * LARGEST) / rest).mean()
        return float(above + below) - ALPHA

    return max(normal_quantile(ALPHA), float(optimize.brentq(too_often, 0.0, 12.0)))


def on_both_sides(errors: Errors, seeds: int) -> float:
    """Half width of the verdict's interval with :func:`luck_on_both_sides` for the images' part."""
    of_seeds = normal_quantile(ALPHA) * errors.seeds
    correlation = round(math.sqrt(image_share(errors, seeds)), 2)
    of_images = luck_on_both_sides(correlation) * errors.images_alone
    level = two_sided_p(math.hypot(of_seeds, of_images) / errors.both)
    wide = student_quantile(level, errors.freedom) * errors.both
    return max(wide, seeds_half_width(errors, seeds, Looks(seeds, seeds), ALPHA))


def half_widths(errors: Errors, images: int, seeds: int) -> list[float]:
    """Half width of each interval for a configuration that nobody chose."""
    return [
        # Both variances contain the interaction; resampling seeds and images contains it up to three times.
        normal_quantile(ALPHA) * math.hypot(errors.seeds, errors.images),
        normal_quantile(ALPHA) * errors.both,
        student_quantile(ALPHA, min(seeds, images) - 1) * errors.both,
        half_width(errors, images, seeds, Looks(seeds, seeds), ALPHA),
    ]


def contained(world: World, seeds: int, random: np.random.Generator) -> list[bool]:
    """For each interval, whether it contains the true difference, 0, in one simulated study."""
    arms = Arms(world, [0.0] * (BASELINES + TRIALS + 2), random)
    found = arms.scores(1).mean((1, 2))
    baseline, best = int(found[:BASELINES].argmax()), BASELINES + int(found[BASELINES:-2].argmax())
    alone, chosen, plain_alone, plain = arms.scores(seeds, [baseline, best, -2, -1])

    def difference(ours: np.ndarray, rival: np.ndarray) -> tuple[float, Errors]:
        known = compare((ours - rival).mean(1).tolist(), ours - rival, Looks(seeds, seeds))
        return abs(known.mean), known.errors

    distance, errors = difference(plain, plain_alone)
    inside = [distance <= half for half in half_widths(errors, world.images, seeds)]
    distance, errors = difference(chosen, alone)
    of_best = half_width(errors, world.images, seeds, Looks(seeds, seeds, chosen_from=TRIALS), ALPHA)
    inside += [distance <= of_best, distance <= on_both_sides(errors, seeds)]
    distance, errors = difference(chosen, plain_alone)
    return [*inside, distance <= on_both_sides(errors, seeds)]


def lines(studies: int, random: np.random.Generator) -> Iterator[list[str]]:
    """For each spread and number of seeds, the lowest and the highest coverage over the numbers of images."""
    for spread, image_sd in SPREADS:
        for seeds in SEEDS:
            shares = []
            for images in IMAGES:
                world = World(0.0, spread, image_sd, images)
                simulated = [contained(world, seeds, random) for _ in range(studies)]
                shares.append([Rate.of(held).share for held in zip(*simulated, strict=True)])
            coverage = [f"{min(each):.1f} to {max(each):.1f}" for each in zip(*shares, strict=True)]
            yield [f"{spread:g}", f"{image_sd:g}", f"{seeds}", *coverage]


if __name__ == "__main__":
    print_simulations(__doc__, 2, ["spread", "images' sd", "seeds", *NAMES], lines)

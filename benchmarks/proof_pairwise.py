"""How often a sweep calls one of its confirmed configurations better than another where all are equal.

python -m benchmarks.proof_pairwise [--studies 2000]

Each study searches 16 equal configurations on one seed, confirms the best three on fresh seeds, and compares every two
of them, as `pairwise` in summary.json does. A claim in any of the three comparisons is a false one. A few minutes of
one core.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import numpy as np

from benchmarks.proof import BASELINES, TRIALS, Arms, Rate, World
from benchmarks.simulations import print_simulations
from rdistill.sweeps.proof.decision import ALPHA, Looks, compare, half_width

SPREADS = ((3.0, 0.0), (3.0, 5.0), (1.0, 10.0), (0.5, 20.0))  # standard deviations over seeds and over images
SEEDS, CONFIRMED, IMAGES = (3, 6, 10), 3, 76


def claims(world: World, seeds: int, random: np.random.Generator) -> tuple[bool, bool]:
    """Whether one of the intervals of a study excludes 0: those that hold together, and those of each by itself."""
    arms = Arms(world, [0.0] * (BASELINES + TRIALS), random)
    found = arms.scores(1).mean((1, 2))[BASELINES:]
    best = BASELINES + np.argsort(-found)[:CONFIRMED]
    confirmed = arms.scores(seeds, best.tolist())
    looks, pairs = Looks(seeds, seeds, chosen_from=TRIALS), list(itertools.combinations(confirmed, 2))
    together, single = False, False
    for first, second in pairs:
        known = compare((first - second).mean(1).tolist(), first - second, looks)
        half = half_width(known.errors, world.images, seeds, looks, ALPHA / len(pairs))
        together |= abs(known.mean) > half
        single |= abs(known.mean) > half_width(known.errors, world.images, seeds, looks, ALPHA)
    return together, single


def lines(studies: int, random: np.random.Generator) -> Iterator[list[str]]:
    """For each spread and number of seeds, how often a difference that is none is claimed."""
    for spread, image_sd in SPREADS:
        for seeds in SEEDS:
            world = World(0.0, spread, image_sd, IMAGES)
            simulated = [claims(world, seeds, random) for _ in range(studies)]
            claimed = [str(Rate.of(hits)) for hits in zip(*simulated, strict=True)]
            yield [f"{spread:g}", f"{image_sd:g}", f"{seeds}", *claimed]


if __name__ == "__main__":
    columns = ["spread", "images' sd", "seeds", "intervals that hold together", "each by itself"]
    print_simulations(__doc__, 3, columns, lines)

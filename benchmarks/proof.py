"""Whole studies simulated: how often each way of reading results claims a gain that is not there.

A score is the sum of a configuration's worth, chance of the seed (shared by a pair, and its own), of the images
(shared, and the configuration's own) and of both together. A study searches on one seed and confirms the best ``top``
against the best baseline; seeds are added until it is decided, by the functions of
``rdistill.sweeps.proof.decision``. (A sweep does not call them yet: its confirmation still has a fixed list of
seeds.)

    python -m benchmarks proof --studies 2000
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from scipy import stats

from rdistill.sweeps.proof.decision import Comparison, Looks, compare, decide

LOOKS = Looks(4, 16)
TRIALS, BASELINES, TOP = 16, 4, 2  # of the search, and how many are confirmed


@dataclass(frozen=True)
class World:
    """Where scores come from; standard deviations in mIoU."""

    effect: float  # of every distilled configuration over every baseline
    spread: float  # of the difference of a pair, by the seed
    images: int = 100
    image_sd: float = 5.0  # of one image, in a configuration's difference to another
    both_sd: float = 5.0  # of one image on one seed


@dataclass(frozen=True)
class Rate:
    """A share of studies, with its standard error, in percent."""

    share: float
    error: float


def rate(hits: Sequence[bool]) -> Rate:
    share = float(np.mean(hits))
    return Rate(100 * share, 100 * math.sqrt(share * (1 - share) / len(hits)))


def drawn(world: World, arms: int, seeds: int, random: np.random.Generator) -> np.ndarray:
    """Differences to a common reference: arms x seeds x images."""
    half = math.sqrt(0.5)  # each arm brings half of the variance of a difference of two
    by_seed = random.normal(0, world.spread * half, (arms, seeds, 1))
    by_image = random.normal(0, world.image_sd * half, (arms, 1, world.images))
    rest = random.normal(0, world.both_sd * half, (arms, seeds, world.images))
    return by_seed + by_image + rest


@dataclass(frozen=True)
class Study:
    """How one simulated study ended."""

    better: bool  # at least one configuration was claimed better
    worse: bool
    covered: bool  # the true difference of the first configuration lies in its interval
    seeds: int
    images_bind: bool


def confirmed(world: World, random: np.random.Generator) -> Study:
    """One study as rdistill makes it. The search's seed is none of the confirmation's, so it only picks the arms."""
    scores = drawn(world, 1 + TOP, LOOKS.last, random)
    baseline, arms = scores[0], scores[1:] + world.effect
    comparisons: dict[str, Comparison] = {}
    settled: dict[str, str] = {}
    for pairs in range(LOOKS.first, LOOKS.last + 1):
        for index, arm in enumerate(arms):
            difference = arm[:pairs] - baseline[:pairs]
            comparisons[str(index)] = compare(difference.mean(1).tolist(), difference, LOOKS)
        answers = decide(comparisons, LOOKS)
        settled.update({name: answer for name, answer in answers.items() if answer in ("better", "worse")})
        if all(answer != "open" for name, answer in answers.items() if name not in settled):
            break
    first = comparisons["0"]
    return Study(
        "better" in settled.values(), "worse" in settled.values(), first.low <= world.effect <= first.high, pairs,
        first.errors.binds == "images",
    )  # fmt: skip


def searched(world: World, random: np.random.Generator) -> tuple[float, list[float]]:
    """The best of the search on one seed minus the best baseline there; and that pair again on three fresh seeds."""
    scores = drawn(world, BASELINES + TRIALS, 1, random).mean((1, 2))
    scores[BASELINES:] += world.effect
    gain = scores[BASELINES:].max() - scores[:BASELINES].max()
    again = drawn(world, 2, 3, random).mean(2)
    return float(gain), (again[1] + world.effect - again[0]).tolist()


def table(world: World, studies: int, seed: int = 0) -> dict[str, object]:
    """Every way of reading results in one world."""
    random = np.random.default_rng(seed)
    outcomes = [confirmed(world, random) for _ in range(studies)]
    habits = [searched(world, random) for _ in range(studies)]
    return {
        "world": asdict(world),
        "studies": studies,
        "claims": {
            "best of the search, one seed": asdict(rate([gain > 0 for gain, _ in habits])),
            "mean of three fresh seeds above zero": asdict(rate([bool(np.mean(three) > 0) for _, three in habits])),
            "t test on three fresh seeds": asdict(rate([_t_test(three) for _, three in habits])),
            "rdistill, better": asdict(rate([study.better for study in outcomes])),
            "rdistill, worse": asdict(rate([study.worse for study in outcomes])),
            "rdistill, any": asdict(rate([study.better or study.worse for study in outcomes])),
        },
        "coverage": asdict(rate([study.covered for study in outcomes])),
        "seeds": float(np.mean([study.seeds for study in outcomes])),
        "images bind": asdict(rate([study.images_bind for study in outcomes])),
    }


def _t_test(values: Sequence[float]) -> bool:
    test = stats.ttest_1samp(values, 0.0)
    return bool(test.pvalue <= 0.05 and np.mean(values) > 0)


WORLDS = [
    World(effect, spread, image_sd=image_sd)
    for effect, spread, image_sd in [
        (0.0, 3.0, 0.0), (0.0, 3.0, 5.0), (0.0, 1.0, 10.0), (0.0, 0.5, 20.0),
        (2.0, 3.0, 5.0), (2.0, 1.0, 5.0), (1.0, 1.0, 5.0), (5.0, 3.0, 5.0),
    ]
]  # fmt: skip


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--studies", type=int, default=2000)
    parser.add_argument("--out", type=Path, default=None, help="also write the figures as JSON")
    options = parser.parse_args(arguments)
    rows = []
    for world in WORLDS:
        began = time.perf_counter()
        row = table(world, options.studies)
        rows.append(row)
        claims, coverage = row["claims"], row["coverage"]
        print(
            f"effect {world.effect:+.1f} spread {world.spread:.1f} image sd {world.image_sd:4.1f}: "
            + "; ".join(f"{name} {value['share']:.1f} +- {value['error']:.1f} %" for name, value in claims.items())  # type: ignore[attr-defined]
            + f"; coverage {coverage['share']:.1f} +- {coverage['error']:.1f} %; seeds {row['seeds']:.1f}"  # type: ignore[index]
            + f" ({time.perf_counter() - began:.0f} s)",
            flush=True,
        )
    if options.out:
        options.out.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()

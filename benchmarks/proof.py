"""Simulates whole studies: how often each way of reading results claims a gain that does not exist, or misses one.

python -m benchmarks.proof [--studies 2000] [--json FILE] [--picture docs/images/proof.png]

A score is the sum of a configuration's true value and of chance: by the seed, by the images (which are the same in the
search and in the confirmation, so that a chosen configuration is also lucky with them), and by both together. A study
searches on one seed, chooses the best two configurations and the best baseline, and confirms them, at equal iterations
and at equal cost, with the functions that a sweep calls (``rdistill.sweeps.proof.decision``), after every added seed,
which is the largest number of looks. Beside it is what people conclude from the same search today. About 8 minutes.
"""

from __future__ import annotations

import argparse
import json
import math
import platform
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import scipy
from scipy import stats

from rdistill.sweeps.proof.decision import ALPHA, Comparison, Looks, compare, decide, two_way_half_width

TRIALS, BASELINES, TOP = 16, 4, 2  # trials and baselines of the search, and how many trials are confirmed
LOOKS = Looks(4, 16, chosen_from=TRIALS)  # the looks of `seeds: auto`
LISTED = Looks(5, 5, chosen_from=TRIALS)  # a confirmation without looks
CLAIMS = ("better", "worse")
INTERVALS = ("seeds", "two-way", "verdict")  # the verdict's is the wider of the two


@dataclass(frozen=True)
class World:
    """How scores are drawn; the standard deviations, in mIoU, are those of the difference of two configurations."""

    effect: float  # gain of every distilled configuration over every baseline
    spread: float  # the part by the seed
    image_sd: float  # the part by the image, the same for all seeds
    images: int = 100
    both_sd: float = 5.0  # the part by the image and the seed together


WORLDS = [
    World(0.0, 3.0, 0.0), World(0.0, 3.0, 5.0), World(0.0, 1.0, 10.0), World(0.0, 0.5, 20.0),
    World(2.0, 3.0, 5.0), World(2.0, 1.0, 5.0), World(1.0, 1.0, 5.0), World(5.0, 3.0, 5.0),
]  # fmt: skip


@dataclass(frozen=True)
class Rate:
    """A share in percent, with its 95 % interval (Wilson)."""

    share: float
    low: float
    high: float

    @classmethod
    def of(cls, hits: Sequence[bool]) -> Rate:
        test = stats.binomtest(int(np.sum(hits)), len(hits))
        interval = test.proportion_ci(method="wilson")
        return cls(100 * test.statistic, 100 * interval.low, 100 * interval.high)

    def __str__(self) -> str:
        return f"{self.share:.1f} ({self.low:.1f} to {self.high:.1f})"


class Arms:
    """Configurations, each with a fixed luck with the images, which can be trained on any number of seeds."""

    def __init__(self, world: World, worth: Sequence[float], random: np.random.Generator) -> None:
        self.half = math.sqrt(0.5)  # each of two arms has half of the variance of their difference
        self.world, self.random = world, random
        by_image = random.normal(0, world.image_sd * self.half, (len(worth), world.images))
        self.by_image = np.asarray(worth)[:, None] + by_image

    def scores(self, seeds: int, arms: Sequence[int] | None = None) -> np.ndarray:
        """The scores of new trainings: arms x seeds x images."""
        own = self.by_image if arms is None else self.by_image[list(arms)]
        by_seed = self.random.normal(0, self.world.spread * self.half, (len(own), seeds, 1))
        rest = self.random.normal(0, self.world.both_sd * self.half, (len(own), seeds, self.world.images))
        return own[:, None] + by_seed + rest


@dataclass(frozen=True)
class Study:
    """How one simulated study ended."""

    gain: float  # best of the search minus the best baseline there, on the one seed
    three: list[float]  # differences of the same two on three fresh seeds
    better: bool  # there is a claim of a gain
    worse: bool
    seeds: int  # when it ended
    images_bind: bool
    listed: dict[str, bool]  # interval -> whether it holds the true difference, after a fixed number of seeds
    at_the_end: dict[str, bool]  # the same where the study ended
    at_every_look: dict[str, bool]  # the same at all looks that there could be, at once: what the interval promises


def simulated(world: World, random: np.random.Generator) -> Study:
    """A search, a choice and a confirmation. After the search's arms come the longer baselines, one for each chosen."""
    longer = range(BASELINES + TRIALS, BASELINES + TRIALS + TOP)
    arms = Arms(world, [0.0] * BASELINES + [world.effect] * TRIALS + [0.0] * TOP, random)
    found = arms.scores(1).mean((1, 2))
    baseline = int(found[:BASELINES].argmax())
    order = BASELINES + np.argsort(-found[BASELINES : BASELINES + TRIALS])
    chosen = [int(arm) for arm in order[:TOP]]
    # Each configuration is compared with the baseline and with the baseline of equal cost.
    alone, *rest = arms.scores(LOOKS.last, [baseline, *chosen, *longer])
    distilled, as_long = rest[:TOP], rest[TOP:]
    questions = [ours - alone for ours in distilled]
    questions += [ours - own for ours, own in zip(distilled, as_long, strict=True)]
    again = arms.scores(3, [baseline, chosen[0]]).mean(2)
    settled, seeds, last = _confirmed(questions)
    return Study(
        float(found[chosen[0]] - found[baseline]),
        (again[1] - again[0]).tolist(),
        "better" in settled,
        "worse" in settled,
        seeds,
        last.errors.binds == "images",
        _held(questions[0], LISTED.last, LISTED, world.effect),
        _held(questions[0], seeds, LOOKS, world.effect),
        _held_always(questions[0], world.effect),
    )


def _confirmed(questions: Sequence[np.ndarray]) -> tuple[set[str], int, Comparison]:
    """Looks after every seed until nothing is open. Returns the claims, the seeds, and the first question's answer."""
    settled: dict[str, str] = {}
    for pairs in range(LOOKS.first, LOOKS.last + 1):
        comparisons = {str(index): _compared(each, pairs, LOOKS) for index, each in enumerate(questions)}
        answers = decide(comparisons, LOOKS)
        settled = {name: answer for name, answer in answers.items() if answer in CLAIMS} | settled
        if all(name in settled or answer != "open" for name, answer in answers.items()):
            break
    return set(settled.values()), pairs, comparisons["0"]


def _compared(differences: np.ndarray, pairs: int, looks: Looks) -> Comparison:
    seen = differences[:pairs]
    return compare(seen.mean(1).tolist(), seen, looks)


def _held(differences: np.ndarray, pairs: int, looks: Looks, truth: float) -> dict[str, bool]:
    """By interval, whether it holds the true difference."""
    known = _compared(differences, pairs, looks)
    half = two_way_half_width(known.errors, known.images, pairs, looks, ALPHA)
    return {
        "seeds": known.low_seeds <= truth <= known.high_seeds,
        "two-way": abs(known.mean - truth) <= half,
        "verdict": known.low <= truth <= known.high,
    }


def _held_always(differences: np.ndarray, truth: float) -> dict[str, bool]:
    each = [_held(differences, pairs, LOOKS, truth) for pairs in range(LOOKS.first, LOOKS.last + 1)]
    return {name: all(look[name] for look in each) for name in INTERVALS}


# How results are read --------------------------------------------------------------------------------------


def _t_test(values: Sequence[float]) -> bool:
    test = stats.ttest_1samp(values, 0.0)
    return bool(test.pvalue <= ALPHA and np.mean(values) > 0)


READINGS: dict[str, Callable[[Study], bool]] = {  # which studies claim a gain
    "best of 16, one seed": lambda study: study.gain > 0,
    "mean of three seeds": lambda study: float(np.mean(study.three)) > 0,
    "t test, three seeds": lambda study: _t_test(study.three),
    "rdistill": lambda study: study.better,
}


def row_of(world: World, studies: int, seed: int = 0) -> dict[str, Any]:
    """Every way of reading results in one world, in percent with error bars."""
    random = np.random.default_rng(seed)
    done = [simulated(world, random) for _ in range(studies)]
    return {
        "world": asdict(world),
        "studies": studies,
        "claims a gain": {name: Rate.of([claims(study) for study in done]) for name, claims in READINGS.items()},
        "claims anything": Rate.of([study.better or study.worse for study in done]),
        "seeds": float(np.mean([study.seeds for study in done])),
        "images bind": Rate.of([study.images_bind for study in done]),
        "coverage": {
            when: {name: Rate.of([getattr(study, when)[name] for study in done]) for name in INTERVALS}
            for when in ("listed", "at_every_look", "at_the_end")
        },
    }


def print_tables(rows: Sequence[dict[str, Any]], command: str) -> None:
    """In Markdown, as docs/proof.md and docs/proof-details.md have them."""
    studies = rows[0]["studies"]
    versions = f"Python {platform.python_version()}, numpy {np.__version__}, scipy {scipy.__version__}"
    print(f"`{command}`, {versions}: {studies:,} studies a line, percent (95 % interval)\n")
    print(f"| effect | spread | images' sd | {' | '.join(READINGS)} | rdistill, better or worse | seeds |")
    print("|" + "---|" * (len(READINGS) + 5))
    for row in rows:
        claims = [*row["claims a gain"].values(), row["claims anything"]]
        print(f"| {_where(row)} | {' | '.join(map(str, claims))} | {row['seeds']:.1f} |")
    when = {"listed": f"{LISTED.last} seeds", "at_every_look": "all looks", "at_the_end": "the end"}
    names = [f"{label}: {name}" for label in when.values() for name in INTERVALS]
    print(f"\n| effect | spread | images' sd | {' | '.join(names)} |\n|{'---|' * (len(names) + 3)}")
    for row in rows:
        shares = [row["coverage"][key][name].share for key in when for name in INTERVALS]
        print(f"| {_where(row)} | {' | '.join(f'{share:.1f}' for share in shares)} |")


def _where(row: dict[str, Any]) -> str:
    world = row["world"]
    return f"{world['effect']:+.0f} | {world['spread']:g} | {world['image_sd']:g}"


def draw(rows: Sequence[dict[str, Any]], file: Path) -> None:
    """Claims of each way of reading results, and coverage of the verdict's interval, as one picture."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    none, some = ([row for row in rows if bool(row["world"]["effect"]) is there] for there in (False, True))
    figure, axes = pyplot.subplots(1, 3, figsize=(11.5, 4.2), layout="constrained")
    _claims(axes[0], none, "No effect: studies that claim a gain")
    axes[0].axhline(100 * ALPHA, color="#b3261e", linewidth=1, linestyle="--")
    axes[0].set_ylabel("percent of studies", fontsize=9)
    _claims(axes[1], some, "A true effect: studies that claim a gain")
    _coverage(axes[2], rows)
    for axis, chosen in zip(axes, (none, some, list(rows)), strict=True):
        axis.set_xticks(range(len(chosen)), [_where(row).replace(" | ", "\n") for row in chosen], fontsize=8)
        axis.set_xlabel("effect; sd over seeds; sd over images", fontsize=8)
        axis.spines[["top", "right"]].set_visible(False)
        axis.tick_params(axis="y", labelsize=8)
    bars, marks = (axis.get_legend_handles_labels() for axis in axes[1:])
    handles, labels = [*bars[0], *marks[0]], [*bars[1], *marks[1]]
    figure.legend(handles, labels, ncols=len(labels), fontsize=8, frameon=False, loc="outside upper center")
    file.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(file, dpi=110, metadata={"Software": None})


def _claims(axis: Any, rows: Sequence[dict[str, Any]], title: str) -> None:
    for index, (name, colour) in enumerate(zip(READINGS, ("#9aa2ae", "#c25400", "#7a6a00", "#0072b2"), strict=True)):
        rates = [row["claims a gain"][name] for row in rows]
        places = np.arange(len(rows)) + 0.2 * (index - 1.5)
        axis.bar(places, [rate.share for rate in rates], 0.19, color=colour, label=name, yerr=_bars(rates))
    axis.set_title(title, fontsize=10)
    axis.set_ylim(0, 100)


def _coverage(axis: Any, rows: Sequence[dict[str, Any]]) -> None:
    kinds = [("listed", f"{LISTED.last} seeds", "#0072b2"), ("at_every_look", "all looks at once", "#00795a")]
    for index, (when, label, colour) in enumerate([*kinds, ("at_the_end", "where it ended", "#9aa2ae")]):
        rates = [row["coverage"][when]["verdict"] for row in rows]
        shares, places = [rate.share for rate in rates], np.arange(len(rows)) + 0.2 * (index - 1)
        axis.errorbar(places, shares, _bars(rates), fmt="o", markersize=4, color=colour, label=label)
    axis.axhspan(93, 97, color="#e6e8ec", zorder=0)
    axis.set_ylim(90, 100)
    axis.set_title("Coverage of the verdict's 95 % interval", fontsize=10)


def _bars(rates: Sequence[Rate]) -> list[list[float]]:
    return [[rate.share - rate.low for rate in rates], [rate.high - rate.share for rate in rates]]


def main() -> None:
    """Simulates, and prints tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--studies", type=int, default=2000, help="of each world")
    parser.add_argument("--json", type=Path, default=None, help="also write all figures")
    parser.add_argument("--picture", type=Path, default=None, help="also draw them")
    options = parser.parse_args()
    rows = []
    for world in WORLDS:
        rows.append(row_of(world, options.studies))
        print(f"{world}: done", flush=True)
    print()
    picture = f" --picture {options.picture}" if options.picture else ""
    print_tables(rows, f"python -m benchmarks.proof --studies {options.studies}{picture}")
    if options.json:
        options.json.write_text(json.dumps(rows, default=asdict, indent=1) + "\n")
    if options.picture:
        draw(rows, options.picture)


if __name__ == "__main__":
    main()

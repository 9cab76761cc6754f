"""How many trials a search needs, replayed on a table of real trainings: regret after 8, 16 and 24 trials.

python -m benchmarks.search [--table FILE] [--repeats 100] [--picture docs/images/search.png]

The table is `search_table.csv` (see `benchmarks.search_table`). Between its rows the score is interpolated, by radial
basis functions (linear, through every row) of the choices and of the logarithms of the learning rate, the temperature
and the two shares, each scaled to its range; outside a range, the score at its edge is used. As in a sweep, the
objective of a search is the best validation of one seed. Regret is the best score in the table minus the best score
that a search has reached, in mIoU.

Spaces: in *shares*, both weights have the same range for every loss; in *weights*, the range must contain the weights
that any loss may need, because nobody knows beforehand which those are. Starts: `defaults` begins with the config
unchanged, with the published weights of its losses. At a time: a single trial, or a quarter of the trials together.
"""

from __future__ import annotations

import argparse
import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution
from scipy.interpolate import RBFInterpolator

from benchmarks.search_table import COLUMNS, LOSSES, PAIRS, RANGES, TABLE, VALIDATIONS, read_rows
from benchmarks.turns import print_machine
from rdistill.searchers.own import auto

BUDGETS = (8, 16, 24)
ASIDE = 0.2  # distance to another loss or pair, in units of a range; it predicts left-out rows best
WEIGHTS = {"logits_weight": "logits_share", "hidden_weight": "hidden_share"}
BASE_LR, TAU, KL_WEIGHT = 1e-3, 1.0, 3.0  # the config's values, and the published weight
Values = Mapping[str, Any]


class Surface:
    """The scores of a table, interpolated.

    Attributes:
        best: the highest score of any row.
    """

    def __init__(self, file: Path = TABLE) -> None:
        self.rows = read_rows(file)
        for row in self.rows:
            row["score"] = max(row[name] for name in COLUMNS[-VALIDATIONS:])
        self.best = max(row["score"] for row in self.rows)
        self._between = _interpolator(self.rows)

    def score(self, values: Values) -> float:
        """mIoU of a configuration in shares."""
        return float(self._between(np.array([place(values)]))[0])

    def fidelity(self) -> float:
        """Correlation between the scores of the rows and their predictions from all other rows."""
        predicted = []
        for left_out in self.rows:
            between = _interpolator([row for row in self.rows if row is not left_out])
            predicted.append(float(between(np.array([place(left_out)]))[0]))
        return float(np.corrcoef(predicted, [row["score"] for row in self.rows])[0, 1])

    def ratio(self, values: Values, name: str) -> float:
        """The share that a weight of 1 gives: a share is proportional to its weight.

        For logits it depends only on the temperature, for features on the loss and the pair.
        """
        kind = (values["hidden"], values["pair"])
        rows = [row for row in self.rows if name == "logits" or (row["hidden"], row["pair"]) == kind]
        nearest = min(rows, key=lambda row: abs(math.log(row["tau"] / values["tau"])))
        return float(nearest[f"{name}_share"] / nearest[f"{name}_weight"])


def _interpolator(rows: Sequence[Values]) -> RBFInterpolator:
    points = np.array([place(row) for row in rows])
    return RBFInterpolator(points, np.array([row["score"] for row in rows]), kernel="linear", degree=0)


def place(values: Values) -> list[float]:
    """A configuration as a point: numbers scaled to 0 to 1 and clipped, each choice in its own dimension."""
    numbers = [
        min(1.0, max(0.0, math.log(values[name] / low) / math.log(high / low))) for name, (low, high) in RANGES.items()
    ]
    aside = [values["hidden"] == loss for loss in LOSSES] + [values["pair"] == PAIRS[0]]
    return numbers + [ASIDE * step for step in aside]


# --- spaces ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Space:
    """The space of a search as Optuna's distributions, and the score of each point."""

    name: str  # 'shares' or 'weights'
    distributions: Mapping[str, BaseDistribution]
    surface: Surface

    def score(self, chosen: Values) -> float:
        return self.surface.score(self.in_shares(chosen))

    def in_shares(self, chosen: Values) -> dict[str, Any]:
        values = {"hidden": chosen["hidden"], "pair": chosen["pair"], "lr": chosen["lr"], "tau": chosen["tau"]}
        for weight, share in WEIGHTS.items():
            name = share.removesuffix("_share")
            values[share] = chosen[share] if share in chosen else chosen[weight] * self.surface.ratio(values, name)
        return values

    def starts(self) -> list[dict[str, Any]]:
        """The config unchanged: its learning rate and temperature, a loss on its first pair, published weights."""
        loss = next(iter(LOSSES))
        values: dict[str, Any] = {"hidden": loss, "pair": PAIRS[0], "lr": BASE_LR, "tau": TAU}
        values |= {"logits_weight": KL_WEIGHT, "hidden_weight": LOSSES[loss]}
        if self.name == "shares":
            shares = self.in_shares(values)
            values = {name: shares[name] for name in self.distributions}
        return [{name: self._within(name, value) for name, value in values.items()}]

    def _within(self, name: str, value: Any) -> Any:
        distribution = self.distributions[name]
        if isinstance(distribution, FloatDistribution):
            return min(distribution.high, max(distribution.low, value))
        return value


def spaces(surface: Surface) -> dict[str, Space]:
    """The same configurations, described by shares and by weights."""
    common: dict[str, BaseDistribution] = {
        "hidden": CategoricalDistribution(list(LOSSES)), "pair": CategoricalDistribution(list(PAIRS)),
        "lr": FloatDistribution(*RANGES["lr"], log=True), "tau": FloatDistribution(*RANGES["tau"], log=True),
    }  # fmt: skip
    shares: dict[str, BaseDistribution] = {
        share: FloatDistribution(*RANGES[share], log=True) for share in WEIGHTS.values()
    }
    weights: dict[str, BaseDistribution] = {}
    for weight in WEIGHTS:
        there = [row[weight] for row in surface.rows]
        weights[weight] = FloatDistribution(min(there), max(there), log=True)
    return {
        "shares": Space("shares", {**common, **shares}, surface),
        "weights": Space("weights", {**common, **weights}, surface),
    }


# --- searches -------------------------------------------------------------------------------------------------------


Sampler = Callable[[Mapping[str, BaseDistribution], int, int], optuna.samplers.BaseSampler]  # (space, seed, trials)


def replay(space: Space, sampler: Sampler, trials: int, seed: int, starts: bool, at_once: int) -> list[float]:
    """The best score after each trial of one search."""
    study = optuna.create_study(direction="maximize", sampler=sampler(space.distributions, seed, trials))
    if starts:
        for values in space.starts():
            study.enqueue_trial(values)
    best: list[float] = []
    while len(best) < trials:
        pending = [
            study.ask(fixed_distributions=dict(space.distributions)) for _ in range(min(at_once, trials - len(best)))
        ]
        for trial in pending:
            score = space.score(trial.params)
            study.tell(trial, score)
            best.append(max(score, *best[-1:]) if best else score)
    return best


def random(space: Mapping[str, BaseDistribution], seed: int, trials: int) -> optuna.samplers.BaseSampler:
    return optuna.samplers.RandomSampler(seed=seed)


def tpe(space: Mapping[str, BaseDistribution], seed: int, trials: int) -> optuna.samplers.BaseSampler:
    """Optuna's default: the first ten trials are random."""
    return optuna.samplers.TPESampler(seed=seed)


def auto_of(space: Mapping[str, BaseDistribution], seed: int, trials: int) -> optuna.samplers.BaseSampler:
    """`search.type: auto`."""
    return auto(space, seed=seed, num_objectives=1, conditional=False)


# --- the measurement ------------------------------------------------------------------------------------------------

WAYS: dict[str, Sampler] = {"random": random, "TPE as it was": tpe, "auto": auto_of}
REPEATS_QUANTILES = (25, 75)


@dataclass(frozen=True)
class Curve:
    """Regrets of one way of searching: repeats x trials of the longest budget."""

    way: str
    space: str
    starts: bool
    at_once: str
    regrets: dict[int, np.ndarray]  # budget -> repeats x its trials

    def median(self, budget: int) -> str:
        """Median regret after all trials of a budget; the search knows its budget from the start."""
        return f"{np.median(self.regrets[budget][:, -1]):.2f}" if budget in self.regrets else "-"

    def row(self) -> str:
        start = "defaults" if self.starts else "none"
        cells = [self.way, self.space, start, self.at_once, *map(self.median, BUDGETS)]
        return f"| {' | '.join(cells)} |"


def measured(space: Space, way: str, starts: bool, quarter: bool, repeats: Mapping[int, int]) -> Curve:
    """``repeats``: budget -> number of searches; a budget with 0 searches is left out."""
    regrets = {}
    for budget in (budget for budget in BUDGETS if repeats[budget]):
        at_once = max(1, budget // 4) if quarter else 1
        best = [replay(space, WAYS[way], budget, seed, starts, at_once) for seed in range(repeats[budget])]
        regrets[budget] = np.maximum(0.0, space.surface.best - np.array(best))
    return Curve(way, space.name, starts, "a quarter" if quarter else "one", regrets)


def draw(curves: Sequence[Curve], file: Path) -> None:
    """The median regret over the trials of the longest budget, with the quartiles of the searches."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(7, 4), dpi=110)
    for curve in curves:
        regrets = curve.regrets[BUDGETS[-1]]
        trials = np.arange(1, regrets.shape[1] + 1)
        label = f"{curve.way}, {'from the defaults' if curve.starts else 'without starts'}"
        (line,) = axes.plot(trials, np.median(regrets, axis=0), label=label)
        low, high = np.percentile(regrets, REPEATS_QUANTILES, axis=0)
        axes.fill_between(trials, low, high, color=line.get_color(), alpha=0.12)
    axes.set(xlabel="trials", ylabel="regret, mIoU", xlim=(1, BUDGETS[-1]), ylim=(0, None))
    axes.grid(alpha=0.3)
    axes.legend()
    figure.tight_layout()
    file.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(file)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--table", type=Path, default=TABLE, help="a table written by benchmarks.search_table")
    parser.add_argument("--repeats", type=int, default=100, help="searches of each kind, with different seeds")
    parser.add_argument(
        "--long-repeats", type=int, default=100, help="of `auto` with 16 and 24 trials, which take longer"
    )
    parser.add_argument("--spaces", nargs="+", default=["shares", "weights"])
    parser.add_argument("--picture", type=Path, default=None, help="also draw the curves in shares to this file")
    options = parser.parse_args(arguments)
    warnings.filterwarnings("ignore")
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    print_machine()
    surface = Surface(options.table)
    lowest = min(row["score"] for row in surface.rows)
    print(
        f"{len(surface.rows)} rows, {lowest:.2f} to {surface.best:.2f} mIoU; the correlation of a row with its "
        f"prediction from the others is {surface.fidelity():.2f}\n"
    )
    print("| searcher | space | starts | at a time | after 8 trials | after 16 | after 24 |")
    print("|---|---|---|---|---|---|---|")
    curves = []
    for name, space in ((name, space) for name, space in spaces(surface).items() if name in options.spaces):
        for starts in (False, True):
            for way in WAYS:
                quarters = (False,) if way == "random" else (False, True)
                for quarter in quarters:
                    longer = options.long_repeats if way == "auto" else options.repeats
                    repeats = {budget: options.repeats if budget == BUDGETS[0] else longer for budget in BUDGETS}
                    curve = measured(space, way, starts, quarter, repeats)
                    print(curve.row(), flush=True)
                    if name == "shares" and not quarter:
                        curves.append(curve)
    if options.picture is not None:
        draw(curves, options.picture)


if __name__ == "__main__":
    main()

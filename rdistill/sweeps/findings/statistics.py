"""The statistics of a confirmation: spread of scores, and paired differences to baselines at equal iterations and cost.

This module has pure functions of records and numbers and needs neither torch nor Ray. docs/proof-details.md explains
the statistics.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from statistics import fmean, stdev
from typing import Any

import numpy as np
from scipy import stats

from rdistill.schemas.run import Scores
from rdistill.schemas.summary import (
    Answer,
    Arm,
    ClassScores,
    Difference,
    EqualCostArm,
    Evidence,
    PairedDifference,
    PairwiseDifference,
    Spread,
)
from rdistill.sweeps.findings.equal_cost import EqualCost, seconds_of
from rdistill.sweeps.proof.counts import Counts
from rdistill.sweeps.proof.decision import (
    ALPHA,
    Comparison,
    Looks,
    compare,
    decide,
    half_width,
    images_half_width,
    p_value,
    sign_flip_p,
)
from rdistill.sweeps.study.records import TrialRecord, never_trained
from rdistill.sweeps.study.spec import FIRST_LOOK, LAST_LOOK

CONFIDENCE = 0.95
ScoresOf = Callable[[TrialRecord], Scores | None]  # returns the scores of a run that are compared


def spread(values: Sequence[float]) -> Spread:
    """Number, mean and sample standard deviation (None for fewer than two values)."""
    return {
        "n": len(values),
        "mean": fmean(values) if values else None,
        "sd": stdev(values) if len(values) > 1 else None,
    }


def paired_difference(scores: Mapping[int, float], rival_scores: Mapping[int, float]) -> PairedDifference | None:
    """Mean of scores minus rival scores over the seeds that both have, with its interval by Student's t.

    Args:
        scores, rival_scores: seed -> score.

    Returns:
        The number of pairs ``n``, the ``mean``, ``low`` and ``high`` of the 95 % interval, the two-sided p value ``p``
        of no difference, and ``above_zero``, whether the whole interval is above zero. None with fewer than two pairs,
        which have no interval.
    """
    differences = [scores[seed] - rival_scores[seed] for seed in sorted(scores.keys() & rival_scores.keys())]
    if len(differences) < 2:
        return None
    mean, sd = fmean(differences), stdev(differences)
    if sd == 0:  # all differences are equal, so that t is not defined
        low, high, p = mean, mean, 1.0 if mean == 0 else 0.0
    else:
        test = stats.ttest_1samp(differences, 0.0)
        interval = test.confidence_interval(CONFIDENCE)
        low, high, p = float(interval.low), float(interval.high), float(test.pvalue)
    return {"n": len(differences), "mean": mean, "low": low, "high": high, "p": p, "above_zero": low > 0}


def holm(p_values: Sequence[float]) -> list[float]:
    """p values adjusted for several comparisons by Holm's method (Scand. J. Statist. 1979)."""
    order = sorted(range(len(p_values)), key=lambda index: p_values[index])
    adjusted, largest = [0.0] * len(p_values), 0.0
    for rank, index in enumerate(order):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = largest
    return adjusted


def share_of_teacher(score: float | None, teacher: float | None) -> float | None:
    """A score in percent of the teacher's mIoU; None if one of the two is not known."""
    return None if score is None or not teacher else 100.0 * score / teacher


@dataclass(frozen=True)
class EvidenceFacts:
    """Facts about a confirmation that are not in the records of its runs.

    Attributes:
        looks: the looks of a confirmation that adds seeds until it is decided; None if all seeds were trained.
        settled: question -> final answer of an earlier look.
        costs: configuration -> its equal cost.
        never_trained: ids of runs that never left one class; None: they are found from the runs.
        by_image: returns the pseudo-value of each image for a run; None if the run has no counts.
        chosen_from: number of configurations among which the confirmed ones were the best on the same images.
        in_pytorch: returns a run's scores in PyTorch, if the verdict is about exported files; otherwise None.
    """

    looks: Looks | None = None
    settled: Mapping[str, Answer] = field(default_factory=dict)
    costs: Mapping[str, EqualCost] = field(default_factory=dict)
    never_trained: Collection[str] | None = None
    by_image: Counts = lambda run: None
    chosen_from: int = 1
    in_pytorch: ScoresOf | None = None


def question(configuration: str, equal: str) -> str:
    """The name of the question: is the configuration better than the student alone at equal 'iterations' or 'cost'?"""
    return f"{configuration} at equal {equal}"


def evidence(
    runs: Sequence[TrialRecord],
    baseline: str | None,
    configurations: Sequence[str],
    teacher_mIoU: float | None,
    scores: ScoresOf = lambda run: run.best,
    facts: EvidenceFacts | None = None,
) -> Evidence:
    """The scores of the baseline and of each configuration over all seeds, and the differences between them.

    Args:
        runs: confirmation runs; runs that have not finished are left out.
        baseline, configurations: ids of the trials that the runs repeat.
        teacher_mIoU: the teacher's mIoU on the same images, in percent.
        scores: returns the scores of a run: those of its best validation, or those on the test split.
        facts: further facts about the confirmation.
    """
    facts = facts or EvidenceFacts()
    if facts.never_trained is None:
        facts = replace(facts, never_trained=never_trained(runs))
    arms: dict[str, list[TrialRecord]] = {name: [] for name in (baseline, *configurations) if name is not None}
    rivals: dict[str, list[TrialRecord]] = {name: [] for name in configurations}
    for run in runs:
        if run.status == "finished" and scores(run):
            (rivals if run.rival else arms).get(run.rival or run.of, []).append(run)
    baseline_runs = arms.get(baseline or "", [])
    entries: list[Arm] = []
    compared: dict[str, Compared] = {}
    for name in configurations:
        entry: Arm = {**_arm(name, arms[name], scores, facts), "difference": None}
        trained, alone = (_trained_runs(group, facts) for group in (arms[name], baseline_runs))
        entry["IoU"] = _classes(trained, alone, scores)
        entry["share_of_teacher"] = share_of_teacher(entry["mean_trained"], teacher_mIoU)
        entry["seconds"] = seconds_of(arms[name])
        _add_pytorch(entry, trained, alone, facts)
        if (difference := _compare(trained, alone, scores, facts)) is not None:
            compared[question(name, "iterations")] = difference
            entry["difference"] = difference.shown
        if name in facts.costs:
            entry["equal_cost"] = _at_equal_cost(name, baseline, rivals[name], trained, scores, facts, compared)
        entries.append(entry)
    _decide(compared, facts)
    base: Arm | None = None
    if baseline is not None:
        base = _arm(baseline, baseline_runs, scores, facts)
        base["IoU"] = _classes(_trained_runs(baseline_runs, facts), None, scores)
        base["share_of_teacher"] = share_of_teacher(base["mean_trained"], teacher_mIoU)
        base["seconds"] = seconds_of(baseline_runs)
        _add_pytorch(base, _trained_runs(baseline_runs, facts), None, facts)
    return {"baseline": base, "configurations": entries}


def pairwise_differences(
    runs: Sequence[TrialRecord],
    configurations: Sequence[str],
    scores: ScoresOf = lambda run: run.best,
    facts: EvidenceFacts | None = None,
) -> list[PairwiseDifference]:
    """The differences of every two configurations, over the seeds on which both learned more than one class.

    Which of them are interesting, such as the best against the second best, is seen by the scores themselves.
    Therefore their intervals hold together with 95 % (Bonferroni's method). Like those of the differences to the
    baseline, they are over seeds and images and are valid at every look.

    Args:
        runs, configurations, scores, facts: see :func:`evidence`.

    Returns:
        The configurations of the highest means first; no entry for two configurations that share fewer than two seeds.
    """
    facts = facts or EvidenceFacts()
    if facts.never_trained is None:
        facts = replace(facts, never_trained=never_trained(runs))
    if facts.looks is not None:  # the margin is one to the baseline
        facts = replace(facts, looks=replace(facts.looks, margin=0.0))
    trained: dict[str, list[TrialRecord]] = {}
    for name in configurations:
        own = [run for run in runs if run.of == name and not run.rival and run.status == "finished" and scores(run)]
        trained[name] = _trained_runs(own, facts)
    means = {name: fmean(values) for name in configurations if (values := _by_seed(trained[name], scores).values())}
    order = sorted(means, key=lambda name: -means[name])
    compared = {
        (first, second): _compare(trained[first], trained[second], scores, facts)
        for first, second in itertools.combinations(order, 2)
    }
    differences = {pair: difference for pair, difference in compared.items() if difference is not None}
    entries: list[PairwiseDifference] = []
    for (first, second), difference in differences.items():
        comparison, looks = difference.comparison, difference.looks
        alpha = ALPHA / len(differences)
        half = half_width(comparison.errors, comparison.images, comparison.pairs, looks, alpha)
        entries.append(
            {
                "first": first,
                "second": second,
                "n": comparison.pairs,
                "images": comparison.images,
                "mean": comparison.mean,
                "low": comparison.mean - half,
                "high": comparison.mean + half,
                "p_adjusted": min(1.0, len(differences) * difference.shown["p"]),
            }
        )
    return entries


def _add_pytorch(
    entry: Arm, runs: Sequence[TrialRecord], rival_runs: Sequence[TrialRecord] | None, facts: EvidenceFacts
) -> None:
    """Adds the scores in PyTorch to an entry with the scores of exported files."""
    if facts.in_pytorch is None:
        return
    own = _by_seed(runs, facts.in_pytorch)
    entry["pytorch"] = {**spread(list(own.values()))}
    if rival_runs is not None:
        entry["pytorch"]["difference"] = paired_difference(own, _by_seed(rival_runs, facts.in_pytorch))


def _at_equal_cost(
    name: str,
    baseline: str | None,
    runs: Sequence[TrialRecord],
    trained: Sequence[TrialRecord],
    scores: ScoresOf,
    facts: EvidenceFacts,
    compared: dict[str, Compared],
) -> EqualCostArm:
    """The entry of the student alone at equal cost; the difference of the configuration to it goes to ``compared``."""
    difference = _compare(trained, _trained_runs(runs, facts), scores, facts)
    if difference is not None:
        compared[question(name, "cost")] = difference
    cost = facts.costs[name]
    entry: EqualCostArm = {
        "iterations": cost.iterations,
        "distilled": cost.distilled,
        "student_alone": cost.student_alone,
        **_arm(baseline or "", runs, scores, facts),
        "difference": None if difference is None else difference.shown,
        "seconds": seconds_of(runs),
    }
    _add_pytorch(entry, _trained_runs(runs, facts), None, facts)
    return entry


@dataclass(frozen=True)
class Compared:
    """A difference, as users see it and as it is tested."""

    shown: Difference  # the entry for summary.json, the console and the report
    comparison: Comparison  # the numbers by which it is decided
    looks: Looks


def _compare(
    runs: Sequence[TrialRecord], rival_runs: Sequence[TrialRecord], scores: ScoresOf, facts: EvidenceFacts
) -> Compared | None:
    """The difference over the seeds that both sides have; None with fewer than two of them."""
    first, second = _by_seed(runs, scores), _by_seed(rival_runs, scores)
    paired = paired_difference(first, second)
    if paired is None:
        return None
    seeds = sorted(first.keys() & second.keys())
    differences = [first[seed] - second[seed] for seed in seeds]
    pairs = len(seeds)
    looks = facts.looks
    if looks is None:  # a fixed list of seeds: a single look, after which `seeds: auto` could add seeds
        looks = Looks(pairs, pairs, 0.0, facts.chosen_from, would_follow=(FIRST_LOOK, LAST_LOOK))
    elif not looks.first <= pairs <= looks.last:  # seeds failed: a single look, after these pairs
        looks = Looks(pairs, pairs, looks.margin, facts.chosen_from, would_follow=(looks.first, looks.last))
    by_image = _image_differences(seeds, runs, rival_runs, facts)
    comparison = compare(differences, by_image, looks)
    shown: Difference = {
        **paired,
        "images": comparison.images,
        "sign_flip_p": sign_flip_p(differences),
        "low_seeds": comparison.low_seeds,
        "high_seeds": comparison.high_seeds,
        "margin": looks.margin,
    }
    if comparison.images or looks.first < looks.last:
        shown["low"], shown["high"], shown["p"] = comparison.low, comparison.high, p_value(comparison, looks)
        shown["above_zero"] = comparison.low > 0
    if pairs < looks.to_come.last:
        shown["chance"] = comparison.chance
    if comparison.images:
        shown["binds"] = comparison.errors.binds
        shown["half_by_images"] = images_half_width(comparison.errors, comparison.images, pairs, looks, ALPHA)
    return Compared(shown, comparison, looks)


def _image_differences(
    seeds: Sequence[int], own_runs: Sequence[TrialRecord], rival_runs: Sequence[TrialRecord], facts: EvidenceFacts
) -> np.ndarray | None:
    """Differences of pseudo-values, seeds x images; None if a run's counts are missing."""
    first, second = ({run.seed: run for run in runs} for runs in (own_runs, rival_runs))
    rows = []
    for seed in seeds:
        own, rival = facts.by_image(first[seed]), facts.by_image(second[seed])
        if own is None or rival is None or own.shape != rival.shape:
            return None
        rows.append(own - rival)
    return np.stack(rows) if len({len(row) for row in rows}) == 1 else None


def _decide(compared: Mapping[str, Compared], facts: EvidenceFacts) -> None:
    """Adds the answers, and p values adjusted over all questions, to the shown differences."""
    adjusted = holm([difference.shown["p"] for difference in compared.values()])
    answers = decide(
        {name: difference.comparison for name, difference in compared.items()},
        {name: difference.looks for name, difference in compared.items()},
    )
    for (name, difference), p in zip(compared.items(), adjusted, strict=True):
        difference.shown["p_adjusted"] = p
        difference.shown["answer"] = facts.settled.get(name, answers[name])
        if name in facts.settled:
            difference.shown["settled"] = True


def _trained_runs(runs: Sequence[TrialRecord], facts: EvidenceFacts) -> list[TrialRecord]:
    return [run for run in runs if run.id not in (facts.never_trained or ())]


def _arm(name: str, runs: Sequence[TrialRecord], scores: ScoresOf, facts: EvidenceFacts) -> Arm:
    by_seed = _by_seed(runs, scores)
    trained = _by_seed(_trained_runs(runs, facts), scores)
    stuck = [run.seed for run in runs if run.id in (facts.never_trained or ())]
    trained_spread = spread(list(trained.values()))
    return {
        "id": name,
        "label": describe(runs[0]) if runs else "",
        "values": runs[0].values if runs else {},
        **spread(list(by_seed.values())),
        "scores": {str(seed): score for seed, score in by_seed.items()},
        "runs": {str(run.seed): run.id for run in runs},
        "one_class_runs": len(stuck),
        "never_trained": sorted(stuck),
        "mean_trained": trained_spread["mean"],
        "sd_trained": trained_spread["sd"],
    }


def _by_seed(runs: Sequence[TrialRecord], scores: ScoresOf, of_class: str | None = None) -> dict[int, float]:
    """Seed -> mIoU, or the IoU of a class; runs without that score are left out."""
    values = {}
    for run in sorted(runs, key=lambda run: run.seed):
        seen = scores(run) or Scores()
        value = seen.get("mIoU") if of_class is None else (seen.get("IoU") or {}).get(of_class)
        if value is not None and not math.isnan(value):
            values[run.seed] = float(value)
    return values


def _classes(
    runs: Sequence[TrialRecord], baseline_runs: Sequence[TrialRecord] | None, scores: ScoresOf
) -> dict[str, ClassScores]:
    """Class -> mean and spread of its IoU, with the difference if there are ``baseline_runs``."""
    names = dict.fromkeys(name for run in runs for name in ((scores(run) or Scores()).get("IoU") or {}))
    classes: dict[str, ClassScores] = {}
    for name in names:
        values = _by_seed(runs, scores, name)
        classes[name] = {**spread(list(values.values()))}
        if baseline_runs is not None:
            classes[name]["difference"] = paired_difference(values, _by_seed(baseline_runs, scores, name))
    return classes


def describe(record: TrialRecord) -> str:
    """A trial's label: the losses that it used and the other values that the searcher chose.

    Example: ``KL 71 + CWD at share 0.5 on (1, 1), lr 0.02``. A share is followed by the weight that was measured for
    it, except in confirmation runs, since each seed has another weight.
    """
    used = {**record.values, **record.effective}
    losses = [key.removesuffix(".type") for key in used if key.startswith("distill.losses.") and key.endswith(".type")]
    parts = []
    for loss in losses:
        pair, weight, share = (used.get(f"{loss}.{key}") for key in ("pair", "weight", "weight.share"))
        words = [str(used[f"{loss}.type"]), *([f"{weight:.3g}"] if isinstance(weight, (int, float)) else [])]
        if isinstance(share, (int, float)):
            measured = None if record.of else record.weights.get(loss.rpartition(".")[2])
            words.append(f"at share {share:.3g}" + ("" if measured is None else f" (weight {measured:.3g})"))
        parts.append(" ".join([*words, *_parameters(record, loss), *([f"on ({_list(pair)})"] if pair else [])]))
    ends = ("", ".type", ".weight", ".weight.share", ".weight.share.value", ".pair")
    described = {f"{loss}{end}" for loss in losses for end in ends} | {"distill.losses"}
    rest = [_key_and_value(key, used[key]) for key in record.values if key.lstrip("+") not in described]
    return ", ".join([*([" + ".join(parts)] if parts else []), *rest]) or "as configured"


def _parameters(record: TrialRecord, loss: str) -> list[str]:
    """Words such as ``tau 4`` for the other parameters of a loss that was chosen as a whole."""
    chosen = record.values.get(loss) or (record.values.get("distill.losses") or {}).get(loss.rpartition(".")[2])
    if not isinstance(chosen, Mapping):
        return []
    return [
        f"{key} {value_text(value)}" for key, value in chosen.items() if key not in ("type", "weight", "pair", "on")
    ]


def _key_and_value(key: str, value: Any) -> str:
    """``lr 0.02``; ``without hidden`` for a loss that was left out."""
    name = key.split(".")[-1]
    return f"without {name}" if value is None else f"{name} {value_text(value)}"


def value_text(value: Any) -> str:
    """A swept value in the words for a configuration."""
    if isinstance(value, float):
        return f"{value:.3g}"
    return f"[{_list(value)}]" if isinstance(value, (list, tuple)) else str(value)


def _list(values: Sequence[Any]) -> str:
    return ", ".join(f"({_list(value)})" if isinstance(value, (list, tuple)) else f"{value}" for value in values)

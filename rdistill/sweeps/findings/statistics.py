"""What the confirmation runs prove: spread, paired differences to the baseline, and one honest sentence.

Pure functions of records and numbers; needs neither torch nor ray. What they mean is in docs/proof.md.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from statistics import fmean, stdev
from typing import Any

from scipy import stats

from rdistill.sweeps.study.records import TrialRecord

CONFIDENCE = 0.95
Scores = Callable[[TrialRecord], Mapping[str, Any] | None]  # of a run: mIoU and IoU by class, in percent


def spread(values: Sequence[float]) -> dict[str, Any]:
    """Number, mean and sample standard deviation (None for fewer than two values)."""
    return {
        "n": len(values),
        "mean": fmean(values) if values else None,
        "sd": stdev(values) if len(values) > 1 else None,
    }


def paired_difference(ours: Mapping[int, float], theirs: Mapping[int, float]) -> dict[str, Any] | None:
    """Mean of ours minus theirs over the seeds that both have, with its interval by Student's t.

    Args:
        ours, theirs: seed -> score.

    Returns:
        ``n`` pairs, ``mean``, ``low`` and ``high`` of the 95 % interval, the two-sided ``p`` of no difference, and
        ``above_zero``: whether the whole interval is. None with fewer than two pairs: there is no interval then.
    """
    differences = [ours[seed] - theirs[seed] for seed in sorted(ours.keys() & theirs.keys())]
    if len(differences) < 2:
        return None
    mean, sd = fmean(differences), stdev(differences)
    if sd == 0:  # to the last digit the same difference on every seed; t has no value then
        low, high, p = mean, mean, 1.0 if mean == 0 else 0.0
    else:
        test = stats.ttest_1samp(differences, 0.0)
        interval = test.confidence_interval(CONFIDENCE)
        low, high, p = float(interval.low), float(interval.high), float(test.pvalue)
    return {"n": len(differences), "mean": mean, "low": low, "high": high, "p": p, "above_zero": low > 0}


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjusted p values: the chance that any of so many comparisons errs (Holm, Scand. J. Statist. 1979)."""
    order = sorted(range(len(p_values)), key=lambda index: p_values[index])
    adjusted, largest = [0.0] * len(p_values), 0.0
    for rank, index in enumerate(order):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = largest
    return adjusted


def share_of_teacher(score: float | None, teacher: float | None) -> float | None:
    """Percent of the teacher's mIoU."""
    return None if score is None or not teacher else 100.0 * score / teacher


def evidence(
    runs: Sequence[TrialRecord],
    baseline: str | None,
    configurations: Sequence[str],
    teacher_mIoU: float | None,
    scores: Scores = lambda run: run.best,
) -> dict[str, Any]:
    """The baseline and each configuration over all seeds, and how they differ.

    Args:
        runs: confirmation runs; those that have not finished are left out.
        baseline, configurations: ids of the trials that they repeat.
        teacher_mIoU: on the same images.
        scores: of a run: those of its best validation, or on the test split.
    """
    by_id: dict[str, list[TrialRecord]] = {name: [] for name in (baseline, *configurations) if name is not None}
    for run in runs:
        if run.status == "finished" and run.of in by_id and scores(run):
            by_id[run.of].append(run)
    theirs = by_id.get(baseline or "", [])
    found = [
        {
            **_arm(name, by_id[name], scores),
            "difference": paired_difference(_by_seed(by_id[name], scores), _by_seed(theirs, scores)),
            "IoU": _classes(by_id[name], theirs, scores),
        }
        for name in configurations
    ]
    compared = [one["difference"] for one in found if one["difference"] is not None]
    for difference, p in zip(compared, holm([one["p"] for one in compared]), strict=True):
        difference["p_adjusted"] = p
    for one in found:
        one["share_of_teacher"] = share_of_teacher(one["mean"], teacher_mIoU)
    alone = None
    if baseline is not None:
        alone = {**_arm(baseline, theirs, scores), "IoU": _classes(theirs, None, scores)}
        alone["share_of_teacher"] = share_of_teacher(alone["mean"], teacher_mIoU)
    return {"baseline": alone, "configurations": found}


def _arm(name: str, runs: Sequence[TrialRecord], scores: Scores) -> dict[str, Any]:
    by_seed = _by_seed(runs, scores)
    return {
        "id": name,
        "label": describe(runs[0]) if runs else "",
        "values": runs[0].values if runs else {},
        **spread(list(by_seed.values())),
        "scores": {str(seed): score for seed, score in by_seed.items()},
        "one_class_runs": sum(run.one_class_only for run in runs),
    }


def _by_seed(runs: Sequence[TrialRecord], scores: Scores, of_class: str | None = None) -> dict[int, float]:
    """Seed -> mIoU, or the IoU of a class; without the runs that have none."""
    found = {}
    for run in sorted(runs, key=lambda run: run.seed):
        seen = scores(run) or {}
        value = seen.get("mIoU") if of_class is None else (seen.get("IoU") or {}).get(of_class)
        if value is not None and not math.isnan(value):
            found[run.seed] = float(value)
    return found


def _classes(ours: Sequence[TrialRecord], theirs: Sequence[TrialRecord] | None, scores: Scores) -> dict[str, Any]:
    """Class -> mean and spread of its IoU and, if they are compared, the difference."""
    names = dict.fromkeys(name for run in ours for name in ((scores(run) or {}).get("IoU") or {}))
    found: dict[str, Any] = {}
    for name in names:
        values = _by_seed(ours, scores, name)
        found[name] = spread(list(values.values()))
        if theirs is not None:
            found[name]["difference"] = paired_difference(values, _by_seed(theirs, scores, name))
    return found


# In words ------------------------------------------------------------------------------------------------------------


def describe(record: TrialRecord) -> str:
    """``KL 71 + CWD 1.39 on (1, 1), lr 0.02``: the losses that a trial used, and what else was chosen for it."""
    used = {**record.values, **record.effective}
    losses = [key.removesuffix(".type") for key in used if key.startswith("distill.losses.") and key.endswith(".type")]
    parts = []
    for loss in losses:
        pair, weight = used.get(f"{loss}.pair"), used.get(f"{loss}.weight")
        words = [str(used[f"{loss}.type"]), *([f"{weight:.3g}"] if isinstance(weight, (int, float)) else [])]
        parts.append(" ".join([*words, *([f"on ({_list(pair)})"] if pair else [])]))
    told = {f"{loss}{end}" for loss in losses for end in ("", ".type", ".weight", ".pair")}
    rest = [f"{key.split('.')[-1]} {_value(used[key])}" for key in record.values if key.lstrip("+") not in told]
    return ", ".join([*([" + ".join(parts)] if parts else []), *rest]) or "as configured"


def _value(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.3g}"
    return f"[{_list(value)}]" if isinstance(value, (list, tuple)) else str(value)


def _list(values: Sequence[Any]) -> str:
    return ", ".join(f"({_list(one)})" if isinstance(one, (list, tuple)) else f"{one}" for one in values)


def verdict(confirmed: Mapping[str, Any] | None, baselines: int, *, tuned: bool, runs_left: int = 0) -> str:
    """What the numbers allow to say, in one sentence or two.

    Args:
        confirmed: as :func:`evidence` gives it, or None where nothing was confirmed.
        baselines: of which the confirmed one was the best.
        tuned: whether the baseline was searched.
        runs_left: confirmation runs that are still to come.
    """
    if runs_left:
        return f"Not confirmed yet: {runs_left} more run{'s' * (runs_left > 1)} on fresh seeds to come."
    if confirmed is None:
        return "Searched only, not confirmed: one seed proves nothing."
    compared = [one for one in confirmed["configurations"] if one["difference"] is not None]
    if not compared:
        return "Not confirmed: fewer than two seeds have both a configuration and the baseline to compare."
    best = max(compared, key=lambda one: one["mean"])
    rival = "the baseline" if baselines == 1 else f"the best of {baselines} baselines"
    difference = best["difference"]
    size = (
        f"{difference['mean']:+.2f} mIoU (95 % CI {difference['low']:+.2f} to {difference['high']:+.2f}, "
        f"{difference['n']} paired seeds)"
    )
    share = (
        None if best["share_of_teacher"] is None else f"reaches {best['share_of_teacher']:.1f} % of the teacher's mIoU"
    )
    if difference["above_zero"] and difference["p_adjusted"] <= 1 - CONFIDENCE:
        said = [f"{best['label']} beats {rival} by {size}{f' and {share}' if share else ''}."]
    else:
        said = [f"No configuration is confirmed better than {rival}: the best, {best['label']}, differs by {size}"]
        if difference["above_zero"]:
            p = difference["p_adjusted"]
            said[0] += f", which {len(compared)} comparisons do not bear out (adjusted p {p:.2g})"
        said[0] += "."
        if difference["high"] < 0:
            said.append("So it is worse: distillation does not pay here.")
        if share:
            said.append(f"It {share}.")
    return " ".join([*said, *_reservations(confirmed["baseline"], best, tuned)])


def _reservations(baseline: Mapping[str, Any], best: Mapping[str, Any], tuned: bool) -> list[str]:
    """What a reader of the verdict has to know besides."""
    found = [] if tuned else ["The baseline was not tuned."]
    for whose, arm in (("the baseline's", baseline), ("its own", best)):
        if arm["one_class_runs"]:
            found.append(f"{arm['one_class_runs']} of {whose} {arm['n']} runs never left one class.")
    return found

"""A sweep's answer in words: a sentence for equal iterations, a sentence for equal cost, and what to know besides.

Pure functions of what :func:`rdistill.sweeps.findings.statistics.evidence` gives; needs neither torch nor ray.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

CONFIDENCE = 0.95
Arm = Mapping[str, Any]


def verdict(confirmed: Mapping[str, Any] | None, baselines: int, *, tuned: bool, runs_left: int = 0) -> str:
    """What the numbers allow to say, in a few sentences.

    Args:
        confirmed: as :func:`rdistill.sweeps.findings.statistics.evidence` gives it, or None where nothing was
            confirmed. Its ``looks``, if it has them, say how many seeds there could have been.
        baselines: of which the confirmed one was the best.
        tuned: whether the baseline was searched.
        runs_left: confirmation runs that are still to come.
    """
    if runs_left:
        return f"Not confirmed yet: {runs_left} more run{'s' * (runs_left > 1)} on fresh seeds to come."
    if confirmed is None:
        return "Searched only, not confirmed: one seed proves nothing."
    arms = confirmed["configurations"]
    rival = "the baseline" if baselines == 1 else f"the best of {baselines} baselines"
    first = [arm for arm in arms if arm["difference"] is not None]
    second = [arm for arm in arms if at_equal_cost(arm).get("difference") is not None]
    if not first and not second:
        return _nothing_to_compare(confirmed)
    best = max(first or second, key=lambda arm: arm["mean"])
    sentences = []
    if first:
        sentences += _at_equal_iterations(best, rival, len(first), named=bool(second))
    if second:
        whom = best if best in second else max(second, key=lambda arm: arm["mean"])
        sentences.append(_at_equal_cost(whom, rival, same=bool(first) and whom is best))
    return " ".join([*sentences, *_reservations(confirmed, best, tuned)])


def at_equal_cost(arm: Arm) -> Mapping[str, Any]:
    """What is known of a configuration at equal cost; empty where nothing is."""
    return arm.get("equal_cost") or {}


def is_better(difference: Mapping[str, Any]) -> bool:
    """Whether it is claimed: by the interval and the adjusted p value, or by a look before."""
    if difference.get("settled"):
        return bool(difference["answer"] == "better")
    above = difference["low"] > difference.get("margin", 0.0)
    return bool(above and difference["p_adjusted"] <= 1 - CONFIDENCE)


def is_worse(difference: Mapping[str, Any]) -> bool:
    if difference.get("settled"):
        return bool(difference["answer"] == "worse")
    return bool(difference["high"] < 0)


def size_of(difference: Mapping[str, Any]) -> str:
    """``+5.00 mIoU (95 % CI +4.75 to +5.25, 3 paired seeds)``."""
    images = f" and {difference['images']} images" if difference.get("images") else ""
    return (
        f"{difference['mean']:+.2f} mIoU (95 % CI {difference['low']:+.2f} to {difference['high']:+.2f}, "
        f"{difference['n']} paired seeds{images})"
    )


def _nothing_to_compare(confirmed: Mapping[str, Any]) -> str:
    base = confirmed["baseline"] or {}
    if not any(arm.get("never_trained") for arm in (base, *confirmed["configurations"])):
        return "Not confirmed: fewer than two seeds have both a configuration and the baseline to compare."
    counts = [
        f"{whose} trained on {arm['n'] - len(arm['never_trained'])} of {arm['n']}"
        for whose, arm in (("the baseline", base), *((arm["label"], arm) for arm in confirmed["configurations"]))
        if arm.get("n")
    ]
    return (
        "Not confirmed: fewer than two seeds on which both a configuration and the baseline left one class: "
        f"{', '.join(counts)}. No difference is made of the others."
    )


def _at_equal_iterations(best: Arm, rival: str, compared: int, *, named: bool) -> list[str]:
    difference, size = best["difference"], size_of(best["difference"])
    share = None if best["share_of_teacher"] is None else f"{best['share_of_teacher']:.1f} % of the teacher's mIoU"
    begin = "At equal iterations, " if named else ""
    if is_better(difference):
        return [f"{begin}{best['label']} beats {rival} by {size}{f' and reaches {share}' if share else ''}."]
    none = "no configuration" if named else "No configuration"
    text = f"{begin}{none} is confirmed better than {rival}: the best, {best['label']}, differs by {size}"
    if difference["low"] > difference.get("margin", 0.0):
        p = difference["p_adjusted"]
        text += f", which {compared} comparisons do not bear out (adjusted p {p:.2g})"
    sentences = [f"{text}."]
    if is_worse(difference):
        sentences.append("So it is worse: distillation does not pay here.")
    sentences += _what_binds(difference)
    return [*sentences, f"It reaches {share}."] if share else sentences


def _at_equal_cost(arm: Arm, rival: str, *, same: bool) -> str:
    cost = at_equal_cost(arm)
    difference, size = cost["difference"], size_of(cost["difference"])
    begin = f"At equal cost (the student alone for {cost['iterations']:,} iterations)"
    who, whom = ("it", "it") if same else (arm["label"], rival)
    if is_better(difference):
        return f"{begin}, {who} beats {whom if not same else rival} by {size}."
    if is_worse(difference):
        return f"{begin}, {who} is worse by {size}: the time is better spent on training the student alone for longer."
    return " ".join([f"{begin}, {who} is not confirmed better: it differs by {size}.", *_what_binds(difference)])


def _what_binds(difference: Mapping[str, Any]) -> list[str]:
    """Of an answer that is open: whether seeds or images would help."""
    images = difference.get("images")
    if not images or is_worse(difference):
        return []
    if difference["half_by_images"] >= abs(difference["mean"] - difference.get("margin", 0.0)):
        return [f"More seeds would not help: {images} images are too few."]
    more, than = ("images", "seeds") if difference["binds"] == "images" else ("seeds", "images")
    return [f"More {more} would help more than more {than}."]


def _reservations(confirmed: Mapping[str, Any], best: Arm, tuned: bool) -> Sequence[str]:
    """What a reader of the verdict has to know besides."""
    sentences = [] if tuned else ["The baseline was not tuned."]
    looks = confirmed.get("looks")
    if looks:
        sentences.append(f"Stopped after {looks['seeds']} of up to {looks['most']} seeds.")
    stuck = False
    for whose, arm in (
        ("the baseline's", confirmed["baseline"]),
        ("its own", best),
        ("the longer baseline's", at_equal_cost(best)),
    ):
        if arm and arm.get("one_class_runs"):
            stuck = stuck or bool(arm.get("never_trained"))
            sentences.append(f"{arm['one_class_runs']} of {whose} {arm['n']} runs never left one class.")
    if stuck:
        sentences.append("The differences are of the seeds on which both sides did.")
    return sentences

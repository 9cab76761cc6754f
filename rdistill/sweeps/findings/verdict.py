"""A sweep's answer in words: a sentence for equal iterations, a sentence for equal cost, and what to know besides.

The same words stand in ``summary.json``, on the console, in the report and in the model card. Pure functions of what
:func:`rdistill.sweeps.findings.statistics.evidence` gives; needs neither torch nor ray.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

from rdistill.core.one_class import when_trained
from rdistill.core.words import counted
from rdistill.schemas.summary import Arm, Confirmed, Difference, EqualCostArm
from rdistill.sweeps.findings.confirm import PYTORCH, files_called
from rdistill.sweeps.study.records import TrialRecord

CONFIDENCE = 0.95


def lead(best: TrialRecord | None, baseline: TrialRecord | None, stuck: Collection[str], reason: str = "") -> str:
    """What a search alone says, after ``Searched only, not confirmed: ``.

    Args:
        best: of the students under a teacher; None where none has a score.
        baseline: the best student alone.
        stuck: ids of those that never left one class.
        reason: why a student has no score.
    """
    if best is None or not best.best:
        return "no trial under a teacher has a score" + (f" ({reason})." if reason else " yet.")
    if best.id in stuck:
        return "no student under a teacher ever left one class."
    score = float(best.best["mIoU"])
    sentence = f"{best.id} is best with {score:.2f} mIoU"
    if baseline is None or not baseline.best:
        return f"{sentence}; the student alone has no score to compare it with."
    if baseline.id in stuck:
        return f"{sentence}; the student alone never left one class, so there is nothing to compare it with."
    alone = float(baseline.best["mIoU"])
    side = "above" if score >= alone else "below"
    return (
        f"{sentence}, {abs(score - alone):.2f} points {side} the student alone ({alone:.2f}), each on one seed: "
        "a lead, not a result."
    )


def verdict(confirmed: Confirmed | None, baselines: int, *, tuned: bool, runs_left: int = 0, searched: str = "") -> str:
    """What the numbers allow to say, in a few sentences.

    Args:
        confirmed: as :func:`rdistill.sweeps.findings.statistics.evidence` gives it, or None where nothing was
            confirmed. Its ``looks``, if it has them, say how many seeds there could have been.
        baselines: of which the confirmed one was the best.
        tuned: whether the baseline was searched.
        runs_left: confirmation runs that are still to come.
        searched: what the search alone says, see :func:`lead`.
    """
    if runs_left:
        return f"Not confirmed yet: {counted(runs_left, 'more run')} on fresh seeds to come."
    if confirmed is None:
        return f"Searched only, not confirmed: {searched or 'one seed proves nothing.'}"
    arms = confirmed["configurations"]
    first = [(arm, gap) for arm in arms if (gap := arm["difference"]) is not None]
    second = [(arm, gap) for arm in arms if (gap := at_equal_cost(arm).get("difference")) is not None]
    if not first and not second:
        return _nothing_to_compare(confirmed)
    alone = "the student alone" if baselines == 1 else f"the best of {baselines} students alone"
    questions = len(first) + len(second)
    best, difference = max(first or second, key=_mean)
    files = _as_files(confirmed)
    sentences = []
    if first:
        begin, if_worse = f"At equal iterations{files}", "the teacher does not pay"
        sentences.append(_answer(begin, best["label"], alone, difference, questions, if_worse=if_worse))
    if second:
        whom, gap = next((pair for pair in second if pair[0] is best), None) or max(second, key=_mean)
        cost = at_equal_cost(whom)
        if_worse = "train the student alone for longer"
        begin = f"At equal cost, which gives the student alone {cost['iterations']:,} iterations{files}"
        who = "it" if first and whom is best else whom["label"]
        rival = alone if who != "it" else "the student alone"
        sentences.append(_answer(begin, who, rival, gap, questions, if_worse=if_worse))
    if best["share_of_teacher"] is not None:
        sentences.append(f"{best['label']} reaches {best['share_of_teacher']:.1f} % of the teacher's mIoU.")
    return " ".join([*sentences, *_in_pytorch(best), *_reservations(confirmed, best, tuned)])


def _as_files(confirmed: Confirmed) -> str:
    """``, both as INT8 files``, where the exported files are what was scored."""
    files = files_called(confirmed.get("of", PYTORCH))
    return f", both as {files}" if files else ""


def _in_pytorch(arm: Arm) -> list[str]:
    """What a configuration of which the files were scored reaches in PyTorch."""
    own = arm.get("pytorch")
    if own is None or own["mean"] is None:
        return []
    gap = own.get("difference")
    difference = "" if gap is None else f", the difference {gap['mean']:+.2f}"
    return [f"In PyTorch its mIoU is {own['mean']:.2f}{difference}."]


def _mean(pair: tuple[Arm, Difference]) -> float:
    return pair[0]["mean"] or 0.0


def at_equal_cost(arm: Arm) -> EqualCostArm:
    """What is known of a configuration at equal cost; empty where nothing is."""
    return arm.get("equal_cost") or EqualCostArm()


def is_better(difference: Difference) -> bool:
    """Whether it is claimed: by the interval and the adjusted p value, or by a look before."""
    if difference.get("settled"):
        return bool(difference["answer"] == "better")
    above = difference["low"] > difference.get("margin", 0.0)
    return bool(above and difference["p_adjusted"] <= 1 - CONFIDENCE)


def is_worse(difference: Difference) -> bool:
    """Likewise; to be worse than nothing gained, whatever the margin."""
    if difference.get("settled"):
        return bool(difference["answer"] == "worse" and difference["mean"] < 0)
    return bool(difference["high"] < 0 and difference["p_adjusted"] <= 1 - CONFIDENCE)


def size_of(difference: Difference) -> str:
    """``+5.00 mIoU (95 % interval +4.75 to +5.25, over 3 seeds)``."""
    images = f" and {counted(difference['images'], 'image')}" if difference.get("images") else ""
    return (
        f"{difference['mean']:+.2f} mIoU (95 % interval {difference['low']:+.2f} to {difference['high']:+.2f}, "
        f"over {counted(difference['n'], 'seed')}{images})"
    )


def _answer(begin: str, who: str, whom: str, difference: Difference, questions: int, *, if_worse: str) -> str:
    """One question's answer in a sentence, and in a second one what would help where it is open."""
    size, margin = size_of(difference), difference.get("margin", 0.0)
    more = f" by more than {margin:g} mIoU" if margin else ""
    if is_better(difference):
        return f"{begin}, {who} is better than {whom}{more}: {size}."
    if is_worse(difference):
        return f"{begin}, {who} is worse than {whom}: {size}; {if_worse}."
    text = f"{begin}, {who} is not shown to be better than {whom}{more}: {size}"
    if difference["low"] > margin:
        looked_at = counted(questions, "difference")
        text += f"; with {looked_at} looked at, that may be luck (adjusted p {difference['p_adjusted']:.2g})"
    return " ".join([f"{text}.", *_what_binds(difference)])


def images_leave_open(difference: Difference) -> bool:
    """Whether no number of seeds would decide: the images alone leave it open, and their part is the larger one.

    Where the seeds' part is larger, the mean itself is not known well enough to say so.
    """
    half, images = difference.get("half_by_images"), difference.get("images")
    if not images or half is None or difference.get("binds") != "images":
        return False
    return bool(half >= abs(difference["mean"] - difference.get("margin", 0.0)))


def _what_binds(difference: Difference) -> list[str]:
    """Of an answer that is open: whether seeds or images would help."""
    images = difference.get("images")
    if not images:
        return []
    if images_leave_open(difference):
        return [f"More seeds would not help: {images} images are too few."]
    more, than = ("images", "seeds") if difference["binds"] == "images" else ("seeds", "images")
    return [f"More {more} would help more than more {than}."]


def _nothing_to_compare(confirmed: Confirmed) -> str:
    arms = [arm for arm in (confirmed["baseline"], *confirmed["configurations"]) if arm]
    if not any(arm.get("never_trained") for arm in arms):
        return "Not confirmed: fewer than two seeds have both a configuration and the student alone to compare."
    whose = ["The student alone" if arm is confirmed["baseline"] else str(arm["label"]) for arm in arms]
    counts = [_how_often(name, arm, "run") for name, arm in zip(whose, arms, strict=True) if arm.get("n")]
    return " ".join(["Not confirmed: on fewer than two seeds did both sides learn more than one class.", *counts])


def _how_often(whose: str, arm: Arm, run: str) -> str:
    """``The student alone learned more than one class in 1 of 3 runs (their mean mIoU: 75.48).``"""
    trained = when_trained(arm)
    score = "" if trained["mean"] is None else f" (their mean mIoU: {trained['mean']:.2f})"
    return f"{whose} learned more than one class in {trained['n']} of {trained['of']} {run}s{score}."


def _reservations(confirmed: Confirmed, best: Arm, tuned: bool) -> Sequence[str]:
    """What a reader of the verdict has to know besides."""
    sentences = [] if tuned else ["The student alone was not tuned."]
    looks = confirmed.get("looks")
    if looks:
        sentences.append(f"Stopped after {looks['seeds']} of up to {looks['most']} seeds.")
        for looked_at, planned in looks.get("replanned") or []:
            sentences.append(f"It was given more than {planned} after a look at {looked_at}.")
    stuck = [
        _how_often(whose, arm, run)
        for whose, arm, run in (
            ("The student alone", confirmed["baseline"], "run"),
            (best["label"], best, "run"),
            ("The student alone", at_equal_cost(best), "longer run"),
        )
        if arm and arm.get("never_trained")
    ]
    if stuck:
        sentences += [*stuck, "The differences are of the seeds on which both sides did."]
    return sentences

"""The verdict: a sentence about equal iterations, a sentence about equal cost, and reservations.

``summary.json``, the console, the report and the model card have the same words. This module has pure functions of the
result of :func:`rdistill.sweeps.findings.statistics.evidence` and needs neither torch nor Ray.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

from rdistill.core.one_class import when_trained
from rdistill.core.words import counted, listed
from rdistill.schemas.summary import Arm, Confirmed, Difference, EqualCostArm
from rdistill.sweeps.findings.confirm import PYTORCH, exported_kind
from rdistill.sweeps.proof.sequential import FUTILITY_BOUND
from rdistill.sweeps.study.records import TrialRecord

CONFIDENCE = 0.95
OTHERS_SHOWN = 3  # configurations that a sentence names


def search_lead(
    best: TrialRecord | None, baseline: TrialRecord | None, stuck: Collection[str], reason: str = ""
) -> str:
    """The result of a search without a confirmation, which follows ``Searched only, not confirmed: ``.

    Args:
        best: the best student under a teacher; None if none has a score.
        baseline: the best student alone.
        stuck: ids of the trials that never left one class.
        reason: the reason of a trial's failure, if no student has a score.
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


def verdict(
    confirmed: Confirmed | None,
    baselines: int,
    *,
    tuned: bool,
    runs_left: int = 0,
    searched: str = "",
    tuned_alone: Sequence[str] = (),
) -> str:
    """The verdict of a sweep, in a few sentences.

    Args:
        confirmed: the result of :func:`rdistill.sweeps.findings.statistics.evidence`, with the looks if there were
            several; None if nothing was confirmed.
        baselines: number of baselines, of which the confirmed one was the best.
        tuned: whether the baselines were searched.
        runs_left: number of confirmation runs that are still to train.
        searched: the result of the search alone, see :func:`search_lead`.
        tuned_alone: values of the confirmed baseline that no student under a teacher was tried with, such as
            ``lr 0.016 (not 0.008)``; the verdict names them where no gain is shown.
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
        rival_entry, gap = next((pair for pair in second if pair[0] is best), None) or max(second, key=_mean)
        cost = at_equal_cost(rival_entry)
        if_worse = "train the student alone for longer"
        begin = f"At equal cost, which gives the student alone {cost['iterations']:,} iterations{files}"
        subject = "it" if first and rival_entry is best else rival_entry["label"]
        rival = alone if subject != "it" else "the student alone"
        sentences.append(_answer(begin, subject, rival, gap, questions, if_worse=if_worse))
    if best["share_of_teacher"] is not None:
        sentences.append(f"{best['label']} reaches {best['share_of_teacher']:.1f} % of the teacher's mIoU.")
    return " ".join(
        [
            *sentences,
            *_among(confirmed, best["id"]),
            *_in_pytorch(best),
            *_reservations(confirmed, best, tuned),
            *_untried(tuned_alone, [gap for arm, gap in (*first, *second) if arm is best]),
        ]
    )


def _untried(tuned_alone: Sequence[str], differences: Sequence[Difference]) -> list[str]:
    """A reservation where no gain is shown and the student alone was tuned in more than the others were."""
    if not tuned_alone or all(map(is_better, differences)):
        return []
    values = listed(tuned_alone, OTHERS_SHOWN)
    return [
        f"The student alone has {values}, which no student under a teacher was tried with; search it in "
        f"`space` too before you conclude."
    ]


def _among(confirmed: Confirmed, best: str) -> list[str]:
    """A sentence that says which other configurations the best one is shown to be better than, if any is confirmed."""
    pairs = [pair for pair in confirmed.get("pairwise", []) if best in (pair["first"], pair["second"])]
    if not pairs:
        return []
    better: list[str] = []
    unclear: list[str] = []
    for pair in pairs:
        sign = 1 if pair["first"] == best else -1
        low, high = sorted((sign * pair["low"], sign * pair["high"]))
        rival = pair["second"] if pair["first"] == best else pair["first"]
        text = f"{rival} ({sign * pair['mean']:+.2f}, {low:+.2f} to {high:+.2f})"
        (better if low > 0 else unclear).append(text)
    among = f"Of the {len(confirmed['configurations'])} confirmed configurations, at equal iterations, {best} is"
    shown, not_shown = _in_words(better, "and"), _in_words(unclear, "or")
    if not unclear:
        return [f"{among} shown to be better than {shown}."]
    if not better:
        return [f"{among} not shown to be better than {not_shown}."]
    return [f"{among} shown to be better than {shown}, and not shown to be better than {not_shown}."]


def _in_words(texts: Sequence[str], word: str) -> str:
    """``a, b and c``; of more than three the first ones, and how many there are beside them."""
    if len(texts) > OTHERS_SHOWN:
        return listed(texts, OTHERS_SHOWN)
    return f" {word} ".join(part for part in (", ".join(texts[:-1]), *texts[-1:]) if part)


def _as_files(confirmed: Confirmed) -> str:
    """``, both as INT8 files`` if exported files were scored; otherwise an empty text."""
    files = exported_kind(confirmed.get("of", PYTORCH))
    return f", both as {files}" if files else ""


def _in_pytorch(arm: Arm) -> list[str]:
    """A sentence about a configuration's score in PyTorch, if exported files were scored."""
    own = arm.get("pytorch")
    if own is None or own["mean"] is None:
        return []
    gap = own.get("difference")
    difference = "" if gap is None else f", the difference {gap['mean']:+.2f}"
    return [f"In PyTorch its mIoU is {own['mean']:.2f}{difference}."]


def _mean(pair: tuple[Arm, Difference]) -> float:
    return pair[0]["mean"] or 0.0


def at_equal_cost(arm: Arm) -> EqualCostArm:
    """The entry of a configuration's baseline at equal cost; empty if there is none."""
    return arm.get("equal_cost") or EqualCostArm()


def is_better(difference: Difference) -> bool:
    """Whether the configuration is claimed to be better, by the interval and the adjusted p value or by a look."""
    if difference.get("settled"):
        return bool(difference["answer"] == "better")
    above = difference["low"] > difference.get("margin", 0.0)
    return bool(above and difference["p_adjusted"] <= 1 - CONFIDENCE)


def is_worse(difference: Difference) -> bool:
    """Whether the configuration is claimed to be worse than the baseline; the margin does not matter here."""
    if difference.get("settled"):
        return bool(difference["answer"] == "worse" and difference["mean"] < 0)
    return bool(difference["high"] < 0 and difference["p_adjusted"] <= 1 - CONFIDENCE)


def is_futile(difference: Difference) -> bool:
    """Whether more seeds would very probably not show a gain, by the rule that adds seeds. It is no claim of no gain.

    It is False for "futile" because all planned seeds are used, and in files of older versions, which called every open
    difference on a fixed list of seeds futile.
    """
    if difference.get("answer") != "futile" or is_better(difference) or is_worse(difference):
        return False
    return difference.get("chance", 1.0) < FUTILITY_BOUND


def chance_in_words(difference: Difference) -> str:
    """``a chance of 3 %``, or ``a chance below 1 %``."""
    percent = 100 * difference["chance"]
    return "a chance below 1 %" if percent < 1 else f"a chance of {percent:.0f} %"


def size_of(difference: Difference) -> str:
    """``+5.00 mIoU (95 % interval +4.75 to +5.25, over 3 seeds)``."""
    images = f" and {counted(difference['images'], 'image')}" if difference.get("images") else ""
    return (
        f"{difference['mean']:+.2f} mIoU (95 % interval {difference['low']:+.2f} to {difference['high']:+.2f}, "
        f"over {counted(difference['n'], 'seed')}{images})"
    )


def _answer(begin: str, subject: str, rival: str, difference: Difference, questions: int, *, if_worse: str) -> str:
    """The answer to one question in a sentence; if it is open, a second sentence says what would help."""
    size, margin = size_of(difference), difference.get("margin", 0.0)
    more = f" by more than {margin:g} mIoU" if margin else ""
    if is_better(difference):
        return f"{begin}, {subject} is better than {rival}{more}: {size}."
    if is_worse(difference):
        return f"{begin}, {subject} is worse than {rival}: {size}; {if_worse}."
    text = f"{begin}, {subject} is not shown to be better than {rival}{more}: {size}"
    if difference["low"] > margin:
        looked_at = counted(questions, "difference")
        text += f"; with {looked_at} looked at, that may be luck (adjusted p {difference['p_adjusted']:.2g})"
    return " ".join([f"{text}.", *_advice(difference)])


def images_leave_open(difference: Difference) -> bool:
    """Whether no number of seeds can decide: the images' part of the interval alone includes the margin.

    It is False if the seeds' part is larger, since then the mean itself is too uncertain for this conclusion.
    """
    half, images = difference.get("half_by_images"), difference.get("images")
    if not images or half is None or difference.get("binds") != "images":
        return False
    return bool(half >= abs(difference["mean"] - difference.get("margin", 0.0)))


def _advice(difference: Difference) -> list[str]:
    """A sentence for an answer without a claim: whether more seeds or more images would help."""
    images = difference.get("images")
    if images_leave_open(difference):
        return [f"More seeds would not help: {images} images are too few."]
    if is_futile(difference):
        return [f"More seeds would very probably not show a gain ({chance_in_words(difference)})."]
    if not images:
        return []
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
    """A sentence such as ``The student alone learned more than one class in 1 of 3 runs (their mean mIoU: 75.48).``"""
    trained = when_trained(arm)
    score = "" if trained["mean"] is None else f" (their mean mIoU: {trained['mean']:.2f})"
    return f"{whose} learned more than one class in {trained['n']} of {trained['of']} {run}s{score}."


def _reservations(confirmed: Confirmed, best: Arm, tuned: bool) -> Sequence[str]:
    """Sentences with reservations about the verdict: tuning, looks, and runs that never left one class."""
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

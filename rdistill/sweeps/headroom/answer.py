"""Conclusions from the scores of the short trainings: how much there is to gain, what limits it, and what to do first.

This module has pure functions of numbers.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from statistics import fmean, stdev

from rdistill.core.words import counted
from rdistill.schemas.headroom import ArmScores, Binds, Effect, Effects, Gaps, HeadroomAnswer, SeedsNeeded
from rdistill.sweeps.headroom.arms import ALONE, DISTILLED, HALF, HARD, LENGTHS, LONGER, WORDS
from rdistill.sweeps.headroom.power import Spread, plan, spread_of

EFFECTS = (1.0, 2.0, 5.0)  # differences in mIoU for which the number of seeds is computed
MIN_EFFECT = 0.5  # a change that brings less mIoU than this does not limit the student
BINDING_SHARE = 0.25  # a change that limits the student brings at least this fraction of the gap to the teacher
CLEAR_ERRORS = 2.0  # an effect is clear if it is more than this many standard errors above zero


def answer(
    scores: Mapping[str, Mapping[int, float]],
    stuck: Mapping[str, list[int]],
    teacher: float | None,
    iterations: int,
) -> HeadroomAnswer:
    """The part of ``headroom.json`` that follows from the scores.

    Args:
        scores: arm -> seed -> mIoU in percent.
        stuck: arm -> seeds on which it never left one class; no mean includes them.
        teacher: mIoU of the (first) teacher on the same images; None if it was not scored.
        iterations: iterations of the short trainings.
    """
    trained = {
        arm: {seed: score for seed, score in by_seed.items() if seed not in stuck.get(arm, [])}
        for arm, by_seed in scores.items()
    }
    # The arm with half of the labels is left out: it has other labels on each seed, which adds variance.
    spread = spread_of({arm: by_seed for arm, by_seed in trained.items() if arm != HALF})
    alone, longer = _mean(trained.get(ALONE, {})), _mean(trained.get(LONGER, {}))
    gaps: Gaps = {
        "short": None if teacher is None or alone is None else teacher - alone,
        "long": None if teacher is None or longer is None else teacher - longer,
    }
    effects: Effects = {
        "longer": _difference(trained, LONGER, ALONE),
        "labels": _difference(trained, ALONE, HALF),
        "hard_labels": _difference(trained, HARD, ALONE),
        "distilled": _difference(trained, DISTILLED, ALONE),
    }
    binds = binding(effects, gaps, spread)
    needed = plan(spread, EFFECTS) if spread is not None else None
    return {
        "teacher_mIoU": teacher,
        "arms": {arm: _arm(arm, by_seed, stuck, iterations) for arm, by_seed in scores.items()},
        "gap": gaps,
        "effects": effects,
        "binds": binds,
        "spread": None if spread is None else spread.as_dict(),
        "seeds_needed": needed,
        "recommendation": recommend(binds, gaps, effects, needed, stuck, iterations),
    }


def binding(effects: Effects, gaps: Gaps, spread: Spread | None) -> Binds | None:
    """The factor that limits the student: 'teacher', 'iterations', 'labels' or 'capacity'; None if unknown.

    It is the teacher if that is hardly better than the student trained alone for twice as long. Otherwise it is the
    change with the largest effect, if the effect is clear and at least a quarter of the gap. If no effect is, it is the
    student's capacity: more iterations or labels do not help, though the teacher shows that a better score is possible.
    """
    gap = gaps["long"]
    short, longer = gaps["short"], effects["longer"]
    if gap is None or short is None or longer is None:
        return None
    noise = 0.0 if spread is None else spread.runs
    if gap < max(MIN_EFFECT, CLEAR_ERRORS * noise / math.sqrt(longer["n"])):
        return "teacher"
    changes: dict[Binds, Effect | None] = {"iterations": longer, "labels": effects["labels"]}
    clear = {
        name: effect["mean"]
        for name, effect in changes.items()
        if effect is not None and effect["mean"] >= max(MIN_EFFECT, BINDING_SHARE * short) and _is_clear(effect, spread)
    }
    if not clear:
        return "capacity"
    return max(clear, key=clear.__getitem__)


def recommend(
    binds: Binds | None,
    gaps: Gaps,
    effects: Effects,
    needed: Mapping[str, SeedsNeeded] | None,
    stuck: Mapping[str, list[int]],
    iterations: int,
) -> str:
    """Advice on what to do first, in a sentence or two."""
    if stuck.get(ALONE) and effects["longer"] is None:
        return (
            f"make the student train first: alone it never left one class on {counted(len(stuck[ALONE]), 'seed')}; try "
            f"another learning rate, class weights, or more iterations (--iters)"
        )
    gap, longer = gaps["long"], effects["longer"]
    if binds is None or gap is None or longer is None:
        return "no answer: too few of the short trainings came to a score; see what failed above"
    if binds == "teacher":
        lead = f"{gap:+.1f}" if gap >= 0 else f"{gap:.1f}"
        return (
            f"get a better teacher: it is at {lead} mIoU against the student trained alone for {2 * iterations:,} "
            f"iterations, so there is next to nothing to gain from it"
        )
    seeds = _seeds_to_show(gap, needed)
    if binds == "iterations":
        return (
            f"train longer first: twice the iterations bring {longer['mean']:+.1f} without any teacher; "
            f"{gap:.1f} points to the teacher are left then{seeds}"
        )
    because = {
        "labels": (
            f"labels bind (twice as many brought {effects['labels']['mean']:+.1f})" if effects["labels"] else ""
        ),
        "capacity": "neither more iterations nor more labels bring much, so expect a part of it",
    }[binds]
    return f"worth sweeping: up to {gap:.1f} points{seeds}; {because}"


def _seeds_to_show(gap: float, needed: Mapping[str, SeedsNeeded] | None) -> str:
    """Text such as ``, 7 seeds to show +2``, for the largest effect that is not above half of the gap."""
    if needed is None:
        return ""
    effect = max((effect for effect in EFFECTS if effect <= gap / 2), default=EFFECTS[0])
    seeds = needed[f"{effect:+g}"]["seeds"]
    return f", {seeds if seeds is not None else 'over 1,000'} seeds to show {effect:+g}"


def _difference(scores: Mapping[str, Mapping[int, float]], arm: str, rival: str) -> Effect | None:
    """Mean and standard deviation of the differences on the seeds that both arms have; None without such seeds."""
    arm_scores, rival_scores = scores.get(arm, {}), scores.get(rival, {})
    differences = [arm_scores[seed] - rival_scores[seed] for seed in sorted(arm_scores.keys() & rival_scores.keys())]
    if not differences:
        return None
    sd = stdev(differences) if len(differences) > 1 else None
    return {"n": len(differences), "mean": fmean(differences), "sd": sd}


def _is_clear(effect: Effect, spread: Spread | None) -> bool:
    """Whether a mean difference is more than two standard errors above zero, by the pooled spread."""
    return spread is None or effect["mean"] > CLEAR_ERRORS * spread.pairs / math.sqrt(effect["n"])


def _arm(arm: str, by_seed: Mapping[int, float], stuck: Mapping[str, list[int]], iterations: int) -> ArmScores:
    trained = [score for seed, score in by_seed.items() if seed not in stuck.get(arm, [])]
    return {
        "words": WORDS[arm],
        "iterations": iterations * LENGTHS.get(arm, 1),
        "scores": {str(seed): score for seed, score in by_seed.items()},
        "mean": fmean(trained) if trained else None,
        "sd": stdev(trained) if len(trained) > 1 else None,
        "one_class_seeds": list(stuck.get(arm, [])),
    }


def _mean(by_seed: Mapping[int, float]) -> float | None:
    return fmean(by_seed.values()) if by_seed else None

"""Which runs never left one class: the one rule for a search, a confirmation, a headroom, the report and its images.

A student that calls every pixel the most frequent class, or nearly every one, has not trained. Its score says nothing
of how good a student is, and a difference to it can be of any size: such runs are counted apart.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from statistics import median, stdev
from typing import TypedDict, TypeVar

from rdistill.schemas.run import IoUScores, Trivial
from rdistill.schemas.summary import Arm

Name = TypeVar("Name", bound=Hashable)

ONE_CLASS_IOU = 1.0  # percent; a class below it is as good as never predicted
FEW_PIXELS = 5.0  # percent of the pixels of other classes; who predicts fewer has not left one class
NEAR = 0.1  # share of the usual distance to the trivial score, below which a run is at it, where that varies less
HALF = 0.5  # half of that distance: nearer to it than to the trivial score has trained, however much that varies


def is_one_class(scores: IoUScores) -> bool:
    """Whether, but for a few pixels, only one class is predicted, or only one is where it belongs."""
    left = (scores.get("trivial") or Trivial()).get("left")
    ious = [value for value in (scores.get("IoU") or {}).values() if value is not None]
    sees_one = len(ious) > 1 and sum(value >= ONE_CLASS_IOU for value in ious) <= 1
    return sees_one or (left is not None and left < FEW_PIXELS)


def never_left_one_class(runs: Mapping[Name, IoUScores]) -> frozenset[Name]:
    """Which of some runs never left one class, or hardly: the one rule for a search, a confirmation and a headroom.

    By the classes that they predict; and by how far their score is from the trivial one, against the runs that are far
    from it: nearer than these vary among each other (or than a tenth of their distance, where they vary less) is no
    training. A run on half of their way, or further, has trained, however much they vary.

    Args:
        runs: name -> scores of its best validation, all on the same images; those without a score are left out. Where
            none has a ``trivial`` score (older files), what runs of one class score is taken for it.
    """
    scored = {name: scores for name, scores in runs.items() if math.isfinite(scores.get("mIoU", math.nan))}
    one_class = {name for name, scores in scored.items() if is_one_class(scores)}
    trivial = [each["trivial"]["mIoU"] for each in scored.values() if each.get("trivial")]
    trivial = trivial or [scored[name]["mIoU"] for name in one_class]
    if not trivial:
        return frozenset(one_class)
    distance = {name: float(scores["mIoU"]) - min(trivial) for name, scores in scored.items()}
    reach = _reach([far for name, far in distance.items() if name not in one_class])
    return frozenset(one_class | {name for name, far in distance.items() if far < reach})


def _reach(distances: Sequence[float]) -> float:
    """How near to the trivial score a run has to be to count as not trained, in mIoU."""
    furthest = max(distances, default=0.0)
    if furthest <= 0:
        return -math.inf
    healthy = [far for far in distances if far >= HALF * furthest]
    usual = median(healthy)
    spread = stdev(healthy) if len(healthy) > 1 else 0.0
    return min(max(spread, NEAR * usual), HALF * usual)


class TrainedRuns(TypedDict):
    """Those runs of a confirmed arm that left one class; a number may be absent in a file of an older version."""

    n: int | None
    of: int | None  # how many runs there are
    mean: float | None  # mIoU in percent
    sd: float | None


def when_trained(arm: Arm) -> TrainedRuns:
    """The runs of a confirmed arm that count in its mean.

    Args:
        arm: as ``summary.json`` has it. One of an older version does not say which runs trained: all of them count.
    """
    stuck, count = len(arm.get("never_trained") or []), arm.get("n")
    if not stuck:
        return {"n": count, "of": count, "mean": arm.get("mean"), "sd": arm.get("sd")}
    trained = count - stuck if isinstance(count, int) else count
    return {"n": trained, "of": count, "mean": arm.get("mean_trained"), "sd": arm.get("sd_trained")}


def trained_of(arm: Arm) -> str:
    """``3``, or ``2 of 3`` where a run never left one class."""
    trained = when_trained(arm)
    return f"{trained['n']} of {trained['of']}" if trained["n"] != trained["of"] else str(trained["of"] or "")

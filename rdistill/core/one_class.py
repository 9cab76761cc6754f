"""Finds runs that never left one class: one rule for the search, the confirmation, the headroom and the report.

A student that predicts the most frequent class for all or nearly all pixels has not trained. Its score does not show
how good such a student can be, and a difference to it can have any size. So these runs are counted separately.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from statistics import median, stdev
from typing import TypedDict, TypeVar

from rdistill.schemas.run import IoUScores, Trivial
from rdistill.schemas.summary import Arm

Name = TypeVar("Name", bound=Hashable)

ONE_CLASS_IOU = 1.0  # percent; a class with a lower IoU counts as not predicted
FEW_PIXELS = 5.0  # percent of the pixels of other classes; a run that predicts fewer of them never left one class
# A run trained if its distance to the trivial score is larger than the spread of the trained runs' distances. This
# limit is at least MIN_DISTANCE and at most MAX_DISTANCE, as shares of the median of these distances.
MIN_DISTANCE = 0.1
MAX_DISTANCE = 0.5


def is_one_class(scores: IoUScores) -> bool:
    """Whether at most one class has a noticeable IoU, or nearly all pixels are predicted as one class."""
    left = (scores.get("trivial") or Trivial()).get("left")
    ious = [value for value in (scores.get("IoU") or {}).values() if value is not None]
    one_class_scores = len(ious) > 1 and sum(value >= ONE_CLASS_IOU for value in ious) <= 1
    return one_class_scores or (left is not None and left < FEW_PIXELS)


def never_left_one_class(runs: Mapping[Name, IoUScores]) -> frozenset[Name]:
    """The names of the runs that never, or hardly, left one class.

    A run is one of them if it predicts a single class (:func:`is_one_class`), or if its score is close to the trivial
    score, compared with the other runs: closer than the standard deviation of their distances to it, or closer than a
    tenth of their median distance. A run that is at least half of the median distance away has always trained.

    Args:
        runs: name -> scores of its best validation, all on the same images. Runs without a score are left out. If no
            run has a ``trivial`` score (older files), the scores of the runs of one class replace it.
    """
    scored = {name: scores for name, scores in runs.items() if math.isfinite(scores.get("mIoU", math.nan))}
    one_class = {name for name, scores in scored.items() if is_one_class(scores)}
    trivial = [each["trivial"]["mIoU"] for each in scored.values() if each.get("trivial")]
    trivial = trivial or [scored[name]["mIoU"] for name in one_class]
    if not trivial:
        return frozenset(one_class)
    distances = {name: float(scores["mIoU"]) - min(trivial) for name, scores in scored.items()}
    limit = _distance_limit([distance for name, distance in distances.items() if name not in one_class])
    return frozenset(one_class | {name for name, distance in distances.items() if distance < limit})


def _distance_limit(distances: Sequence[float]) -> float:
    """The distance to the trivial score, in mIoU, below which a run counts as not trained."""
    largest = max(distances, default=0.0)
    if largest <= 0:
        return -math.inf
    trained = [distance for distance in distances if distance >= 0.5 * largest]
    typical = median(trained)
    spread = stdev(trained) if len(trained) > 1 else 0.0
    return min(max(spread, MIN_DISTANCE * typical), MAX_DISTANCE * typical)


class TrainedRuns(TypedDict):
    """The runs of a confirmed arm that left one class; a number may be missing in a file of an older version."""

    n: int | None  # number of runs that left one class
    of: int | None  # number of all runs
    mean: float | None  # mIoU in percent
    sd: float | None  # standard deviation of the mIoU


def when_trained(arm: Arm) -> TrainedRuns:
    """The runs of a confirmed arm that count in its mean.

    Args:
        arm: an arm of ``summary.json``. In a file of an older version, which does not tell which runs trained, all runs
            count.
    """
    stuck, count = len(arm.get("never_trained") or []), arm.get("n")
    if not stuck:
        return {"n": count, "of": count, "mean": arm.get("mean"), "sd": arm.get("sd")}
    trained = count - stuck if isinstance(count, int) else count
    return {"n": trained, "of": count, "mean": arm.get("mean_trained"), "sd": arm.get("sd_trained")}


def trained_of(arm: Arm) -> str:
    """The number of runs as text: ``3``, or ``2 of 3`` if one of them never left one class."""
    trained = when_trained(arm)
    return f"{trained['n']} of {trained['of']}" if trained["n"] != trained["of"] else str(trained["of"] or "")

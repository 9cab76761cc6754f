"""A scheduler that compares each trial with the best one image by image, and stops it if it will not catch up.

It works like Optuna's WilcoxonPruner, with two differences. First, the pairs are scores of the same image at the same
iteration, where students of one seed differ in their configuration alone. Second, a trial goes on if its deficit
shrinks fast enough to be gone by the last iteration, since training with a small learning rate or a strong teacher may
start slowly.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from ray.tune.schedulers import FIFOScheduler, TrialScheduler
from scipy import stats

from rdistill.schemas.mappings import TuneResult

BY_IMAGE = "by_image"  # key of a trial's report, with the score of each validation image, in order
Scores = Mapping[int, np.ndarray]  # iteration -> score of each image


def cannot_catch_up(trial: Scores, best: Scores, last: int, p_threshold: float, least: int) -> bool:
    """Whether a trial is so far behind that it will not catch up.

    Args:
        trial, best: scores of the trial and of the best trial so far; they are compared at the trial's last validation.
        last: the last iteration of a trial.
        p_threshold: threshold for the p value of Wilcoxon's one-sided signed-rank test, whose null hypothesis is that
            the trial's images score no lower than those of the best trial.
        least: number of validations before any trial may be stopped.
    """
    shared = sorted(iteration for iteration in trial if iteration in best)
    if len(shared) < max(least, 2) or shared[-1] != max(trial) or shared[-1] >= last:
        return False
    now, before = (trial[iteration] - best[iteration] for iteration in (shared[-1], shared[-2]))
    deficit = -float(now.mean())
    if deficit <= 0 or not now.any():
        return False
    gained = largest_plausible_gain(now, before) / (shared[-1] - shared[-2])  # mIoU per iteration
    if gained * (last - shared[-1]) >= deficit:
        return False
    return bool(stats.wilcoxon(now, alternative="less", zero_method="zsplit").pvalue < p_threshold)


def largest_plausible_gain(now: np.ndarray, before: np.ndarray) -> float:
    """The decrease of the mean deficit plus twice its standard error, so that no trial is stopped by chance."""
    step = now - before
    error = float(step.std(ddof=1)) / np.sqrt(len(step)) if len(step) > 1 else 0.0
    return float(step.mean()) + 2 * float(error)


class PairedScheduler(FIFOScheduler):
    """Stops trials by :func:`cannot_catch_up`, compared with the best trial at the same iteration.

    Args:
        last: the last iteration of a trial.
        p_threshold, least: the same as for :func:`cannot_catch_up`.
    """

    def __init__(self, last: int, p_threshold: float, least: int) -> None:
        super().__init__()
        self.last, self.p_threshold, self.least = last, p_threshold, least
        self.scores: dict[str, dict[int, np.ndarray]] = {}  # trial -> iteration -> score of each image

    def set_search_properties(self, metric: str | None, mode: str | None, **spec: Any) -> bool:
        return True

    def on_trial_result(self, tune_controller: Any, trial: Any, result: TuneResult) -> str:
        images, iteration = result.get(BY_IMAGE), int(result["iter"])
        if not images:
            return TrialScheduler.CONTINUE
        own = self.scores.setdefault(trial.trial_id, {})
        own[iteration] = np.asarray(images, dtype=np.float64)
        rivals = [
            scores
            for name, scores in self.scores.items()
            if name != trial.trial_id and iteration in scores and len(scores[iteration]) == len(own[iteration])
        ]
        if not rivals:
            return TrialScheduler.CONTINUE
        best = max(rivals, key=lambda scores: float(scores[iteration].mean()))
        stops = cannot_catch_up(own, best, self.last, self.p_threshold, self.least)
        return TrialScheduler.STOP if stops else TrialScheduler.CONTINUE

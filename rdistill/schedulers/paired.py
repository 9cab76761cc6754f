"""Trials that are compared with the best so far image by image, and end when they will not catch up.

As Optuna's WilcoxonPruner, with two differences: what is paired is an image at the same iteration, where students of
one seed differ by their configuration alone; and a trial whose deficit shrinks fast enough to be gone by its end goes
on, since a small learning rate or a strong teacher may begin slowly.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from ray.tune.schedulers import FIFOScheduler, TrialScheduler
from scipy import stats

from rdistill.schemas.mappings import TuneResult

BY_IMAGE = "by_image"  # key of a trial's report: the score of each validation image, in order
Scores = Mapping[int, np.ndarray]  # iteration -> score of each image


def gives_up(trial: Scores, best: Scores, last: int, p_threshold: float, least: int) -> bool:
    """Whether a trial has fallen behind for good.

    Args:
        trial, best: of the trial and of the best so far; compared at the trial's last iteration that both have.
        last: iteration at which a trial ends.
        p_threshold: of Wilcoxon's signed-rank test, one-sided, that the images' scores are no lower than the best's.
        least: validations before any trial is stopped.
    """
    shared = sorted(iteration for iteration in trial if iteration in best)
    if len(shared) < max(least, 2) or shared[-1] != max(trial) or shared[-1] >= last:
        return False
    now, before = (trial[iteration] - best[iteration] for iteration in (shared[-1], shared[-2]))
    deficit = -float(now.mean())
    if deficit <= 0 or not now.any():
        return False
    gained = deficit_gained(now, before) / (shared[-1] - shared[-2])  # an iteration
    if gained * (last - shared[-1]) >= deficit:
        return False
    return bool(stats.wilcoxon(now, alternative="less", zero_method="zsplit").pvalue < p_threshold)


def deficit_gained(now: np.ndarray, before: np.ndarray) -> float:
    """By how much the mean deficit has shrunk, and twice its standard error, so that chance does not end a trial."""
    step = now - before
    error = float(step.std(ddof=1)) / np.sqrt(len(step)) if len(step) > 1 else 0.0
    return float(step.mean()) + 2 * float(error)


class PairedScheduler(FIFOScheduler):
    """Stops trials by :func:`gives_up`, against the best trial that has come as far.

    Args:
        last: iteration at which a trial ends.
        p_threshold, least: as there.
    """

    def __init__(self, last: int, p_threshold: float, least: int) -> None:
        super().__init__()
        self.last, self.p_threshold, self.least = last, p_threshold, least
        self.scores: dict[str, dict[int, np.ndarray]] = {}  # a row for each trial's validation

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
        stops = gives_up(own, best, self.last, self.p_threshold, self.least)
        return TrialScheduler.STOP if stops else TrialScheduler.CONTINUE

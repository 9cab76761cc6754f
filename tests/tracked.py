"""A run played to the trackers, without training: what each of them is told."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rdistill.sweeps.monitor.events import TrialInfo
from rdistill.sweeps.monitor.trackers import BackgroundTracker
from rdistill.sweeps.study.records import TRIALS, TrialRecord

ALL = "wandb, tensorboard, mlflow"

WEIGHT = "distill.losses.logits.weight"


def record_of(name: str, scores: list[float], **options: Any) -> TrialRecord:
    history = [
        {"iter": 10 * (index + 1), "seconds": 1.0, "mIoU": score, "IoU": {"disc": score, "gone": None}}
        for index, score in enumerate(scores)
    ]
    losses = [{"iter": 8, "loss": 2.0, "distill.loss_logits": 0.5}]
    return TrialRecord(name, {WEIGHT: 3.0}, 0, effective={WEIGHT: 3.0}, history=history, losses=losses, **options)


def play(work_dir: Path, looking_on: list[BackgroundTracker], scores: list[float], begin: int = 0) -> None:
    """A baseline and a trial, one validation after another, as a sweep would tell."""
    seen = {"baseline": TrialInfo("baseline", "baseline", {}), "t0001": TrialInfo("t0001", "search", {WEIGHT: 3.0})}
    for name, trial in seen.items():
        for listener in looking_on:
            listener.trial_started(trial)
        for count in range(begin + 1, len(scores) + 1):
            record_of(name, scores[:count]).save(work_dir / TRIALS / name)
            result = {"iter": 10 * count, "mIoU": scores[count - 1], "best_mIoU": max(scores[:count])}
            for listener in looking_on:
                listener.trial_validated(trial, result)
        record_of(name, scores, status="finished").save(work_dir / TRIALS / name)
        for listener in looking_on:
            listener.trial_ended(trial, {}, False)

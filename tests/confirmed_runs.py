"""Records of a search and of the runs that confirm it, each of one validation."""

from __future__ import annotations

from typing import Any

from rdistill.sweeps.study.records import CONFIRMED, TrialRecord

WEIGHT, RATE = "distill.losses.logits.weight", "optim_wrapper.optimizer.lr"


def record(name: str, score: float | None, *, disc: float = 30.0, seed: int = 0, **more: Any) -> TrialRecord:
    """A finished trial that was validated once; confirmation runs say of what they are by their name."""
    of = name.rpartition("-s")[0]
    history = [{"iter": 10, "seconds": 2.0, "mIoU": score, "IoU": {"background": 98.0, "disc": disc}}]
    phase = CONFIRMED if of else ""
    options = {"values": {}, "status": "finished", "history": history if score is not None else [], **more}
    return TrialRecord(name, seed=seed, phase=phase, of=of, **options)


def runs(name: str, scores: dict[int, float], **more: Any) -> list[TrialRecord]:
    return [record(f"{name}-s{seed}", score, seed=seed, **more) for seed, score in scores.items()]

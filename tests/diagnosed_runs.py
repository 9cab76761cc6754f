"""Confirmed runs with a diagnosis at every validation."""

from __future__ import annotations

from typing import Any

from rdistill.sweeps.study.records import CONFIRMED, TrialRecord

FIGURES: dict[str, Any] = {
    "agreement": 91.0, "student_error": 8.0, "teacher_error": 4.0, "errors_repeated": 60.0, "errors_to_learn": 55.0,
    "teacher_confidence": 97.0, "teacher_calibration_error": 1.5,
    "teacher_entropy": {"1": 0.12, "2": 0.3, "4": 0.6, "8": 0.8},
    "gradient_task": 1.0, "gradient_distill": 0.5, "gradient_ratio": 0.5, "gradient_cosine": 0.6,
    "terms": {"logits": {"ratio": 0.5, "cosine": 0.6, "raw": 0.1}},
}  # fmt: skip


FALLING = [1.0, 0.8, 0.6, 0.4, 0.2]


def run(
    name: str = "t0001-s1",
    *,
    scores: tuple[float, ...] = (50.0, 54.0, 56.0, 56.1),
    losses: list[float] = FALLING,
    entries: list[dict[str, Any] | None] | None = None,
    tau: float = 1.0,
    teacher: float = 65.0,
    **changed: Any,
) -> TrialRecord:
    entries = [{**FIGURES, **changed}] * len(scores) if entries is None else entries
    history = [
        {"iter": 10 * index, "mIoU": score, "diagnosis": entry}
        for index, (score, entry) in enumerate(zip(scores, entries, strict=True), start=1)
    ]
    return TrialRecord(
        name, {}, 1, phase=CONFIRMED, of=name.partition("-")[0], status="finished", history=history,
        losses=[{"iter": index, "raw/logits": value} for index, value in enumerate(losses)],
        effective={"distill.losses.logits.tau": tau}, teacher_mIoU=teacher,
    )  # fmt: skip

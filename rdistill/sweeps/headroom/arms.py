"""The short trainings by which headroom is measured: the student alone, and variants of it with one change each.

All arms of a seed start from the same weights. All but the arm with half of the labels see the same batches.
"""

from __future__ import annotations

import copy

from mmengine.config import Config

from rdistill._compat.mmengine import config_dict
from rdistill.config.schedules import stretch_schedules
from rdistill.core.errors import UserError
from rdistill.schemas.mappings import PlainConfig

ALONE, LONGER, HALF, HARD, DISTILLED = "alone", "longer", "half", "hard", "distilled"
ARMS = (ALONE, LONGER, HALF, HARD, DISTILLED)
WORDS = {  # the arms' names in tables, on the console and in the report
    ALONE: "alone",
    LONGER: "alone, twice as long",
    HALF: "half of the labels",
    HARD: "teacher's labels",
    DISTILLED: "distilled",
}
LENGTHS = {LONGER: 2}  # arm -> length as a multiple of the short trainings' iterations; 1 for all other arms
VALIDATIONS = 4  # the same for all trainings, since the best score of more validations would be better by chance alone
MIN_ITERATIONS = 20  # the smallest number of iterations of a short training


def arm_config(base: Config, arm: str, iterations: int, seed: int) -> Config:
    """The config of one training.

    Args:
        base: the distilled student's config, with its teacher plan.
        arm: one of ``ARMS``.
        iterations: iterations of the short trainings; the schedules are stretched to that number.
        seed: the training seed, which also chooses the half of the labels.

    Raises:
        UserError: the config's schedules cannot be stretched to that number of iterations.
    """
    cfg = copy.deepcopy(base)
    if arm not in (HARD, DISTILLED):
        cfg.pop("distill", None)
    total = iterations * LENGTHS.get(arm, 1)
    if problems := stretch_schedules(cfg, total):
        raise UserError(*(f"headroom: {problem.removeprefix('--iters: ')}" for problem in problems))
    for key in ("dynamic_intervals", "val_begin"):
        cfg.train_cfg.pop(key, None)
    cfg.train_cfg.val_interval = _interval(iterations) * LENGTHS.get(arm, 1)
    cfg.pop("tracking", None)
    if arm == HALF:
        dataset = cfg.train_dataloader.dataset.to_dict()
        cfg.train_dataloader.dataset = dict(type="SubsetDataset", dataset=dataset, share=0.5, seed=seed)
    if arm == HARD:
        cfg.distill.losses = dict()
        cfg.distill.labels = "teacher"
        cfg.distill.task_weight = 1.0  # the weight of the task's loss in a student alone
    return cfg


def total_iterations(iterations: int, seeds: int) -> dict[str, int]:
    """Iterations of all students over all arms and seeds, and the forward passes of the teacher that two arms share."""
    steps = sum(LENGTHS.get(arm, 1) for arm in ARMS)
    return {"student": steps * iterations * seeds, "teacher": iterations * seeds}


def _interval(iterations: int) -> int:
    """Iterations between two validations of a short training, a multiple of ten if possible."""
    interval = max(1, iterations // VALIDATIONS)
    return interval - interval % 10 if interval >= 10 else interval


def digest(base: Config) -> PlainConfig:
    """The part of a config on which the headroom depends, as plain data that a resume can compare."""
    plain = config_dict(base).to_dict()
    return {key: value for key, value in plain.items() if key not in ("tracking", "work_dir")}

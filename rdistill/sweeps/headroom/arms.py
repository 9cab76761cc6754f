"""The short trainings by which headroom is measured: the student alone, and what one change to it brings.

All arms of a seed start from the same weights and, but for the one with half the labels, see the same batches.
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
WORDS = {  # what a table calls them, on the console and in the report
    ALONE: "alone",
    LONGER: "alone, twice as long",
    HALF: "half of the labels",
    HARD: "teacher's labels",
    DISTILLED: "distilled",
}
LENGTHS = {LONGER: 2}  # the others have 1
VALIDATIONS = 4  # validations of each training, whatever its length: the best of more would be better by chance alone
LEAST_ITERATIONS = 20  # iterations of the short trainings


def arm_config(base: Config, arm: str, iterations: int, seed: int) -> Config:
    """The config of one training.

    Args:
        base: of the distilled student, with how its teachers are computed settled.
        arm: one of ``ARMS``.
        iterations: of the short trainings; the schedules are stretched to them.
        seed: of the training, which also chooses the half of the labels.

    Raises:
        UserError: the config cannot be made so short.
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
        cfg.distill.task_weight = 1.0  # the same as the student's alone
    return cfg


def iterations_of_all(iterations: int, seeds: int) -> dict[str, int]:
    """Iterations of the student over all arms and seeds, and those of them for which a teacher runs (shared by two)."""
    steps = sum(LENGTHS.get(arm, 1) for arm in ARMS)
    return {"student": steps * iterations * seeds, "teacher": iterations * seeds}


def _interval(iterations: int) -> int:
    """Iterations between two validations of a short training: round where that is possible."""
    interval = max(1, iterations // VALIDATIONS)
    return interval - interval % 10 if interval >= 10 else interval


def digest(base: Config) -> PlainConfig:
    """What a config has that a headroom's answer rests on, as plain data to compare."""
    plain = config_dict(base).to_dict()
    return {key: value for key, value in plain.items() if key not in ("tracking", "work_dir")}

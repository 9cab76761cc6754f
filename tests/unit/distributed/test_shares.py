"""What Ray cannot give is refused before it is asked: it would raise, or wait without end."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
from conftest import Command, Tiny

from rdistill.core.errors import UserError
from rdistill.distributed.shares import MIN_SHARE, resource_problems, share_problems
from rdistill.training.ray_train import Resources

GPUS = "gpus_per_worker: must be 0, a part of one GPU from 0.01, or a whole number, got "


@pytest.mark.parametrize("gpus", [None, 0, 0.0, MIN_SHARE, 0.25, 0.99, 1, 1.0, 3])
def test_what_ray_gives(gpus: float | None) -> None:
    assert share_problems(MIN_SHARE, gpus) == share_problems(1.5, gpus) == []
    assert Resources(2, 0.5, gpus).gpus_per_worker == gpus


@pytest.mark.parametrize("gpus", [0.001, 1e-9, -1, -0.5, 1.5, 2.25, math.inf, math.nan])
def test_gpus_that_ray_does_not_give(gpus: float) -> None:
    """Above one, Ray takes whole GPUs only."""
    assert share_problems(1, gpus, "trial.") == [f"trial.{GPUS}{gpus}"]
    with pytest.raises(UserError, match=r"^gpus_per_worker: must be 0, a part of one GPU"):
        Resources(2, 1, gpus)


@pytest.mark.parametrize("cpus", [0, 0.001, -1, math.inf, math.nan])
def test_cpus_that_ray_does_not_give(cpus: float) -> None:
    assert share_problems(cpus, None) == [f"cpus_per_worker: must be a finite number of at least 0.01, got {cpus}"]


def test_each_mistake_is_said() -> None:
    assert resource_problems(0, 0, 0.001, 3, -1) == [
        "workers: must be at least 1, got 0",
        "cpus_per_worker: must be a finite number of at least 0.01, got 0",
        f"{GPUS}0.001",
        "min_workers: must be from 1 to workers (0), got 3",
        "max_failures: must be at least 0, got -1",
    ]


@pytest.mark.parametrize("gpus", ["0.001", "1.5"])
def test_the_commands_refuse_them(command: Command, tiny_without_teacher: Tiny, tmp_path: Path, gpus: str) -> None:
    student = tiny_without_teacher.folder / "student.py"
    sweep = tmp_path / "a.yaml"
    sweep.write_text(
        f"config: {tiny_without_teacher.folder}/distill.py\nspace: {{distill.task_weight: {{type: uniform, low: 0.1, "
        f"high: 1}}}}\nsearch: {{num_trials: 2}}\ntrial: {{gpus_per_worker: {gpus}}}\n"
    )
    small = ["--data-root", tiny_without_teacher.data_root, "--size", 32, "--iters", 2, "--batch-size", 2]
    for arguments in (["train", student], ["train", student, "--workers", 2], ["check", student]):
        result = command(*arguments, "--gpus-per-worker", gpus, *small)
        assert result.status == 2 and result.err == f"error: {GPUS}{float(gpus)}\n", result
    for name in ("sweep", "check"):
        result = command(name, sweep)
        assert result.status == 2 and result.err == f"error: {sweep}: trial.{GPUS}{float(gpus)}\n", result

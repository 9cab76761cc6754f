"""What a worker may take of CPUs and GPUs, and how many workers a run may have: known without Ray."""

from __future__ import annotations

import math

LEAST_SHARE = 0.01  # the least part of a CPU or GPU that a worker takes


def share_problems(cpus_per_worker: float, gpus_per_worker: float | None, where: str = "") -> list[str]:
    """What Ray could not give.

    Args:
        cpus_per_worker: Ray gives any part of CPUs.
        gpus_per_worker: Ray gives a part of one GPU, or whole ones; None takes what there is.
        where: stands before the keys, such as ``trial.``.
    """
    problems, gpus = [], gpus_per_worker or 0.0
    if not LEAST_SHARE <= cpus_per_worker < math.inf:
        problems.append(
            f"{where}cpus_per_worker: must be a finite number of at least {LEAST_SHARE}, got {cpus_per_worker}"
        )
    if gpus != 0 and not (LEAST_SHARE <= gpus < 1 or (1 <= gpus < math.inf and gpus % 1 == 0)):
        problems.append(
            f"{where}gpus_per_worker: must be 0, a part of one GPU from {LEAST_SHARE}, or a whole number, got {gpus}"
        )
    return problems


def resource_problems(
    workers: int, cpus_per_worker: float, gpus_per_worker: float | None, min_workers: int | None, max_failures: int
) -> list[str]:
    """As :func:`share_problems`, of all that says what one run takes."""
    problems = [f"workers: must be at least 1, got {workers}"] if workers < 1 else []
    problems += share_problems(cpus_per_worker, gpus_per_worker)
    if min_workers is not None and not 1 <= min_workers <= workers:
        problems.append(f"min_workers: must be from 1 to workers ({workers}), got {min_workers}")
    if max_failures < 0:
        problems.append(f"max_failures: must be at least 0, got {max_failures}")
    return problems

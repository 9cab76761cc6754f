"""Checks the CPUs and GPUs of a worker and the number of workers of a run, without importing Ray."""

from __future__ import annotations

import math

MIN_SHARE = 0.01  # the smallest part of a CPU or GPU that a worker can take


def share_problems(cpus_per_worker: float, gpus_per_worker: float | None, where: str = "") -> list[str]:
    """Checks the resources of one worker; returns one line for each amount that Ray cannot provide.

    Args:
        cpus_per_worker: any number of CPUs from :data:`MIN_SHARE`; it may be fractional.
        gpus_per_worker: 0, a part of one GPU, or a whole number of GPUs; None takes a GPU if the cluster has any.
        where: prefix of the keys in the messages, such as ``trial.``.
    """
    problems, gpus = [], gpus_per_worker or 0.0
    if not MIN_SHARE <= cpus_per_worker < math.inf:
        problems.append(
            f"{where}cpus_per_worker: must be a finite number of at least {MIN_SHARE}, got {cpus_per_worker}"
        )
    if gpus != 0 and not (MIN_SHARE <= gpus < 1 or (1 <= gpus < math.inf and gpus % 1 == 0)):
        problems.append(
            f"{where}gpus_per_worker: must be 0, a part of one GPU from {MIN_SHARE}, or a whole number, got {gpus}"
        )
    return problems


def resource_problems(
    workers: int, cpus_per_worker: float, gpus_per_worker: float | None, min_workers: int | None, max_failures: int
) -> list[str]:
    """Like :func:`share_problems`, but checks all resources of a run."""
    problems = [f"workers: must be at least 1, got {workers}"] if workers < 1 else []
    problems += share_problems(cpus_per_worker, gpus_per_worker)
    if min_workers is not None and not 1 <= min_workers <= workers:
        problems.append(f"min_workers: must be from 1 to workers ({workers}), got {min_workers}")
    if max_failures < 0:
        problems.append(f"max_failures: must be at least 0, got {max_failures}")
    return problems

"""A search space with a dimension of every kind, and a sweep of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rdistill.sweeps.study.spec import SweepSpec

SPACE: dict[str, Any] = {
    "distill.task_weight": {"type": "uniform", "low": 0.25, "high": 1.0},
    "distill.losses.logits.weight": {"type": "loguniform", "low": 1.0, "high": 100.0},
    "train_dataloader.batch_size": {"type": "int", "low": 2, "high": 4},
    "distill.losses.hidden.pair": {"type": "pairs", "pairs": "all"},
    "optim_wrapper.optimizer.lr": {"type": "choice", "values": [0.01, 0.1]},
    "model.decode_head.dilations": {"type": "choice", "values": [[1, 2], [1, 3, 6]]},
}


def study(space: Mapping[str, Any] = SPACE, *, seed: int = 0, kind: str = "random") -> SweepSpec:
    search = {"type": kind, "seed": seed, **({} if kind == "grid" else {"num_trials": 9})}
    spec = SweepSpec.model_validate({"config": "a.py", "space": space, "search": search})
    assert spec.problems() == []
    return spec

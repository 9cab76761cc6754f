"""Runs in lockstep are the runs that they would be alone, to the last bit."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import Tiny
from mmengine.config import Config
from torch import Tensor

from rdistill import teacher as teacher_module
from rdistill.config import with_overrides, without_distillation
from rdistill.hooks import DivergedError, Silent
from rdistill.lockstep import Lane, Lockstep
from rdistill.training import train

Equal = Callable[[Mapping[str, Tensor], Mapping[str, Tensor]], bool]
KNOWN: list[dict[str, Any]] = [{}]  # the teacher's scores are not what is tested


def lane_of(cfg: Config, folder: Path, outcome: dict[str, Any], **options: Any) -> Callable[[Lane], None]:
    def run(lane: Lane) -> None:
        try:
            outcome[folder.name] = train(cfg, folder, teacher_metrics=KNOWN, lane=lane, check=False, **options)
        except Exception as error:
            outcome[folder.name] = error

    return run


def weights(folder: Path) -> dict[str, Tensor]:
    return torch.load(folder / "last.pth", weights_only=True)["state_dict"]


def variants(tiny: Tiny) -> dict[str, Config]:
    """Students with different losses, rates, architectures and seeds of dropout: one stream of data."""
    base = tiny.load("distill", iters=6, val_interval=3)
    return {
        "baseline": without_distillation(base),
        "kl": with_overrides(base, {"distill.losses.hidden": None, "distill.losses.logits.weight": 30.0}),
        "mgd": with_overrides(base, {"distill.losses.hidden": {"type": "MGD", "pair": [0, 1]}}),
        "wide": with_overrides(base, {"model.decode_head.channels": 16, "optim_wrapper.optimizer.lr": 0.1}),
    }


def test_equal_to_the_last_bit(tiny: Tiny, tmp_path: Path, state_equal: Equal) -> None:
    """Four students, flips and dropout on; one is stopped early, one joins late."""
    configs, outcome = variants(tiny), {}
    lockstep = Lockstep()
    lanes = {name: lockstep.join(name, lane_of(cfg, tmp_path / name, outcome)) for name, cfg in configs.items()}
    while lockstep.step():
        if lanes["kl"].iterations == 5 and "late" not in lanes:
            lanes["kl"].stopped = True
            configs["late"] = with_overrides(configs["kl"], {"distill.losses.logits.tau": 2.0})
            lanes["late"] = lockstep.join("late", lane_of(configs["late"], tmp_path / "late", outcome))
    assert set(outcome) == {"baseline", "mgd", "wide", "late"}, outcome
    for name in outcome:
        alone = tmp_path / f"{name}-alone"
        metrics = train(configs[name], alone, teacher_metrics=KNOWN)
        assert state_equal(weights(alone), weights(tmp_path / name)), name
        assert {**metrics, "seconds": 0} == {**outcome[name], "seconds": 0}
    # The one that was stopped has what it had by then, and goes on from there by itself.
    stopped = torch.load(tmp_path / "kl" / "last.pth", weights_only=True)
    assert stopped["meta"]["iter"] == 3
    train(configs["kl"], tmp_path / "kl", resume=True, teacher_metrics=KNOWN)
    train(configs["kl"], tmp_path / "kl-alone", teacher_metrics=KNOWN)
    assert state_equal(weights(tmp_path / "kl-alone"), weights(tmp_path / "kl"))


def test_one_forward_pass_of_the_teacher_for_all(tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []
    original = teacher_module.Teacher.__call__

    def counted(self: Any, inputs: Tensor) -> dict[str, Tensor]:
        calls.append(len(inputs))
        return original(self, inputs)

    monkeypatch.setattr(teacher_module.Teacher, "__call__", counted)
    configs = {name: cfg for name, cfg in variants(tiny).items() if name != "baseline"}
    lockstep, outcome = Lockstep(), {}
    for name, cfg in configs.items():
        lockstep.join(name, lane_of(cfg, tmp_path / name, outcome))
    while lockstep.step():
        pass
    assert all(isinstance(metrics, dict) for metrics in outcome.values()), outcome
    assert calls.count(2) == 6  # iterations, for three students; calls of 1 are the probes of their shapes


def test_a_failure_leaves_alone(tiny: Tiny, tmp_path: Path) -> None:
    base = tiny.load("distill", iters=4, val_interval=2)
    outcome: dict[str, Any] = {}
    lockstep = Lockstep()
    lockstep.join("good", lane_of(base, tmp_path / "good", outcome))
    bad = with_overrides(base, {"optim_wrapper.optimizer.lr": 1e30})
    lockstep.join("bad", lane_of(bad, tmp_path / "bad", outcome))
    while lockstep.step():
        pass
    assert isinstance(outcome["bad"], DivergedError) and outcome["good"]["iter"] == 4


def test_other_data_is_another_stream(tiny: Tiny, tmp_path: Path, state_equal: Equal) -> None:
    """Another seed of the data: served in turn, and still the run that it is alone."""
    cfg, outcome = tiny.load("distill", iters=2, val_interval=2), {}
    lockstep = Lockstep()
    for seed in (0, 1):
        lockstep.join(str(seed), lane_of(cfg, tmp_path / str(seed), outcome, seed=seed))
    while lockstep.step():
        pass
    for seed in (0, 1):
        train(cfg, tmp_path / f"alone{seed}", seed=seed, teacher_metrics=KNOWN)
        assert state_equal(weights(tmp_path / f"alone{seed}"), weights(tmp_path / str(seed)))


def test_the_hindmost_catches_up(tiny: Tiny, tmp_path: Path, state_equal: Equal) -> None:
    """After a crash, lanes resume from their own checkpoints, wherever those are."""

    class Cut(Silent):
        def validated(self, iteration: int, metrics: Mapping[str, Any]) -> None:
            raise KeyboardInterrupt

    cfg, outcome = tiny.load("distill", iters=6, val_interval=2), {}
    with pytest.raises(KeyboardInterrupt):
        train(cfg, tmp_path / "ahead", teacher_metrics=KNOWN, listener=Cut())
    lockstep = Lockstep()
    for name in ("ahead", "behind"):
        lockstep.join(name, lane_of(cfg, tmp_path / name, outcome, resume=True))
    while lockstep.step():
        pass
    assert {name: metrics["iter"] for name, metrics in outcome.items()} == {"ahead": 6, "behind": 6}
    assert state_equal(weights(tmp_path / "ahead"), weights(tmp_path / "behind"))

"""Runs in lockstep are the runs that they would be alone, to the last bit."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import Tiny
from mmengine.config import Config
from torch import Tensor

from rdistill.config.load import LoadedConfig, load_config, with_overrides
from rdistill.distill import teacher as teacher_module
from rdistill.sweeps.study.records import load_record
from rdistill.sweeps.study.spec import parse_sweep
from rdistill.sweeps.trial.trial import Study, run_trial
from rdistill.training.hooks import DivergedError, Silent
from rdistill.training.lockstep import Lane, Lockstep
from rdistill.training.run import train

pytestmark = pytest.mark.e2e  # whole runs

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


# Students with different losses, rates, architectures and first weights: one stream of data.
VALUES: dict[str, dict[str, Any]] = {
    "baseline": {},
    "kl": {"distill.losses.hidden": None, "distill.losses.logits.weight": 30.0},
    "mgd": {"distill.losses.hidden": {"type": "MGD", "pair": [0, 1]}, "randomness.init_seed": 5},
    "wide": {"model.decode_head.channels": 16, "optim_wrapper.optimizer.lr": 0.1},
    "late": {"distill.losses.hidden": None, "distill.losses.logits.weight": 30.0, "distill.losses.logits.tau": 2.0},
}


def variants(tiny: Tiny) -> dict[str, Config]:
    base = tiny.load("distill", iters=6, val_interval=3)
    configs = {name: with_overrides(base, values) for name, values in VALUES.items()}
    return configs | {"baseline": LoadedConfig.of(base).without_distillation().cfg}


def test_equal_to_the_last_bit(tiny: Tiny, tmp_path: Path, state_equal: Equal) -> None:
    """Four trials of a sweep, flips and dropout on; one is stopped early, one joins late.

    Each is then trained alone as `rdistill train DIR/trials/ID/trial.py` does it.
    """
    base = tiny.load("distill", iters=6, val_interval=3)
    assert base.model.decode_head.dropout_ratio > 0
    assert "RandomFlip" in {step["type"] for step in base.train_dataloader.dataset.pipeline}
    space = {"optim_wrapper.optimizer.lr": {"type": "choice", "values": [0.1]}}
    spec = parse_sweep({"config": "distill.py", "space": space, "search": {"type": "grid"}, "seed": 3}, "test")
    study, ended = Study(LoadedConfig.of(base), spec, str(tmp_path), KNOWN, False), []
    lockstep = Lockstep()

    def join(name: str) -> Lane:
        trial = {"id": name, "values": VALUES[name], "seed": 3}

        def run(lane: Lane) -> None:
            run_trial(study, trial, lambda report: None, lane)
            ended.append(name)

        return lockstep.join(name, run)

    lanes = {name: join(name) for name in VALUES if name != "late"}
    while lockstep.step():
        if lanes["kl"].iterations == 5 and "late" not in lanes:
            lanes["kl"].stopped = True
            lanes["late"] = join("late")
    assert sorted(ended) == ["baseline", "late", "mgd", "wide"]

    def alone(name: str) -> dict[str, Tensor]:
        cfg = load_config(tmp_path / "trials" / name / "trial.py")
        train(cfg, tmp_path / f"{name}-alone", seed=cfg.randomness.seed)
        return weights(tmp_path / f"{name}-alone")

    for name in ended:
        assert state_equal(alone(name), weights(tmp_path / "trials" / name)), name
    # The one that was stopped has what it had by then, and goes on from there by itself.
    stopped = tmp_path / "trials" / "kl"
    assert torch.load(stopped / "last.pth", weights_only=True)["meta"]["iter"] == 3
    train(load_config(stopped / "trial.py"), stopped, seed=3, resume=True, teacher_metrics=KNOWN)
    assert state_equal(alone("kl"), weights(stopped))
    # Another first weight is another student, and what each cost is written down.
    assert load_record(tmp_path / "trials" / "mgd").effective["randomness.init_seed"] == 5
    costs = {name: load_record(tmp_path / "trials" / name).cost for name in ended}
    assert costs["baseline"]["teacher_seconds"] == 0 < costs["wide"]["own_seconds"]
    assert costs["wide"]["teacher_seconds"] < costs["wide"]["teacher_alone_seconds"]


def test_one_forward_pass_of_the_teacher_for_all(tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []
    original = teacher_module.Teacher.__call__

    def counted(self: Any, inputs: Tensor) -> dict[str, Tensor]:
        calls.append(len(inputs))
        return original(self, inputs)

    monkeypatch.setattr(teacher_module.Teacher, "__call__", counted)
    configs = {name: cfg for name, cfg in variants(tiny).items() if name in ("kl", "mgd", "wide")}
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


def test_an_image_that_does_not_open(tiny: Tiny, tmp_path: Path) -> None:
    """Those who wait for its batch fail with it, and the lockstep goes on."""
    cfg, outcome = tiny.load("distill", iters=2, val_interval=2), {}
    data = shutil.copytree(tiny.data_root, tmp_path / "data")
    for image in (data / "img_dir" / "train").iterdir():
        image.write_bytes(b"")
    broken = tiny.load("distill", iters=2, val_interval=2, data_root=str(data))
    lockstep = Lockstep()
    for name, run_cfg in (("good", cfg), ("broken", broken)):
        lockstep.join(name, lane_of(run_cfg, tmp_path / name, outcome))
    while lockstep.step():
        pass
    assert outcome["good"]["iter"] == 2 and isinstance(outcome["broken"], Exception)

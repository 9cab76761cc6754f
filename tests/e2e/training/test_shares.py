"""Weights that are shares, in whole runs: measuring disturbs nothing, and the same weights come out everywhere."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import KillAt, Killed, Recorder, Tiny
from mmengine.config import Config
from torch import Tensor

from rdistill.training.lockstep import Lane, Lockstep
from rdistill.training.run import train

pytestmark = pytest.mark.e2e  # whole runs

InWorkers = Callable[[int, Callable[[int], Any]], list[Any]]
KNOWN: list[dict[str, Any]] = [{}]  # the teacher's scores are not what is tested
PARTS = ("state_dict", "optimizer", "workers")
# MGD draws random numbers, the memory of CIRKD and BatchNorm keep buffers: a disturbed step would show.
LOSSES = {
    "logits": {"type": "KL", "tau": 1.0},
    "masked": {"type": "MGD", "pair": (1, 1)},
    "memory": {"type": "CIRKDMemory", "pair": (1, 1), "pixel_queue_size": 64, "region_queue_size": 16},
}


def with_weights(weights: Mapping[str, Any]) -> dict[str, Any]:
    return {"distill.losses": {name: {**loss, "weight": weights[name]} for name, loss in LOSSES.items()}}


def shared(**share: Any) -> dict[str, Any]:
    return with_weights({name: {"share": {"value": 0.5, **share}} for name in LOSSES})


def checkpoint(folder: Path) -> dict[str, Any]:
    return torch.load(folder / "last.pth", weights_only=True)  # type: ignore[no-any-return]


def equal(left: Any, right: Any) -> bool:
    if isinstance(left, Tensor):
        return torch.equal(left, right)
    if isinstance(left, Mapping):
        return left.keys() == right.keys() and all(equal(left[key], right[key]) for key in left)
    if isinstance(left, (list, tuple)):
        return len(left) == len(right) and all(map(equal, left, right))
    return bool(left == right)


@pytest.mark.parametrize(
    "changes",
    [{}, {"+optim_wrapper.accumulative_counts": 4}, {"+activation_checkpointing": ["backbone"]}],
    ids=["plain", "accumulating", "checkpointed"],
)
def test_a_run_is_that_with_the_weights_that_came_out(tiny: Tiny, tmp_path: Path, changes: dict[str, Any]) -> None:
    """To the last bit: weights, the optimizer's state, random states, gradients that wait."""
    measured = train(tiny.load("distill", {**shared(batches=1), **changes}), tmp_path / "share", teacher_metrics=KNOWN)
    cfg = tiny.load("distill", {**with_weights(measured["weights"]), **changes})
    plain = train(cfg, tmp_path / "number", teacher_metrics=KNOWN)
    left, right = (checkpoint(tmp_path / name) for name in ("share", "number"))
    assert all(equal(left[part], right[part]) for part in PARTS)
    assert measured["IoU"] == plain["IoU"] and "weights" not in plain and "loss_weights" not in right
    assert {name: len(entries) for name, entries in measured["weights_measured"].items()} == dict.fromkeys(LOSSES, 1)


@pytest.mark.parametrize("share", [{"batches": 5}, {"batches": 2, "every": 3}], ids=["first", "again"])
def test_a_resumed_run_has_the_same_weights(tiny: Tiny, tmp_path: Path, share: dict[str, Any]) -> None:
    """Killed in the middle of a measurement, the first or the second: to the last bit as without."""
    cfg = tiny.load("distill", shared(**share))
    whole = train(cfg, tmp_path / "whole", teacher_metrics=KNOWN)
    with pytest.raises(Killed):
        train(cfg, tmp_path / "killed", teacher_metrics=KNOWN, listener=KillAt(4))
    state = checkpoint(tmp_path / "killed")["loss_weights"]["logits"]
    assert state["seen"] > 0 and state["weight"] != whole["weights"]["logits"]
    resumed = train(cfg, tmp_path / "killed", teacher_metrics=KNOWN, resume=True)
    assert {**resumed, "seconds": 0} == {**whole, "seconds": 0}
    left, right = (checkpoint(tmp_path / name) for name in ("whole", "killed"))
    assert all(equal(left[part], right[part]) for part in (*PARTS, "loss_weights"))


def test_in_a_cohort_and_alone(tiny: Tiny, tmp_path: Path) -> None:
    """Two students of other shares and losses that share a teacher: each as it is alone, to the last bit."""
    forward = {"distill.teachers.0.forward": {"fuse": True}}
    configs = {
        "a": tiny.load("distill", {**shared(batches=2, every=3), **forward}),
        "b": tiny.load("distill", {"distill.losses.hidden.weight": {"share": 0.1}, **forward}),
    }
    outcome: dict[str, Any] = {}

    def student(name: str, cfg: Config) -> Callable[[Lane], None]:
        def run(lane: Lane) -> None:
            outcome[name] = train(cfg, tmp_path / "cohort" / name, teacher_metrics=KNOWN, lane=lane, check=False)

        return run

    lockstep = Lockstep()
    for name, cfg in configs.items():
        lockstep.join(name, student(name, cfg))
    while lockstep.step():
        pass
    for name, cfg in configs.items():
        alone = train(cfg, tmp_path / "alone" / name, teacher_metrics=KNOWN, check=False)
        assert alone["weights"] == outcome[name]["weights"]
        assert alone["weights_measured"] == outcome[name]["weights_measured"]
        left, right = (checkpoint(tmp_path / where / name) for where in ("cohort", "alone"))
        assert all(equal(left[part], right[part]) for part in (*PARTS, "loss_weights"))


def test_two_workers_measure_together(tiny: Tiny, tmp_path: Path, in_workers: InWorkers) -> None:
    """Both have the weights of one worker with the whole batch, also of losses that look across it."""
    losses = {
        "logits": {"type": "KL", "weight": {"share": {"value": 0.5, "batches": 3}}},
        "across": {"type": "CIRKD", "pair": (1, 1), "weight": {"share": {"value": 0.5, "batches": 2, "every": 3}}},
        "statistics": {"type": "PKD", "pair": (1, 1), "weight": {"share": 0.5}},
    }
    norm = {"type": "GN", "num_groups": 2}
    changes = {
        "distill.losses": losses, "model.backbone.norm_cfg": norm, "model.decode_head.norm_cfg": norm,
        "model.decode_head.dropout_ratio": 0.0,
    }  # fmt: skip

    def run(name: str) -> dict[str, Any]:
        cfg = tiny.load("distill", changes, batch_size=4)
        return dict(train(cfg, tmp_path / name, teacher_metrics=KNOWN, check=False))

    expected = run("one")
    for metrics in (both := in_workers(2, lambda rank: run("two"))):
        assert metrics["weights"] == pytest.approx(expected["weights"], rel=1e-4)
    assert both[0]["weights"] == both[1]["weights"]  # equal to the last bit
    assert both[0]["weights_measured"] == both[1]["weights_measured"]


def test_it_is_recorded_and_shown(tiny: Tiny, tmp_path: Path) -> None:
    """In the log of every iteration, with each validation, in metrics.json and on the card."""

    class Notes(Recorder):
        def noted(self, text: str) -> None:
            notes.append(text)

    notes: list[str] = []
    listener = Notes([], [], [])
    overrides = {"distill.losses.logits.weight.share": {"value": 0.5, "batches": 2, "every": 4}}
    cfg = tiny.load("distill", {**overrides, "default_hooks.logger.interval": 1})
    metrics = train(cfg, tmp_path / "run", teacher_metrics=KNOWN, listener=listener)
    weight, (first, second) = metrics["weights"]["logits"], metrics["weights_measured"]["logits"]
    assert metrics["weights"].keys() == {"logits"} and weight == second["weight"] and second["iter"] == 6
    (note,) = (note for note in notes if "weight" in note)
    came_out = f"{first['weight']:.4g}"
    assert note == (
        f"distill.losses.logits: weight {came_out}, 0.5 of the task's gradient, measured in iterations 1 to 2"
    )
    assert [scores["weights"]["logits"] for _, scores in listener.validations] == [
        first["weight"], first["weight"], second["weight"],
    ]  # fmt: skip
    (file,) = (tmp_path / "run").glob("*/vis_data/scalars.json")
    logged = [entry["weight/logits"] for line in file.read_text().splitlines() if "loss" in (entry := json.loads(line))]
    assert len(logged) == 6 and logged[1] == pytest.approx(first["weight"]) and logged[5] == pytest.approx(weight)
    assert logged[1] == logged[2] == logged[3] == logged[4]
    assert json.loads((tmp_path / "run" / "metrics.json").read_text())["weights"] == metrics["weights"]
    card = (tmp_path / "run" / "model_card.md").read_text()
    again = "by the first 2 batches, again every 4 iterations"
    assert f"KL x {weight:.4g} (so that its gradient is 0.5 of the task's, {again}) on logits" in card

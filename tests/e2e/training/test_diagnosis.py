"""A diagnosis says what happened, and changes nothing of it."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import Recorder, Tiny
from torch import Tensor

from rdistill.training.lockstep import Lane, Lockstep
from rdistill.training.run import train

pytestmark = pytest.mark.e2e  # whole runs

# MGD draws random numbers, the memory of CIRKD and BatchNorm keep buffers: a pass that is not undone would show.
STATEFUL = {
    "distill.losses.masked": {"type": "MGD", "pair": (1, 1)},
    "distill.losses.memory": {"type": "CIRKDMemory", "pair": (1, 1), "pixel_queue_size": 64, "region_queue_size": 16},
}
PARTS = ("state_dict", "optimizer", "workers")


def checkpoint(folder: Path) -> dict[str, Any]:
    return torch.load(folder / "last.pth", weights_only=True)  # type: ignore[no-any-return]


def equal(one: Any, other: Any) -> bool:
    if isinstance(one, Tensor):
        return torch.equal(one, other)
    if isinstance(one, Mapping):
        return one.keys() == other.keys() and all(equal(one[key], other[key]) for key in one)
    if isinstance(one, (list, tuple)):
        return len(one) == len(other) and all(map(equal, one, other))
    return bool(one == other)


@pytest.mark.parametrize(
    "more", [STATEFUL, {"+optim_wrapper.accumulative_counts": 4}], ids=["stateful", "accumulating"]
)
def test_training_is_the_same_to_the_last_bit(
    tiny: Tiny, tmp_path: Path, recorder: Recorder, more: dict[str, Any]
) -> None:
    """Weights, the optimizer's state, random states, gradients that wait, and every score."""
    plain = train(tiny.load("distill", more), tmp_path / "plain")
    cfg = tiny.load("distill", {**more, "distill.diagnose": {"batches": 2}})
    diagnosed = train(cfg, tmp_path / "diagnosed", listener=recorder)
    one, other = (checkpoint(tmp_path / name) for name in ("plain", "diagnosed"))
    assert all(equal(one[part], other[part]) for part in PARTS)
    assert {key: plain[key] for key in ("mIoU", "IoU", "best_iter", "last")} == {
        key: diagnosed[key] for key in ("mIoU", "IoU", "best_iter", "last")
    }
    entries = json.loads((tmp_path / "diagnosed" / "diagnosis.json").read_text())["entries"]
    assert [entry["iter"] for entry in entries] == [2, 4, 6] and not any("problem" in entry for entry in entries)
    assert [metrics["diagnosis"]["iter"] for _, metrics in recorder.validations] == [2, 4, 6]
    assert diagnosed["diagnosis"] == entries[-1] and not (tmp_path / "plain" / "diagnosis.json").exists()
    last = entries[-1]
    assert 0 <= last["agreement"] <= 100 and last["gradient_task"] > 0 and last["gradient_distill"] > 0
    assert set(last["terms"]) == set(cfg.distill.losses)


def test_in_a_cohort_it_is_the_same_too(tiny: Tiny, tmp_path: Path) -> None:
    """Students that share a teacher and its answers: one is diagnosed, and neither is another one by it."""
    known: list[dict[str, Any]] = [{}]

    def student(name: str, overrides: dict[str, Any]) -> Callable[[Lane], None]:
        cfg = tiny.load("distill", {**overrides, "distill.teachers.0.forward": {"fuse": True}, "distill.cache": "on"})
        return lambda lane: train(cfg, tmp_path / name, teacher_metrics=known, lane=lane, check=False)  # type: ignore[func-returns-value, return-value]

    for where, overrides in (("plain", {}), ("diagnosed", {"distill.diagnose": {"batches": 1}})):
        lockstep = Lockstep()
        lanes = [lockstep.join(name, student(f"{where}-{name}", overrides if name == "a" else {})) for name in "ab"]
        while lockstep.step():
            pass
        assert all(lane.ended for lane in lanes)
    for name in "ab":
        one, other = (checkpoint(tmp_path / f"{where}-{name}") for where in ("plain", "diagnosed"))
        assert all(equal(one[part], other[part]) for part in PARTS)
    entries = json.loads((tmp_path / "diagnosed-a" / "diagnosis.json").read_text())["entries"]
    assert len(entries) == 3 and not any("problem" in entry for entry in entries)


def test_a_resumed_run_keeps_the_entries_before(tiny: Tiny, tmp_path: Path) -> None:
    cfg = tiny.load("distill", {"distill.diagnose": {"batches": 1}})

    class Killed(Recorder):
        def validated(self, iteration: int, metrics: Mapping[str, Any]) -> None:
            if iteration == 4:
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(cfg, tmp_path / "run", listener=Killed([], [], []))
    train(cfg, tmp_path / "run", resume=True)
    train(cfg, tmp_path / "whole")
    figures = []
    for name in ("run", "whole"):
        entries = json.loads((tmp_path / name / "diagnosis.json").read_text())["entries"]
        figures.append([{key: value for key, value in entry.items() if key != "seconds"} for entry in entries])
    assert figures[0] == figures[1] and len(figures[0]) == 3


def test_what_goes_wrong_does_not_end_the_training(tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from rdistill.training import diagnosis

    def fails(*_: Any) -> None:
        raise RuntimeError("CUDA out of memory")

    monkeypatch.setattr(diagnosis, "on_training", fails)
    train(tiny.load("distill"), tmp_path / "plain")
    metrics = train(tiny.load("distill", {"distill.diagnose": {}}), tmp_path / "run")
    assert metrics["diagnosis"]["problem"] == "RuntimeError: CUDA out of memory"
    one, other = (checkpoint(tmp_path / name) for name in ("plain", "run"))
    assert all(equal(one[part], other[part]) for part in PARTS)

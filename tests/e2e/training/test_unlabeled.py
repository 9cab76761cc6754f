"""Training beside images without masks: by data workers, on two workers, resumed, diagnosed and with a cache."""

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

pytestmark = pytest.mark.e2e
InWorkers = Callable[[int, Callable[[int], Any]], list[Any]]
KNOWN: list[Any] = [{}]  # the teacher is not scored
SECTION = {"img_dir": "img_dir/train", "share": 0.5, "weight": 0.5, "min_confidence": 0.6}
UNLABELED = {"+distill.unlabeled": SECTION, "+distill.on_ignored": True}
GROUP_NORM = {"type": "GN", "num_groups": 2}
# What depends on which images a worker has beside one another, or draws numbers of its own.
WITHOUT_BATCH_STATISTICS = {
    "model.backbone.norm_cfg": GROUP_NORM, "model.decode_head.norm_cfg": GROUP_NORM,
    "model.decode_head.dropout_ratio": 0.0, "default_hooks.logger.interval": 1,
}  # fmt: skip


def weights_in(folder: Path) -> dict[str, Tensor]:
    state: dict[str, Tensor] = torch.load(folder / "last.pth", weights_only=True)["state_dict"]
    return state


def equal(left: Mapping[str, Tensor], right: Mapping[str, Tensor]) -> bool:
    return left.keys() == right.keys() and all(torch.equal(value, right[name]) for name, value in left.items())


def test_data_workers_change_nothing(tiny: Tiny, tmp_path: Path) -> None:
    for workers in (0, 2):
        train(tiny.load("distill", UNLABELED, num_data_workers=workers), tmp_path / str(workers))
    assert equal(weights_in(tmp_path / "0"), weights_in(tmp_path / "2"))


def losses_and_weights(cfg: Config, folder: Path) -> tuple[list[Any], dict[str, Tensor]]:
    recorder = Recorder([], [], [])
    train(cfg, folder, listener=recorder, teacher_metrics=KNOWN, check=False)
    return recorder.steps, weights_in(folder)


@pytest.mark.parametrize("labels", ["data", "teacher"])
def test_two_workers_have_the_numbers_of_one(tiny: Tiny, in_workers: InWorkers, tmp_path: Path, labels: str) -> None:
    """But for rounding, where nothing normalises over the images that a worker happens to have."""
    overrides = {**UNLABELED, **WITHOUT_BATCH_STATISTICS, "+distill.labels": labels}
    cfg = tiny.load("distill", overrides, iters=3, batch_size=4, val_interval=3)
    single, weights = losses_and_weights(cfg, tmp_path / "one")
    (two, weights_of_two), _ = in_workers(2, lambda rank: losses_and_weights(cfg, tmp_path / "two"))
    for (_, values), (_, same) in zip(single, two, strict=True):
        assert values == pytest.approx(same, rel=1e-5, abs=1e-5)
    assert max(float((value - weights_of_two[name]).abs().max()) for name, value in weights.items()) < 1e-5


def test_a_resumed_run_has_the_same_weights(tiny: Tiny, tmp_path: Path) -> None:
    """Killed in the middle; its diagnosis has looked at images of both kinds meanwhile, and changed nothing."""
    cfg = tiny.load("distill", {**UNLABELED, "+distill.diagnose": {"batches": 1}}, iters=4)
    with pytest.raises(Killed):
        train(cfg, tmp_path / "killed", teacher_metrics=KNOWN, listener=KillAt(2))
    train(cfg, tmp_path / "killed", teacher_metrics=KNOWN, resume=True)
    entries = json.loads((tmp_path / "killed" / "diagnosis.json").read_text())["entries"]
    assert [entry["iter"] for entry in entries] == [2, 4] and not any("problem" in entry for entry in entries)
    assert all(entry["gradient_distill"] > 0 for entry in entries)
    train(tiny.load("distill", UNLABELED, iters=4), tmp_path / "whole", teacher_metrics=KNOWN)
    assert equal(weights_in(tmp_path / "whole"), weights_in(tmp_path / "killed"))


def test_the_cache_remembers_images_without_masks(tiny: Tiny, tmp_path: Path) -> None:
    """On a second run all of them are known; the numbers stay."""
    cached = {**UNLABELED, "+distill.cache": {"mode": "on", "dir": str(tmp_path / "cache")}}
    for name in ("first", "second"):
        metrics = train(tiny.load("distill", cached, iters=4), tmp_path / name, teacher_metrics=KNOWN)
        assert metrics["teacher_cache"]["images"] == 4 * (2 + 2)
    assert metrics["teacher_cache"]["hit_rate"] == 1.0
    assert equal(weights_in(tmp_path / "first"), weights_in(tmp_path / "second"))


def test_a_cohort_with_a_store_has_the_numbers_of_runs_alone_without_one(tiny: Tiny, tmp_path: Path) -> None:
    """Views of both kinds of images, shared by two students; a third run finds all of them."""
    store = {"+distill.store": {"views": 2, "bits": 32, "dir": str(tmp_path / "store")}}
    half = {"distill.losses.logits.weight": 1.5}
    shared = {**UNLABELED, "distill.losses.hidden": None}

    def config(more: Mapping[str, Any], keep: str) -> Config:
        kept = {"+distill.store": {**store["+distill.store"], "keep": keep}}
        return tiny.load("distill", {**shared, **kept, **more}, iters=4, val_interval=4)

    lockstep = Lockstep()
    for name, more in (("a", {}), ("b", half)):

        def run(lane: Lane, name: str = name, more: Mapping[str, Any] = more) -> None:
            train(config(more, "logits"), tmp_path / name, teacher_metrics=KNOWN, check=False, lane=lane)

        lockstep.join(name, run)
    while lockstep.step():
        pass
    for name, more in (("a", {}), ("b", half)):
        alone = tmp_path / f"{name}-alone"
        train(config(more, "nothing"), alone, teacher_metrics=KNOWN, check=False)
        assert equal(weights_in(tmp_path / name), weights_in(alone)), name
    assert not equal(weights_in(tmp_path / "a"), weights_in(tmp_path / "b"))
    again = train(config({}, "logits"), tmp_path / "again", teacher_metrics=KNOWN, check=False)["teacher_store"]
    assert (again["images"], again["computed"]) == (4 * (2 + 2), 0)

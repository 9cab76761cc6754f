"""Turns, batches and times of lanes in lockstep; whole runs are in tests/e2e/training/test_lockstep.py."""

from __future__ import annotations

import random
from collections.abc import Callable
from itertools import chain
from typing import Any

import pytest
import torch
from conftest import Tiny
from mmengine.config import Config

from rdistill.training import lockstep as lockstep_module
from rdistill.training.lockstep import Lane, Lockstep
from rdistill.training.runner import prepare_config

Batches = Callable[..., list[dict[str, Any]]]
Same = Callable[[list[dict[str, Any]], list[dict[str, Any]]], bool]


@pytest.fixture
def cfg(tiny: Tiny, tmp_path: Any) -> Config:
    return prepare_config(tiny.load("student"), tmp_path, 0, None)


def reader(cfg: Config, count: int, read: list[Any], spoil: bool = False, start: int = 0) -> Callable[[Lane], None]:
    """A run that takes some training batches, and may write into them as mmseg's preprocessing does."""

    def run(lane: Lane) -> None:
        train, _ = lane.loaders(cfg)
        train.skip(start * train.batch_size)
        for number, batch in enumerate(train):
            read.append([image.clone() for image in batch["inputs"]])
            if spoil:
                for image in batch["inputs"]:
                    image.zero_()
                for sample in batch["data_samples"]:
                    sample.gt_sem_seg.data.zero_()
            if number == count - 1:
                return

    return run


def run_all(lockstep: Lockstep) -> None:
    while lockstep.step():
        pass


def equal(first: list[Any], second: list[Any]) -> bool:
    pairs = zip(chain.from_iterable(first), chain.from_iterable(second), strict=True)
    return len(first) == len(second) and all(torch.equal(a, b) for a, b in pairs)


def test_what_a_lane_does_to_its_batch_no_other_sees(cfg: Config, tiny: Tiny, stream_batches: Batches) -> None:
    """Each has a batch of its own, whoever comes first or last; all are those of a run alone."""
    read: dict[str, list[Any]] = {name: [] for name in "abc"}
    lockstep = Lockstep()
    for name in read:
        lockstep.join(name, reader(cfg, 3, read[name], spoil=True))
    run_all(lockstep)
    alone = [batch["inputs"] for batch in stream_batches(tiny.load("student"), 3)]
    assert all(image.any() for batch in alone for image in batch)
    for name in read:
        assert equal(read[name], alone), name


def test_the_lane_that_is_behind_comes_first(cfg: Config) -> None:
    """One that starts at batch 0 catches up with one at batch 2, and from there both share what is loaded."""
    ahead: list[Any] = []
    behind: list[Any] = []
    lockstep = Lockstep()
    lockstep.join("ahead", reader(cfg, 2, ahead, start=2))
    lockstep.join("behind", reader(cfg, 4, behind))
    lockstep.step()
    lockstep.step()
    assert (len(ahead), len(behind)) == (0, 2)
    run_all(lockstep)
    assert equal(ahead, behind[2:])


def test_loading_is_shared_out_among_those_that_waited(cfg: Config) -> None:
    lockstep = Lockstep()
    lanes = [lockstep.join(name, reader(cfg, 2, [])) for name in "ab"]
    run_all(lockstep)
    for lane in lanes:
        seconds = lane.seconds()
        assert seconds["data_seconds"] == pytest.approx(seconds["data_alone_seconds"] / 2)
        assert seconds["data_alone_seconds"] > 0 and seconds["teacher_seconds"] == 0


def test_each_has_random_numbers_of_its_own(cfg: Config) -> None:
    """Whatever another draws between two turns."""
    drawn: dict[str, list[float]] = {"greedy": [], "modest": []}

    def drawing(name: str, count: int) -> Callable[[Lane], None]:
        def run(lane: Lane) -> None:
            random.seed(1)
            torch.manual_seed(1)
            for number, _ in enumerate(lane.loaders(cfg)[0]):
                drawn[name] += [random.random() + float(torch.rand(())) for _ in range(count)]
                if number == 2:
                    return

        return run

    lockstep = Lockstep()
    lockstep.join("greedy", drawing("greedy", 5))
    lockstep.join("modest", drawing("modest", 1))
    run_all(lockstep)
    assert drawn["greedy"][:3] == drawn["modest"]


def test_a_stopped_lane_ends_and_the_other_goes_on(cfg: Config) -> None:
    read: dict[str, list[Any]] = {name: [] for name in "ab"}
    lockstep = Lockstep()
    lanes = {name: lockstep.join(name, reader(cfg, 4, read[name])) for name in read}
    lockstep.step()
    lanes["a"].stopped = True
    run_all(lockstep)
    assert (len(read["a"]), len(read["b"])) == (1, 4) and all(lane.ended for lane in lanes.values())


def test_what_must_end_the_process_is_raised(cfg: Config) -> None:
    def run(lane: Lane) -> None:
        lane.loaders(cfg)
        lane.broken = RuntimeError("the device is gone")

    lockstep = Lockstep()
    lockstep.join("a", run)
    with pytest.raises(RuntimeError, match="the device is gone"):
        lockstep.step()


def test_where_a_run_stands_orders_validation_before_the_next_batch() -> None:
    assert (3, lockstep_module.VALIDATION, 9) < (3, lockstep_module.TRAINING, 0) < (4, lockstep_module.VALIDATION, 0)

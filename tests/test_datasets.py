"""The one data stream: draw i of a run depends on (seed, i) alone, however many processes share the work."""

from __future__ import annotations

import random
from collections.abc import Callable
from itertools import islice
from typing import Any

import numpy as np
import pytest
import torch
from conftest import NUM_TRAIN, Tiny
from mmengine.config import Config
from torch import Tensor

from rdistill.data.datasets import StreamDataset, StreamSampler, random_state_of

Batches = Callable[..., list[dict[str, Any]]]
Same = Callable[[list[dict[str, Any]], list[dict[str, Any]]], bool]


@pytest.fixture(scope="module")
def cfg(tiny_without_teacher: Tiny) -> Config:
    """Data whose every draw differs: random crops and flips."""
    cfg = tiny_without_teacher.load("student")
    pipeline = cfg.train_dataloader.dataset.pipeline
    pipeline.insert(3, dict(type="RandomCrop", crop_size=(24, 24)))
    pipeline.insert(4, dict(type="PhotoMetricDistortion"))
    return cfg


def sampler(size: int = 5, rank: int = 0, world_size: int = 1, **options: Any) -> StreamSampler:
    stream = StreamSampler(range(size), **{"seed": 0, **options})  # type: ignore[arg-type]
    stream.rank, stream.world_size = rank, world_size
    return stream


def image_and_mask(item: dict[str, Any]) -> tuple[Tensor, Tensor]:
    return item["inputs"], item["data_samples"].gt_sem_seg.data


# ---------------------------------------------------------------------------------------------------------
# The order


def test_every_pass_is_another_permutation() -> None:
    draws = list(islice(sampler(), 20))
    assert [draw for draw, _ in draws] == list(range(20))
    passes = [tuple(index for _, index in draws[k : k + 5]) for k in range(0, 20, 5)]
    assert all(sorted(one) == list(range(5)) for one in passes) and len(set(passes)) > 1
    assert [index for _, index in islice(sampler(shuffle=False), 7)] == [0, 1, 2, 3, 4, 0, 1]
    assert list(islice(sampler(seed=1), 20)) != draws


@pytest.mark.parametrize("world_size", [2, 3])
def test_workers_share_one_order(world_size: int) -> None:
    single = list(islice(sampler(), 6 * world_size))
    ranks = [list(islice(sampler(rank=rank, world_size=world_size), 6)) for rank in range(world_size)]
    assert [draw for step in zip(*ranks, strict=True) for draw in step] == single


def test_skip() -> None:
    for rank, world_size in ((0, 1), (1, 2)):
        whole, resumed = (sampler(rank=rank, world_size=world_size) for _ in range(2))
        resumed.skip(7)
        assert list(islice(resumed, 8)) == list(islice(whole, 15))[7:]


@pytest.mark.parametrize("world_size", [1, 2])
def test_epochs_end_and_go_on(world_size: int) -> None:
    ranks = [sampler(rank=rank, world_size=world_size, epochs=True) for rank in range(world_size)]
    draws = []
    for epoch in range(3):
        for rank in ranks:
            rank.set_epoch(epoch)
        parts = [list(rank) for rank in ranks]
        assert all(len(part) == len(ranks[0]) == -(-5 // world_size) for part in parts)
        draws += [draw for step in zip(*parts, strict=True) for draw in step]
    assert draws == list(islice(sampler(), len(draws)))


# ---------------------------------------------------------------------------------------------------------
# The batches


def test_data_workers_change_nothing(cfg: Config, stream_batches: Batches, same_batches: Same) -> None:
    alone, helped = stream_batches(cfg, 7), stream_batches(cfg, 7, data_workers=2)
    assert same_batches(alone, helped)
    assert not same_batches(alone, stream_batches(cfg, 7, seed=1))
    assert same_batches(alone[5:], stream_batches(cfg, 2, skip=10))


def test_global_random_state_changes_nothing(cfg: Config, stream_batches: Batches, same_batches: Same) -> None:
    first = stream_batches(cfg, 3)
    random.seed(9), np.random.seed(9), torch.manual_seed(9)
    assert same_batches(first, stream_batches(cfg, 3))


def test_training_workers_change_nothing(cfg: Config) -> None:
    """Two workers' halves of each batch make up the batch of one, to the last bit."""
    dataset = StreamDataset(cfg.train_dataloader.dataset.to_dict(), seed=0)
    dataset.full_init()
    steps, batch = 4, 4
    single = [image_and_mask(dataset[key]) for key in islice(sampler(NUM_TRAIN), steps * batch)]
    shares = [islice(sampler(NUM_TRAIN, rank=rank, world_size=2), steps * batch // 2) for rank in range(2)]
    workers = [[image_and_mask(dataset[key]) for key in share] for share in shares]
    for step in range(steps):
        whole = single[step * batch : (step + 1) * batch]
        halves = [worker[step * batch // 2 : (step + 1) * batch // 2] for worker in workers]
        union = [item for pair in zip(*halves, strict=True) for item in pair]
        assert all(
            torch.equal(a, b) for one, other in zip(whole, union, strict=True) for a, b in zip(one, other, strict=True)
        )


def test_a_draw_is_augmented_by_its_number(cfg: Config) -> None:
    dataset = StreamDataset(cfg.train_dataloader.dataset.to_dict(), seed=0)
    assert len(dataset) == NUM_TRAIN and dataset.metainfo["classes"] == ("background", "optic disc")
    first, again, other = (image_and_mask(dataset[draw, 2])[0] for draw in (5, 5, 11))
    assert torch.equal(first, again) and not torch.equal(first, other)
    assert not torch.equal(image_and_mask(StreamDataset(dataset.dataset, seed=1)[5, 2])[0], first)


def test_flips_come_in_both_kinds(tiny_without_teacher: Tiny) -> None:
    dataset = StreamDataset(tiny_without_teacher.load("student").train_dataloader.dataset.to_dict(), seed=0)
    flips = [bool(dataset[draw, 0]["data_samples"].flip) for draw in range(16)]
    assert 3 < sum(flips) < 13


def test_drawing_leaves_the_global_random_states_alone(cfg: Config) -> None:
    dataset = StreamDataset(cfg.train_dataloader.dataset.to_dict(), seed=0)

    def numbers() -> tuple[float, float, float]:
        return random.random(), float(np.random.rand()), float(torch.rand(()))

    def seed() -> None:
        random.seed(3), np.random.seed(3), torch.manual_seed(3)

    seed()
    expected = [numbers(), numbers()]
    seed()
    found = [numbers()]
    dataset[0, 0]
    found.append(numbers())
    assert found == expected
    seed()
    with pytest.raises(KeyError), random_state_of(1, 2):
        numbers()
        raise KeyError
    assert numbers() == expected[0]

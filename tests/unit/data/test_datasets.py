"""The one data stream: draw i of a run depends on (seed, i) alone, however many processes share the work."""

from __future__ import annotations

import random
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import NUM_TRAIN, Tiny
from mmengine.config import Config
from mmengine.dataset import Compose
from mmengine.registry import init_default_scope
from PIL import Image
from torch import Tensor

from rdistill.core.errors import UserError
from rdistill.data.datasets import PaddleSegDataset, StreamDataset, StreamSampler, SubsetDataset
from rdistill.data.random_state import random_state_of

Batches = Callable[..., list[dict[str, Any]]]
Same = Callable[[list[dict[str, Any]], list[dict[str, Any]]], bool]


@pytest.fixture(autouse=True, scope="module")
def _scope() -> None:
    """mmseg's names are found, also where this file runs by itself: in a run mmengine's Runner sees to it."""
    init_default_scope("mmseg")


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
    assert all(sorted(numbers) == list(range(5)) for numbers in passes) and len(set(passes)) > 1
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
            torch.equal(a, b)
            for left, right in zip(whole, union, strict=True)
            for a, b in zip(left, right, strict=True)
        )


def test_a_draw_is_augmented_by_its_number(cfg: Config) -> None:
    dataset = StreamDataset(cfg.train_dataloader.dataset.to_dict(), seed=0)
    assert len(dataset) == NUM_TRAIN and dataset.metainfo["classes"] == ("background", "optic disc")
    first, again, third = (image_and_mask(dataset[draw, 2])[0] for draw in (5, 5, 11))
    assert torch.equal(first, again) and not torch.equal(first, third)
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
    actual = [numbers()]
    dataset[0, 0]
    actual.append(numbers())
    assert actual == expected
    seed()
    with pytest.raises(KeyError), random_state_of(1, 2):
        numbers()
        raise KeyError
    assert numbers() == expected[0]


# ---------------------------------------------------------------------------------------------------------
# PaddleSeg's lists


def paddle(root: Path, text: str | bytes, **options: Any) -> list[tuple[str, str]]:
    """The pairs of a list, relative to the root."""
    (root / "list.txt").write_bytes(text if isinstance(text, bytes) else text.encode())
    dataset = PaddleSegDataset(
        data_root=str(root), ann_file="list.txt", metainfo=dict(classes=("a", "b")), lazy_init=True, **options
    )
    entries = dataset.load_data_list()
    return [tuple(str(Path(e[key]).relative_to(root)) for key in ("img_path", "seg_map_path")) for e in entries]


@pytest.mark.parametrize(
    "line",
    [
        "img/a.jpg ann/a.png",
        "  img/a.jpg   ann/a.png  ",
        "img/a.jpg\tann/a.png",
        "img/a.jpg,ann/a.png",
        "img/a.jpg, ann/a.png",
        "img/a.jpg|ann/a.png",
        "img/a.jpg | ann/a.png",
        "img\\a.jpg\tann\\a.png",
        "./img/a.jpg ./ann/a.png\r",
    ],
)
def test_paddleseg_separators(tmp_path: Path, line: str) -> None:
    for name in ("img/a.jpg", "ann/a.png"):  # where two readings are possible, the files decide
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    wanted = [("img/a.jpg", "ann/a.png")]
    assert paddle(tmp_path, f"{line}\n\n") == wanted
    assert paddle(tmp_path, b"\xef\xbb\xbf" + line.encode()) == wanted
    assert paddle(tmp_path, line.encode("utf-16")) == wanted


@pytest.mark.parametrize(
    ("image", "mask", "separator"),
    [
        ("my images/a b.jpg", "my masks/a b.png", "\t"),
        ("my images/a b.jpg", "my masks/a b.png", " "),
        ("my images/a b.jpg", "my masks/a b.png", ","),
        ("a,b.jpg", "a,b.png", " "),
        ("a,b.jpg", "a,b.png", "|"),
    ],
)
def test_paddleseg_names_that_hold_a_separator(tmp_path: Path, image: str, mask: str, separator: str) -> None:
    for name in (image, mask):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    assert paddle(tmp_path, f"{image}{separator}{mask}\n") == [(image, mask)]


def test_paddleseg_separator_of_the_config(tmp_path: Path) -> None:
    assert paddle(tmp_path, "a,b.jpg;a b.png", separator=";") == [("a,b.jpg", "a b.png")]


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("a.jpg a.png\nonly-one\n", "list.txt:2: must be `IMAGE MASK`, got 'only-one'; put a tab between the two"),
        ("a b.jpg a b.png\n", "list.txt:1: must be `IMAGE MASK`"),
        ("a.jpg a.png\nb\0.jpg b.png\n", "list.txt:2: contains a NUL byte"),
        (b"a.jpg a.png\n\xff\x00.jpg b.png", "list.txt:2: is not text in UTF-8"),
    ],
)
def test_paddleseg_lists_that_cannot_be_read(tmp_path: Path, text: str | bytes, problem: str) -> None:
    with pytest.raises(UserError) as error:
        paddle(tmp_path, text)
    assert problem in str(error.value)


# ---------------------------------------------------------------------------------------------------------
# Label maps


def test_map_labels_is_applied_by_mmsegs_loader(tmp_path: Path) -> None:
    Image.fromarray(np.array([[0, 255], [7, 1]], np.uint8)).save(tmp_path / "m.png")
    steps = Compose([dict(type="MapLabels", label_map=[[255, 1], [7, 0], [1, 255]]), dict(type="LoadAnnotations")])
    entry = dict(seg_map_path=str(tmp_path / "m.png"), seg_fields=[], reduce_zero_label=False, label_map=None)
    assert steps(dict(entry))["gt_seg_map"].tolist() == [[0, 1], [0, 255]]
    # The dataset's own map, from the classes that are wanted, follows.
    assert steps({**entry, "seg_fields": [], "label_map": {0: 5, 1: 6}})["gt_seg_map"].tolist() == [[5, 6], [5, 255]]
    with pytest.raises(UserError, match="exclude each other"):
        steps({**entry, "seg_fields": [], "reduce_zero_label": True})


def test_a_subset_is_a_part_by_chance_and_the_same_again(cfg: Config) -> None:
    whole = {**cfg.train_dataloader.dataset.to_dict(), "serialize_data": False}  # or mmengine collects garbage 24 times
    subset = SubsetDataset(dict(whole), 0.5, seed=1)
    assert len(subset) == NUM_TRAIN // 2 and subset.metainfo["classes"] == ("background", "optic disc")
    assert subset.indices == SubsetDataset(dict(whole), 0.5, seed=1).indices
    assert set(subset.indices) < set(SubsetDataset(dict(whole), 0.9, seed=1).indices)
    chosen = {tuple(SubsetDataset(dict(whole), 0.5, seed=seed).indices) for seed in range(20)}
    assert len(chosen) > 5  # 20 were drawn
    paths = [subset.get_data_info(index)["img_path"] for index in range(len(subset))]
    assert paths == [subset.dataset.get_data_info(index)["img_path"] for index in subset.indices]
    with random_state_of(0):
        assert [subset[index]["data_samples"].img_path for index in range(len(subset))] == paths


def test_a_subset_of_nothing_is_refused(cfg: Config) -> None:
    with pytest.raises(UserError, match=r"SubsetDataset\.share: must be above 0 and at most 1, got 0"):
        SubsetDataset(cfg.train_dataloader.dataset.to_dict(), 0)
    assert len(SubsetDataset(cfg.train_dataloader.dataset.to_dict(), 0.001)) == 1

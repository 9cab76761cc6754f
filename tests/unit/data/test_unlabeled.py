"""Images without masks in the stream: draws of their own, pixels of the image apart from padding."""

from __future__ import annotations

from itertools import islice
from pathlib import Path
from typing import Any

import torch
from conftest import NUM_TRAIN, Tiny
from mmengine.runner import Runner

from rdistill.config.load import LoadedConfig
from rdistill.data.datasets import StreamSampler
from rdistill.data.unlabeled import MARK, NO_LABEL, count_images, describe_images
from rdistill.training.runner import prepare_config

PER_BATCH = {"+distill.unlabeled": {"img_dir": "img_dir/train", "per_batch": 3}}


class _Sized:
    without_labels = 5

    def __len__(self) -> int:
        return 4


def test_the_labelled_draws_are_those_of_a_run_without() -> None:
    alone = list(islice(StreamSampler(_Sized(), 0), 8))  # type: ignore[arg-type]
    both = list(islice(StreamSampler(_Sized(), 0, labeled=2, unlabeled=1), 12))  # type: ignore[arg-type]
    assert [key for key in both if key[1] < 4] == alone
    unlabeled = [key for key in both if key[1] >= 4]
    assert [draw for draw, _ in unlabeled] == [0, 1, 2, 3] and len({index for _, index in unlabeled}) == 4
    resumed = StreamSampler(_Sized(), 0, labeled=2, unlabeled=1)  # type: ignore[arg-type]
    resumed.skip(6)
    assert list(islice(resumed, 6)) == both[6:]


def batches_of(tiny: Tiny, folder: Path, overrides: dict[str, Any]) -> Any:
    cfg = prepare_config(tiny.load("distill", overrides), folder, 0, None)
    return next(iter(Runner.build_dataloader(cfg.train_dataloader, seed=0)))


def test_a_batch_has_both_kinds(tiny: Tiny, tmp_path: Path) -> None:
    batch = batches_of(tiny, tmp_path, PER_BATCH)
    alone = batches_of(tiny, tmp_path, {})
    assert [bool(sample.get(MARK)) for sample in batch["data_samples"]] == [False, False, True, True, True]
    assert all(torch.equal(left, right) for left, right in zip(alone["inputs"], batch["inputs"], strict=False))
    assert all((sample.gt_sem_seg.data == NO_LABEL).all() for sample in batch["data_samples"][2:])
    assert NUM_TRAIN == 6


def test_the_images_of_each_kind(tiny: Tiny) -> None:
    run = LoadedConfig.of(tiny.load("distill", PER_BATCH))
    assert count_images(run) == {"training": 6, "validation": 3, "without_masks": 6}
    assert describe_images(run) == (
        "6 training and 3 validation images, 6 images without masks, 3 beside 2 labelled ones in each batch"
    )
    plain = LoadedConfig.of(tiny.load("distill"))
    assert count_images(plain) == {"training": 6, "validation": 3} and describe_images(plain) == ""

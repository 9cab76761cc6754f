"""Whole runs on two workers, with half a batch each, against one with all of it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import Recorder, Tiny
from mmengine.config import Config
from torch import Tensor

from rdistill.core.errors import UserError
from rdistill.models.segmentor import build_segmentor
from rdistill.training.evaluation import evaluate, split_validation_images, use_class_iou
from rdistill.training.run import train

InWorkers = Callable[[int, Callable[[int], Any]], list[Any]]


@pytest.mark.e2e
def test_scores_are_exact_on_any_number_of_workers(tiny: Tiny, in_workers: InWorkers) -> None:
    """Three validation pictures on two and on four workers, of whom one has none: no picture counts twice."""
    cfg = tiny.load("student")
    use_class_iou(cfg)
    torch.manual_seed(3)
    model = build_segmentor(cfg.model)
    model.init_weights()
    expected = evaluate(model, cfg)

    def score(rank: int) -> dict[str, Any]:
        shared = tiny.load("student")
        use_class_iou(shared)
        split_validation_images(shared)
        return evaluate(model, shared)

    assert 0 < expected["mIoU"] < 100
    for count in (2, 4):
        assert in_workers(count, score) == [expected] * count


GROUP_NORM = {"type": "GN", "num_groups": 2}

WITHOUT_BATCH_STATISTICS = {
    "model.backbone.norm_cfg": GROUP_NORM, "model.decode_head.norm_cfg": GROUP_NORM,
    "model.decode_head.dropout_ratio": 0.0, "default_hooks.logger.interval": 1,
}  # fmt: skip


def losses_and_weights(cfg: Config, folder: Path) -> tuple[list[Any], dict[str, Tensor]]:
    """Of a whole run: its losses every ten iterations, and its last weights."""
    recorder = Recorder([], [], [])
    train(cfg, folder, listener=recorder, teacher_metrics=[{}], check=False)
    return recorder.steps, torch.load(folder / "last.pth", weights_only=True)["state_dict"]


def apart(left: dict[str, Tensor], right: dict[str, Tensor]) -> float:
    assert left.keys() == right.keys()
    return max(float((left[key].double() - value.double()).abs().max()) for key, value in right.items())


@pytest.mark.e2e
def test_twenty_iterations_on_one_worker_and_on_two(tiny: Tiny, in_workers: InWorkers, tmp_path: Path) -> None:
    """Every logged loss of every iteration within 1e-5; class weights, three kinds of distillation losses, adapters."""
    losses = {
        "+distill.losses.relations": dict(type="CIRKD", pair=(1, 1), weight=1.0),
        "+distill.losses.standard": dict(type="PKD", pair=(0, 0), weight=1.0),
    }
    cfg = tiny.load("distill", {**WITHOUT_BATCH_STATISTICS, **losses}, iters=20, batch_size=4, val_interval=20)
    assert cfg.model.decode_head.loss_decode.class_weight

    single, weights = losses_and_weights(cfg, tmp_path / "one")
    (two, weights_of_two), _ = in_workers(2, lambda rank: losses_and_weights(cfg, tmp_path / "two"))
    assert [iteration for iteration, _ in single] == [iteration for iteration, _ in two] == [10, 20]
    for (_, values), (_, same) in zip(single, two, strict=True):
        assert values == pytest.approx(same, rel=1e-5, abs=1e-5)
    assert apart(weights, weights_of_two) < 1e-5


@pytest.mark.e2e
def test_a_stage_that_nothing_uses(tiny: Tiny, in_workers: InWorkers, tmp_path: Path) -> None:
    """Said before the start; with mmengine's key, two workers train as one does, and the stage stays as it began."""
    channels = tiny.load("student").model.decode_head.in_channels // 2
    unused = {"model.decode_head.in_index": 2, "model.decode_head.in_channels": channels, **WITHOUT_BATCH_STATISTICS}

    def refused(rank: int) -> str:
        try:
            train(tiny.load("student", unused, batch_size=4), tmp_path / "refused")
        except UserError as error:
            return str(error)
        return ""

    for message in in_workers(2, refused):
        assert "student.backbone.layer4" in message and "or set find_unused_parameters=True" in message
    cfg = tiny.load("student", {**unused, "+find_unused_parameters": True}, batch_size=4)
    single, weights = losses_and_weights(cfg, tmp_path / "one")
    (two, weights_of_two), _ = in_workers(2, lambda rank: losses_and_weights(cfg, tmp_path / "two"))
    for (_, losses), (_, same) in zip(single, two, strict=True):
        assert losses == pytest.approx(same, rel=1e-5, abs=1e-5)
    assert apart(weights, weights_of_two) < 1e-5


ACCUMULATED = {"+optim_wrapper.accumulative_counts": 2}

CHECKPOINTED = {"+activation_checkpointing": ["backbone"]}

AMP = {"optim_wrapper.type": "AmpOptimWrapper", "+optim_wrapper.dtype": "bfloat16"}


@pytest.mark.e2e
@pytest.mark.parametrize(
    ("mode", "bound"),
    [
        ({**ACCUMULATED, **CHECKPOINTED}, 1e-5),
        # Each worker rounds its own share of a gradient to eight bits before the sum.
        ({**ACCUMULATED, **CHECKPOINTED, **AMP}, 2e-2),
    ],
    ids=["accumulated and checkpointed", "in bfloat16 too"],
)
def test_modes_of_training_on_two_workers(
    tiny: Tiny, in_workers: InWorkers, tmp_path: Path, mode: dict[str, Any], bound: float
) -> None:
    def weights(name: str, mode: dict[str, Any]) -> dict[str, Tensor]:
        cfg = tiny.load("distill", {**WITHOUT_BATCH_STATISTICS, **mode}, batch_size=4, val_interval=6)
        return losses_and_weights(cfg, tmp_path / name)[1]

    single = weights("one", mode)
    two, _ = in_workers(2, lambda rank: weights("two", mode))
    assert apart(single, two) < bound
    assert apart(single, weights("without", {})) > 1e-4  # they were on

"""Two workers with half a batch each against one with all of it: losses, gradients, scores, whole runs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import Recorder, Tiny
from mmengine.config import Config
from torch import Tensor, nn

from rdistill.core.errors import UserError
from rdistill.distributed import collectives
from rdistill.losses import LOSSES
from rdistill.losses.modules import Term
from rdistill.models.quiet_mmseg import CrossEntropyLoss
from rdistill.models.segmentor import build_segmentor
from rdistill.models.task_loss import average_over_workers
from rdistill.training.evaluation import ClassIoUMetric, evaluate, no_image_twice, use_class_iou
from rdistill.training.run import train

InWorkers = Callable[[int, Callable[[int], Any]], list[Any]]
PICTURES, CLASSES, SIZE = 4, 3, 8
# What two workers cannot compute as one would, by what the loss is: each draws its own random numbers.
OWN_RANDOM_NUMBERS = {"MGD": {"mask_ratio": 0.0}, "CIRKDMemory": None}
CASES = [
    (name, on, OWN_RANDOM_NUMBERS.get(name, {}))
    for name, loss in LOSSES.items()
    for on in loss.on
    if OWN_RANDOM_NUMBERS.get(name, {}) is not None
]


def batch() -> tuple[Tensor, Tensor, Tensor]:
    """A student's and a teacher's tensor and a label; the pictures differ in how much of them is ignored."""
    generator = torch.Generator().manual_seed(0)
    student, teacher = (torch.randn(PICTURES, CLASSES, SIZE, SIZE, generator=generator) for _ in range(2))
    label = torch.randint(0, CLASSES, (PICTURES, SIZE, SIZE), generator=generator)
    label[0] = 255
    label[1, :, 2:] = 255
    return student, teacher, label


def compare(name: str, on: str, params: dict[str, Any], part: slice) -> dict[str, Tensor]:
    """Value and gradients of one loss on some of the pictures."""
    torch.manual_seed(0)
    term = Term(
        name, student_channels=CLASSES, teacher_channels=CLASSES, num_classes=CLASSES, params=params,
        on_logits=on == "logits",
    )  # fmt: skip
    scale = nn.Parameter(torch.tensor([1.0, 0.7, 1.3]).view(1, -1, 1, 1))  # stands for the student's weights
    student, teacher, label = (x[part] for x in batch())
    value = term(student * scale, teacher, label)
    value.backward()
    gradients = {key: weight.grad for key, weight in term.named_parameters()}
    return {"value": value.detach(), "scale": scale.grad, **gradients}


def cross_entropy(part: slice, **options: Any) -> dict[str, Tensor]:
    student, _, label = (x[part] for x in batch())
    student.requires_grad_()
    loss = CrossEntropyLoss(**options)
    average_over_workers(loss)
    value = loss(student, label, weight=None, ignore_index=255)
    value.backward()
    return {"value": value.detach(), "by class": student.grad.sum(dim=(0, 2, 3))}


def share(rank: int, count: int = 2) -> slice:
    return slice(rank * PICTURES // count, (rank + 1) * PICTURES // count)


def mean_of(parts: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    """As DDP averages gradients."""
    return {key: torch.stack([part[key] for part in parts]).mean(dim=0) for key in parts[0]}


def test_every_loss_is_that_of_the_whole_batch(in_workers: InWorkers) -> None:
    everything = slice(None)
    entropies: dict[str, dict[str, Any]] = {
        "plain": {}, "weighted": {"class_weight": [0.5, 30.0, 2.0]}, "valid only": {"avg_non_ignore": True},
        "sigmoid": {"use_sigmoid": True}, "sigmoid, valid only": {"use_sigmoid": True, "avg_non_ignore": True},
    }  # fmt: skip

    def measure(part: slice) -> dict[Any, dict[str, Tensor]]:
        terms = {(name, on): compare(name, on, params, part) for name, on, params in CASES}
        return terms | {(name, "task"): cross_entropy(part, **options) for name, options in entropies.items()}

    whole = measure(everything)
    halves = in_workers(2, lambda rank: measure(share(rank)))
    assert len(whole) >= len(LOSSES)
    for case, expected in whole.items():
        found = mean_of([half[case] for half in halves])
        assert expected["value"] > 0, case
        for key, value in expected.items():
            where = f"{case} {key}"
            torch.testing.assert_close(found[key], value, rtol=1e-4, atol=1e-6, msg=lambda m, w=where: f"{w}: {m}")


def test_halves_that_keep_to_themselves_give_other_losses(in_workers: InWorkers) -> None:
    """What the exchange is for; and for which losses there is nothing to exchange."""

    def measure(part: slice) -> dict[str, Tensor]:
        values = {f"{name} on {on}": compare(name, on, params, part)["value"] for name, on, params in CASES}
        return values | {"weighted": cross_entropy(part, class_weight=[0.5, 30.0, 2.0])["value"]}

    def keep_to_oneself(rank: int) -> dict[str, Tensor]:
        with collectives.alone():
            return measure(share(rank))

    found, whole = mean_of(in_workers(2, keep_to_oneself)), measure(slice(None))
    apart = {name for name, value in whole.items() if not torch.isclose(found[name], value, rtol=1e-4)}
    assert apart >= {"KL on logits", "IFVD on features", "CIRKD on features", "DIST on logits", "PKD on features"}
    assert "weighted" in apart and not apart & {f"{name} on features" for name in ("AT", "FitNet", "MGD", "SKD", "KL")}


def test_memory_is_the_same_on_all_workers(in_workers: InWorkers) -> None:
    """Each worker's embeddings reach every worker's queue, in one order."""

    def remember(rank: int) -> dict[str, Tensor]:
        term = Term("CIRKDMemory", student_channels=CLASSES, teacher_channels=CLASSES, num_classes=CLASSES)
        student, teacher, label = (x[share(rank)] for x in batch())
        term(student, teacher, label).backward()
        return {key: value for key, value in term.state_dict().items() if "pixels" in key or "regions" in key}

    first, second = in_workers(2, remember)
    assert first["module.regions.written"].sum() > 0
    for key, value in first.items():  # the last slot of a ring is where nothing is kept
        ours, theirs = (x[:, :-1] if key.endswith("keys") else x for x in (value, second[key]))
        assert torch.equal(ours, theirs), key


def test_nan_on_one_worker_is_nan_on_all(in_workers: InWorkers) -> None:
    def log(rank: int) -> dict[str, Tensor]:
        return collectives.mean_of_logs({"a": torch.tensor([1.0, float("nan")][rank]), "b": torch.tensor(2.0 * rank)})

    assert all(found["a"].isnan() and found["b"] == 1.0 for found in in_workers(2, log))


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
        no_image_twice(shared)
        return evaluate(model, shared)

    assert 0 < expected["mIoU"] < 100
    for count in (2, 4):
        assert in_workers(count, score) == [expected] * count


def test_large_areas_add_up_exactly() -> None:
    """Float32 loses single pixels above 16 million: as many as eight pictures of 2048 x 1024 have."""
    metric = ClassIoUMetric()
    metric.dataset_meta = {"classes": ("a", "b")}
    area = torch.tensor([2.0**24, 1.0])
    one = torch.tensor([1.0, 1.0])
    metrics = metric.compute_metrics([(area, area, area, area), *[(one, one * 2, one, one * 2)] * 9])
    assert metrics["IoU.a"] == (2**24 + 9) / (2**24 + 18) * 100


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


def apart(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> float:
    assert ours.keys() == theirs.keys()
    return max(float((ours[key].double() - value.double()).abs().max()) for key, value in theirs.items())


@pytest.mark.e2e
def test_twenty_iterations_on_one_worker_and_on_two(tiny: Tiny, in_workers: InWorkers, tmp_path: Path) -> None:
    """Every logged loss of every iteration within 1e-5; class weights, three kinds of distillation losses, adapters."""
    losses = {
        "+distill.losses.relations": dict(type="CIRKD", pair=(1, 1), weight=1.0),
        "+distill.losses.standard": dict(type="PKD", pair=(0, 0), weight=1.0),
    }
    cfg = tiny.load("distill", {**WITHOUT_BATCH_STATISTICS, **losses}, iters=20, batch_size=4, val_interval=20)
    assert cfg.model.decode_head.loss_decode.class_weight

    one, weights = losses_and_weights(cfg, tmp_path / "one")
    (two, theirs), _ = in_workers(2, lambda rank: losses_and_weights(cfg, tmp_path / "two"))
    assert [iteration for iteration, _ in one] == [iteration for iteration, _ in two] == [10, 20]
    for (_, ours), (_, same) in zip(one, two, strict=True):
        assert ours == pytest.approx(same, rel=1e-5, abs=1e-5)
    assert apart(weights, theirs) < 1e-5


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
    one, weights = losses_and_weights(cfg, tmp_path / "one")
    (two, theirs), _ = in_workers(2, lambda rank: losses_and_weights(cfg, tmp_path / "two"))
    for (_, ours), (_, same) in zip(one, two, strict=True):
        assert ours == pytest.approx(same, rel=1e-5, abs=1e-5)
    assert apart(weights, theirs) < 1e-5


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

    one = weights("one", mode)
    two, _ = in_workers(2, lambda rank: weights("two", mode))
    assert apart(one, two) < bound
    assert apart(one, weights("without", {})) > 1e-4  # they were on

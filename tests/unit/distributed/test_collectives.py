"""Two workers with half a batch each against one with all of it: losses, gradients, scores, whole runs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from rdistill.distributed import collectives
from rdistill.losses import LOSSES
from rdistill.losses.modules import Term
from rdistill.models.quiet_mmseg import CrossEntropyLoss
from rdistill.models.task_loss import average_over_workers
from rdistill.training.evaluation import ClassIoUMetric

InWorkers = Callable[[int, Callable[[int], Any]], list[Any]]
PICTURES, CLASSES, SIZE = 4, 3, 8
# What two workers cannot compute as one would, by what the loss is: each draws its own random numbers.
OWN_RANDOM_NUMBERS = {"MGD": {"mask_ratio": 0.0}, "AfDCD": {"mask_ratio": 0.0}, "CIRKDMemory": None}
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
        actual = mean_of([half[case] for half in halves])
        assert expected["value"] > 0, case
        for key, value in expected.items():
            where = f"{case} {key}"
            torch.testing.assert_close(actual[key], value, rtol=1e-4, atol=1e-6, msg=lambda m, w=where: f"{w}: {m}")


def test_halves_that_keep_to_themselves_give_other_losses(in_workers: InWorkers) -> None:
    """What the exchange is for; and for which losses there is nothing to exchange."""

    def measure(part: slice) -> dict[str, Tensor]:
        values = {f"{name} on {on}": compare(name, on, params, part)["value"] for name, on, params in CASES}
        return values | {"weighted": cross_entropy(part, class_weight=[0.5, 30.0, 2.0])["value"]}

    def keep_to_oneself(rank: int) -> dict[str, Tensor]:
        with collectives.local_only():
            return measure(share(rank))

    actual, whole = mean_of(in_workers(2, keep_to_oneself)), measure(slice(None))
    apart = {name for name, value in whole.items() if not torch.isclose(actual[name], value, rtol=1e-4)}
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
        left, right = (x[:, :-1] if key.endswith("keys") else x for x in (value, second[key]))
        assert torch.equal(left, right), key


def test_nan_on_one_worker_is_nan_on_all(in_workers: InWorkers) -> None:
    def log(rank: int) -> dict[str, Tensor]:
        return collectives.mean_of_logs({"a": torch.tensor([1.0, float("nan")][rank]), "b": torch.tensor(2.0 * rank)})

    assert all(logs["a"].isnan() and logs["b"] == 1.0 for logs in in_workers(2, log))


def test_large_areas_add_up_exactly() -> None:
    """Float32 loses single pixels above 16 million: as many as eight pictures of 2048 x 1024 have."""
    metric = ClassIoUMetric()
    metric.dataset_meta = {"classes": ("a", "b")}
    area = torch.tensor([2.0**24, 1.0])
    small = torch.tensor([1.0, 1.0])
    metrics = metric.compute_metrics([(area, area, area, area), *[(small, small * 2, small, small * 2)] * 9])
    assert metrics["IoU.a"] == (2**24 + 9) / (2**24 + 18) * 100


def apart(left: dict[str, Tensor], right: dict[str, Tensor]) -> float:
    assert left.keys() == right.keys()
    return max(float((left[key].double() - value.double()).abs().max()) for key, value in right.items())

"""The logits of a step are resized once for all losses, and the values are those of a resize each."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest
import torch
from mmengine.structures import PixelData
from mmseg.models.decode_heads import FCNHead
from mmseg.structures import SegDataSample
from torch import Tensor, nn

from rdistill.losses import distributions, functional
from rdistill.losses.common import unless_all_valid
from rdistill.losses.resized_logits import ResizedLogits, keep_resized_for_task, resized_logits, sharing_resized_logits
from rdistill.models.task_loss import notify_of_resized_logits

SIZE = (8, 8)


@pytest.fixture
def resize() -> Callable[[Tensor, Sequence[int]], Tensor]:
    def resize_bilinear(logits: Tensor, size: Sequence[int]) -> Tensor:
        return nn.functional.interpolate(logits, tuple(size), mode="bilinear", align_corners=False)

    return resize_bilinear


def head_loss(logits: Tensor, align_corners: bool = False) -> Tensor:
    notify_of_resized_logits(keep_resized_for_task)
    head = FCNHead(in_channels=2, channels=2, num_classes=2, align_corners=align_corners)
    samples = [SegDataSample(gt_sem_seg=PixelData(data=torch.randint(2, (1, *SIZE)))) for _ in logits]
    return head.loss_by_feat(logits, samples)["loss_ce"]  # type: ignore[no-any-return]


def test_what_mmseg_resized_is_used_again(resize: Callable[..., Tensor]) -> None:
    logits = torch.randn(2, 2, 4, 4, requires_grad=True)
    with sharing_resized_logits(lambda tensor: tensor is logits) as shared:
        loss = head_loss(logits)
        kept = shared.find(logits, SIZE)
        assert kept is not None and resized_logits(logits, SIZE, resize) is kept
        # Another size, and another tensor, are resized for themselves.
        assert resized_logits(logits, (2, 2), resize).shape[-2:] == (2, 2)
        assert shared.find(logits.clone(), SIZE) is None
        total = loss + kept.square().sum()
    assert torch.equal(kept, resize(logits, SIZE))
    (together,) = torch.autograd.grad(total, logits, retain_graph=True)
    apart = sum(torch.autograd.grad(loss, logits, retain_graph=True)[0] for loss in (loss, kept.square().sum()))
    torch.testing.assert_close(together, apart)
    assert resized_logits(logits, SIZE, resize) is not kept  # because the context has ended


@pytest.mark.parametrize(
    "logits, align_corners, is_shared",
    [
        (torch.randn(2, 2, 4, 4), True, True),
        (torch.randn(2, 2, 4, 4).bfloat16(), False, True),
        (torch.randn(2, 2, 4, 4), False, False),
    ],
    ids=["aligned corners", "bfloat16", "not asked for"],
)
def test_what_a_loss_would_compute_otherwise_is_not_kept(logits: Tensor, align_corners: bool, is_shared: bool) -> None:
    with sharing_resized_logits(lambda _: is_shared) as shared:
        head_loss(logits, align_corners)
        assert shared.find(logits, SIZE) is None


def test_outside_of_the_context_nothing_is_kept(resize: Callable[..., Tensor]) -> None:
    logits = torch.randn(1, 2, 4, 4)
    keep_resized_for_task(logits, resize(logits, SIZE))
    head_loss(logits)
    first, second = (resized_logits(logits, SIZE, resize) for _ in range(2))
    assert first is not second and torch.equal(first, second)


def test_what_was_made_in_inference_mode_is_not_kept(resize: Callable[..., Tensor]) -> None:
    """PyTorch does not count the versions of such a tensor."""
    logits = torch.randn(1, 2, 4, 4)
    with sharing_resized_logits(lambda _: True) as shared, torch.inference_mode():
        assert torch.equal(resized_logits(logits, SIZE, resize), resize(logits, SIZE))
        assert shared.find(logits, SIZE) is None


def test_two_losses_on_the_same_logits_share_one_tensor(resize: Callable[..., Tensor]) -> None:
    logits = torch.randn(2, 2, 4, 4)
    with sharing_resized_logits(lambda _: False):
        first, second = (resized_logits(logits, SIZE, resize) for _ in range(2))
    assert first is second


def test_a_tensor_that_was_written_into_is_resized_again(resize: Callable[..., Tensor]) -> None:
    logits = torch.randn(2, 2, 4, 4)
    with sharing_resized_logits(lambda _: False):
        first = resized_logits(logits, SIZE, resize)
        first.zero_()
        assert torch.equal(resized_logits(logits, SIZE, resize), resize(logits, SIZE))


def test_a_freed_tensor_is_not_taken_for_another() -> None:
    shared = ResizedLogits(lambda _: True)
    for number in range(100):
        logits = torch.full((1, 1, 2, 2), float(number))  # likely at the address of the last one, were that freed
        assert shared.find(logits, (2, 2)) is None
        shared.keep(logits, logits.clone())


def test_a_mask_that_is_true_everywhere_is_not_applied_on_the_cpu() -> None:
    some = torch.tensor([[True, False]])
    assert unless_all_valid(None) is None and unless_all_valid(torch.ones(1, 2, dtype=torch.bool)) is None
    assert unless_all_valid(some) is some
    on_device = torch.ones(1, 2, dtype=torch.bool, device="meta")  # looking at a value would raise
    assert unless_all_valid(on_device) is on_device


@pytest.mark.parametrize("name", ["kl", "cwd", "dist", "dkd"])
def test_such_a_mask_changes_no_bit(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    student, teacher = torch.randn(2, 3, 8, 8, requires_grad=True), torch.randn(2, 3, 8, 8)
    everywhere = torch.ones(2, 8, 8, dtype=torch.bool)
    given = {"label": everywhere.long()} if name == "dkd" else {"mask": everywhere}

    def value_and_gradient() -> list[Tensor]:
        value = getattr(functional, name)(student, teacher, **given)
        return [value.detach(), *torch.autograd.grad(value, student)]

    without = value_and_gradient()
    monkeypatch.setattr(distributions, "unless_all_valid", lambda valid: valid)
    assert all(torch.equal(a, b) for a, b in zip(value_and_gradient(), without, strict=True))

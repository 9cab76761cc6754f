"""The losses of 2023 and later that have layers or keep statistics: what they keep, and what they refuse."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from rdistill.core.errors import UserError
from rdistill.distributed import collectives
from rdistill.losses import Term, functional
from rdistill.losses.layers import AfDCD, Theia


@pytest.fixture(autouse=True)
def a_seed() -> None:
    torch.manual_seed(0)


def test_theia_standardises_by_all_it_has_seen() -> None:
    """After batches of several sizes: mean and deviation of all positions at once, not of the last batch."""
    loss = Theia(4, 6)
    batches = [torch.randn(n, 6, *size) * 3 + 5 for n, size in ((2, (8, 4)), (1, (4, 6)), (4, (2, 3)))]
    for teacher in batches:
        loss(torch.randn(len(teacher), 4, *teacher.shape[2:]), teacher)
    positions = torch.cat([teacher.movedim(1, 0).flatten(1) for teacher in batches], dim=1).double()
    assert loss.count.item() == positions.shape[1] == 2 * 32 + 24 + 4 * 6 and loss.count.dtype == torch.float64
    torch.testing.assert_close(loss.mean.double(), positions.mean(dim=1), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(loss.variance.double(), positions.var(dim=1, correction=0), rtol=1e-5, atol=1e-5)


def test_theia_compares_with_the_standardised_teacher() -> None:
    loss = Theia(4, 6)
    student, teacher = torch.randn(2, 4, 4, 4), torch.randn(2, 6, 4, 4) * 7 - 2
    value = loss(student, teacher)
    mean, deviation = teacher.mean(dim=(0, 2, 3)), teacher.std(dim=(0, 2, 3), correction=0)
    target = (teacher - mean.view(-1, 1, 1)) / deviation.view(-1, 1, 1)
    torch.testing.assert_close(value, functional.theia(loss.adapter(student, (4, 4)), target))


def test_theia_has_a_convolution_even_between_equal_channels() -> None:
    assert isinstance(Theia(6, 6).adapter.project, nn.Conv2d)


def test_theia_counts_the_positions_of_all_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(collectives, "count", lambda: 3)
    monkeypatch.setattr(collectives, "mean", lambda x: x)
    loss = Theia(4, 6)
    loss._count(torch.randn(2, 6, 4, 5))
    assert loss.count.item() == 3 * 2 * 4 * 5


def test_theia_does_not_blow_up_a_nearly_dead_channel() -> None:
    """Its deviation counts as 1e-4 of the usual one, whatever the scale of the feature is; one of 2e-4 is its own."""
    teacher, student = torch.randn(2, 6, 4, 5) * 30, torch.randn(2, 4, 4, 5)
    teacher[:, 2] *= 1e-6
    teacher[:, 3] *= 2e-4
    loss = Theia(4, 6)
    value = loss(student, teacher)
    deviation = teacher.std(dim=(0, 2, 3), correction=0)
    deviation[2] = 1e-4 * deviation.square().mean().sqrt()
    target = (teacher - teacher.mean(dim=(0, 2, 3)).view(-1, 1, 1)) / deviation.view(-1, 1, 1)
    assert target[:, 2].abs().max() < 0.1 and target[:, 3].abs().max() > 1
    torch.testing.assert_close(value, functional.theia(loss.adapter(student, (4, 5)), target), rtol=1e-4, atol=1e-5)


def test_theia_counts_in_training_only() -> None:
    loss = Theia(4, 6)
    loss(torch.randn(2, 4, 4, 4), torch.randn(2, 6, 4, 4))
    before = {key: value.clone() for key, value in loss.state_dict().items()}
    loss.eval()(torch.randn(2, 4, 4, 4), torch.randn(2, 6, 4, 4) + 9)
    assert all(torch.equal(value, before[key]) for key, value in loss.state_dict().items())


def test_theia_of_a_dead_channel_is_finite() -> None:
    teacher = torch.randn(2, 6, 4, 4)
    teacher[:, 2] = 0
    student = torch.randn(2, 4, 4, 4, requires_grad=True)
    value = Theia(4, 6)(student, teacher)
    value.backward()
    assert value.isfinite() and student.grad is not None and student.grad.isfinite().all()


def test_afdcd_is_its_generation_and_its_contrast() -> None:
    loss = AfDCD(4, 6)
    student, teacher = torch.randn(2, 4, 4, 4), torch.randn(2, 6, 4, 4)
    generated = loss.mgd.generated(student, teacher, mask_ratio=0.0)
    expected = functional.mgd(generated, teacher) + 3 * functional.omni_contrast(generated, teacher, tau=0.5, patch=2)
    torch.testing.assert_close(loss(student, teacher, mask_ratio=0.0, contrast=3.0, tau=0.5, patch=2), expected)


def test_afdcds_defaults_are_the_published_ones() -> None:
    """At 20 x 20 positions, where the grid counts, and of 32 channels, which 16 groups split."""
    loss = AfDCD(4, 32)
    student, teacher = torch.randn(1, 4, 20, 20), torch.randn(1, 32, 20, 20)
    values = []
    for params in ({}, dict(mask_ratio=0.75, contrast=10.0, tau=0.07, grid=16, patch=4)):
        torch.manual_seed(1)
        values.append(loss(student, teacher, **params))
    assert loss.groups == 16 and torch.equal(*values)


def test_afdcd_names_the_channels_that_it_cannot_split() -> None:
    with pytest.raises(UserError) as caught:
        Term("AfDCD", student_channels=4, teacher_channels=17, num_classes=3)
    assert caught.value.problems == (
        "AfDCD: the teacher's feature has 17 channels, which cannot be split into 2 to 16 groups of one size; set "
        "groups, or choose another feature",
    )
    assert Term("AfDCD", student_channels=4, teacher_channels=17, num_classes=3, params={"groups": 17}).module


@pytest.mark.parametrize("name", ["KL", "DKD"])
def test_two_classes_cannot_be_standardised(name: str) -> None:
    for channels in (1, 2):
        with pytest.raises(
            UserError, match=r"standardize=True needs at least 3 classes, got 2.* leave standardize out"
        ):
            Term(
                name, student_channels=channels, teacher_channels=2, num_classes=2, params={"standardize": True},
                on_logits=True,
            )  # fmt: skip
    with pytest.raises(UserError, match="standardize=True needs at least 3 channels, got 2"):
        Term("KL", student_channels=4, teacher_channels=2, num_classes=19, params={"standardize": True})

"""What the losses share: masks, sizes, directions of vectors near zero, and the messages about shapes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from loss_cases import CLASSES, batch
from torch import Tensor

from rdistill.distributed import collectives
from rdistill.losses import functional as L


def test_a_mask_may_be_of_numbers() -> None:
    student, teacher, label = batch()
    mask = label != 255
    for number in (torch.uint8, torch.float32):
        assert torch.equal(L.kl(student, teacher, mask=mask.to(number)), L.kl(student, teacher, mask=mask))


def test_what_is_nearly_zero_is_so_beside_its_own_image() -> None:
    """A vector of 2e-5, a fifth of what counts beside vectors of 1, fades as its cube; in an image that is nearly empty
    it counts whole."""
    x = torch.zeros(2, 1, 40_000, dtype=torch.float64)
    x[0] = 1.0
    x[:, 0, 0], x[:, 0, 1] = 2e-5, 1.0
    faded = pytest.approx([0.2**3, 1.0], rel=1e-3)
    assert L.unit(x, dim=1)[:, 0, 0].tolist() == faded
    assert L.unit(x.transpose(1, 2), dim=2)[:, 0, 0].tolist() == faded  # vectors in rows, such as the means of classes


def test_a_direction_fades_without_a_step() -> None:
    """From the length that counts in full down to zero, the value never jumps."""
    shares = torch.logspace(-5, -3, 201, dtype=torch.float64)
    lengths = []
    for share in shares:
        x = torch.ones(1, 1, 10_000, dtype=torch.float64)  # so many that one more hardly changes what is usual
        x[0, 0, 0] = share
        lengths.append(L.unit(x, dim=1)[0, 0, 0])
    stacked = torch.stack(lengths)
    assert (stacked.diff() > -1e-9).all() and stacked.diff().max() < 0.08
    assert stacked[0].item() == pytest.approx(1e-3, rel=0.01) and stacked[-1].item() == pytest.approx(1)


def test_what_has_to_agree_is_said() -> None:
    """Every axis, or all but the channels; never other numbers of axes."""
    x = torch.zeros(2, CLASSES, 4, 6)

    def problem(function: Callable[..., Tensor], *tensors: Any) -> str:
        with pytest.raises(ValueError) as caught:
            function(*tensors)
        return str(caught.value)

    assert problem(L.kl, x, x[:, :2]) == (
        "kl: student and teacher must be N x C x H x W and agree in every axis, got (2, 3, 4, 6) and (2, 2, 4, 6)"
    )
    for smaller in (x[:1], x[:, :, :3], x[..., :5]):
        assert problem(L.at, x, smaller) == (
            "at: student and teacher must be N x C x H x W and agree in N, H and W, "
            f"got (2, 3, 4, 6) and {tuple(smaller.shape)}"
        )
    for function in (L.kl, L.at):
        assert problem(function, x[0], x[0]).endswith("got (3, 4, 6) and (3, 4, 6)")
    assert problem(L.dsd, [x, x], [x]) == "dsd: as many layers of each model, got 2 and 1"
    assert problem(L.dsd, [], []) == "dsd: as many layers of each model, got 0 and 0"
    for further in ([x], [x, x]):  # layers before the last one may have other sizes
        last_differs = problem(L.dsd, [*further, x], [*further, x[:, :1]])
        assert last_differs.startswith("dsd, last layer: student and teacher must be N x C x H x W and agree in every")
        assert L.dsd([*further, x], [*(layer[:, :1, :2, :3] for layer in further), x]).item() == 0
    assert problem(L.dkd, x[:, :1], x[:, :1], torch.zeros(2, 4, 6)) == "dkd needs logits of at least 2 classes, got 1"


def test_a_loss_of_layers_gets_what_it_is_called_with() -> None:
    def labelled(students: list[Tensor], teachers: list[Tensor], label: Tensor, *, factor: float = 1.0) -> Tensor:
        return factor * (len(students) + label)

    wrapped = L.wrap_loss(labelled, same_channels=True, layers=True)
    x = torch.zeros(1, 2, 3, 3)
    assert wrapped([x, x], [x, x], torch.tensor(5.0), factor=2.0).item() == 14


def test_nearest_resize_is_torchs_and_exact_for_labels() -> None:
    label = torch.randint(0, 255, (2, 12, 20))
    for size in ((12, 20), (6, 10), (24, 40), (5, 7), (1, 3), (11, 10), (6, 19), (12, 10), (6, 20)):
        expected = F.interpolate(label.unsqueeze(1).double(), size=size, mode="nearest").squeeze(1).long()
        resized = L.resize_nearest(label, size)
        assert torch.equal(resized, expected)
        whole_steps = 12 % size[0] == 0 and 20 % size[1] == 0
        assert (resized.data_ptr() == label.data_ptr()) == whole_steps  # a view, which costs nothing


def test_logits_of_two_classes_have_one_channel_or_two_and_the_same_probabilities() -> None:
    one, two, many = torch.randn(2, 1, 4, 6), torch.randn(2, 2, 4, 6), torch.randn(2, 3, 4, 6)
    for logits in (one, two, many):
        assert L.with_logit_channels(logits, logits.shape[1]) is logits
    torch.testing.assert_close(L.with_logit_channels(one, 2).softmax(dim=1)[:, 1:], one.sigmoid())
    torch.testing.assert_close(L.with_logit_channels(two, 1).sigmoid(), two.softmax(dim=1)[:, 1:])


def test_the_means_of_the_classes_of_an_image() -> None:
    """Labels outside the classes and ignored ones belong to no class; the last class has no pixel, and a mean of 0."""
    label = torch.tensor([[[0, 1, 1, 255], [0, -1, 2, 4]]])
    masks = L.class_masks(label, 4, ignore_index=0)
    one, two = ([index in pixels for index in range(8)] for pixels in ((1, 2), (6,)))
    assert masks.tolist() == [[[False] * 8, one, two, [False] * 8]]
    masks = L.class_masks(label, 4, ignore_index=255)
    features = torch.arange(16.0).view(1, 2, 8)
    assert L.class_means(features, masks).tolist() == [[[2.0, 10.0], [1.5, 9.5], [6.0, 14.0], [0.0, 0.0]]]
    assert masks.dtype == torch.bool and masks.shape == (1, 4, 8)
    of_two_images = L.class_masks(label.expand(2, 2, 4), 4, 255)
    assert L.class_means(features.double().expand(2, 2, 8), of_two_images).shape == (2, 4, 2)


def test_a_mean_over_what_is_valid() -> None:
    """The mask has one channel and counts for all of them; a NaN outside of it does not matter."""
    values = torch.tensor([[[[1.0, torch.nan]], [[4.0, 7.0]]]], requires_grad=True)
    valid = torch.tensor([[[[True, False]]]])
    mean = L.mean_where(values, valid)
    assert mean.item() == 2.5
    assert torch.autograd.grad(mean, values)[0].tolist() == [[[[0.5, 0.0]], [[0.5, 0.0]]]]
    nowhere = L.mean_where(values, ~torch.ones_like(valid))
    assert nowhere.item() == 0 and not torch.autograd.grad(nowhere, values)[0].any()


def test_a_count_is_the_mean_over_workers_and_never_zero(monkeypatch: pytest.MonkeyPatch) -> None:
    """Three pixels on four workers are 0.75 each; where there are none the divisor is 1 in all, 1/4 each."""
    for workers in (2, 4):
        monkeypatch.setattr(collectives, "count", lambda workers=workers: workers)
        monkeypatch.setattr(collectives, "mean", lambda x, workers=workers: x / workers)
        counts = [L.count_over_workers(torch.tensor(count)).item() * workers for count in (3, 2, 1, 0)]
        assert counts == [3, 2, 1, 1]
    monkeypatch.undo()
    assert [L.count_over_workers(torch.tensor(count)).item() for count in (3, 1, 0)] == [3, 1, 1]


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_counts_are_on_the_device_of_the_tensors(device: str) -> None:
    """Where workers exchange them: NCCL knows no tensors of the CPU."""
    like = torch.zeros(3, 2, 4, 5, device=device)
    valid = torch.zeros(3, 1, 4, 5, dtype=torch.bool, device=device)
    if device == "cpu":
        valid[0, 0, 1, 1:3] = valid[2, 0, 0, 0] = True
    for mask, positions, images in ((None, 60, 3), (valid, 3, 2)):
        counts = [L.count_positions(mask, like), L.count_images(mask, like)]
        assert [tensor.device.type for tensor in (*counts, L.full_mask(None, like))] == [device] * 3
        if device == "cpu":
            assert [count.item() for count in counts] == [positions, images]


def test_each_image_has_its_own_scales() -> None:
    """The square of an image's largest value vanishes in float32 beside that of the other."""
    x = torch.randn(2, 3, 4, 5, generator=torch.Generator().manual_seed(0))
    scaled = x * torch.tensor([1e-25, 1e15]).view(2, 1, 1, 1)
    largest, typical = L.image_scales(scaled)
    torch.testing.assert_close(largest, scaled.abs().amax(dim=(1, 2, 3), keepdim=True))
    expected = (x / x.abs().amax(dim=(1, 2, 3), keepdim=True)).square().sum(dim=1).mean(dim=(1, 2)).view(2, 1, 1, 1)
    torch.testing.assert_close(typical, expected)
    torch.testing.assert_close(L.direction(scaled, largest, typical), F.normalize(x, dim=1))
    torch.testing.assert_close(L.unit(scaled, dim=1), F.normalize(x, dim=1))

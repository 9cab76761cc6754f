"""Where two losses of a step meet, and how large their gradients are there: against values made by hand."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from rdistill.distill.gradients import gradients, last_shared, lengths_at_last_shared, task_loss


def test_the_task_loss_is_the_sum_that_mmengine_makes() -> None:
    one, two = torch.tensor([1.0, 3.0]), torch.tensor(5.0)
    losses = {"decode.loss_ce": [one, two], "aux.loss_dice": two, "decode.acc_seg": two, "distill.loss_kd": two}
    assert task_loss(losses).item() == 2 + 5 + 5


@pytest.fixture
def images() -> Tensor:
    return torch.randn(3, 4, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def net() -> nn.Module:
    torch.manual_seed(1)
    return nn.ModuleDict({name: nn.Linear(4, 4) for name in ("first", "second", "branch", "adapter")})


def test_a_loss_on_logits_meets_the_task_at_the_logits(net: nn.ModuleDict, images: Tensor) -> None:
    logits = net["second"](net["first"](images).relu())
    task, term = (3 * logits).sum(), logits.float().square().sum() / 2
    (edge,) = last_shared(task, term)
    (of_task,), (of_term,) = gradients(task, [edge]), gradients(term, [edge])
    assert of_task is not None and of_term is not None
    torch.testing.assert_close(of_task, torch.full_like(logits, 3))
    torch.testing.assert_close(of_term, logits)
    measured = lengths_at_last_shared(task, {"kd": term})["kd"]
    assert measured == pytest.approx((3 * 12**0.5, logits.norm().item()))


def test_a_loss_on_a_feature_meets_the_task_at_the_feature(net: nn.ModuleDict, images: Tensor) -> None:
    """Through an adapter that the task does not know; and not further down, though both depend on that too."""
    feature = net["first"](images).relu()
    task, term = net["second"](feature).sum(), net["adapter"](feature).sum()
    (edge,) = last_shared(task, term)
    (of_task,), (of_term,) = gradients(task, [edge]), gradients(term, [edge])
    assert of_task is not None and of_term is not None
    torch.testing.assert_close(of_task, net["second"].weight.sum(dim=0).expand(3, 4))
    torch.testing.assert_close(of_term, net["adapter"].weight.sum(dim=0).expand(3, 4))


def test_a_feature_that_is_written_into_counts_as_it_was(net: nn.ModuleDict, images: Tensor) -> None:
    feature = net["first"](images)
    copied, value = feature.clone(), feature.detach().clone()
    task, term = feature.relu_().sum(), copied.square().sum() / 2
    (edge,) = last_shared(task, term)
    (of_task,), (of_term,) = gradients(task, [edge]), gradients(term, [edge])
    assert of_task is not None and of_term is not None
    assert torch.equal(of_task, (value > 0).float())
    torch.testing.assert_close(of_term, value)


def test_several_layers_are_taken_together(net: nn.ModuleDict, images: Tensor) -> None:
    first = net["first"](images)
    second = net["second"](first)
    task, term = second.sum(), first.sum() + 2 * second.sum()
    assert len(last_shared(task, term)) == 2
    weight = net["second"].weight.detach().sum(dim=0).expand(3, 4)
    expected = (weight.square().sum() + 12) ** 0.5, ((1 + 2 * weight).square().sum() + 4 * 12) ** 0.5
    assert lengths_at_last_shared(task, {"dsd": term})["dsd"] == pytest.approx([value.item() for value in expected])


def test_a_branch_that_the_task_does_not_use_meets_it_where_it_begins(net: nn.ModuleDict, images: Tensor) -> None:
    feature = net["first"](images)
    task, term = net["second"](feature).sum(), net["branch"](feature).sum()
    (edge,) = last_shared(task, term)
    assert edge.node is feature.grad_fn


def test_another_part_of_a_split_is_not_shared(net: nn.ModuleDict, images: Tensor) -> None:
    feature = net["first"](images)
    left, right = feature.split(2, dim=1)
    (edge,) = last_shared(left.sum(), right.sum())
    assert edge.node is feature.grad_fn


def test_weights_count_only_where_there_is_nothing_else(net: nn.ModuleDict, images: Tensor) -> None:
    weight = net["first"].weight
    task, term = net["first"](images).sum(), weight.square().sum() / 2
    (edge,) = last_shared(task, term)
    (own,) = gradients(term, [edge])
    assert own is not None and torch.equal(own, weight)
    assert weight.grad is None
    feature = net["first"](images)
    (edge,) = last_shared(feature.sum(), feature.square().sum() + term)
    assert edge.node is feature.grad_fn


def test_a_loss_that_is_computed_from_the_other_meets_it_there(net: nn.ModuleDict, images: Tensor) -> None:
    loss = net["first"](images).sum()
    for task, term in ((loss, 2 * loss), (2 * loss, loss)):
        (edge,) = last_shared(task, term)
        assert (edge.node, edge.output_nr) == (loss.grad_fn, 0)
    (gradient,) = gradients(loss, [edge])
    assert gradient is not None and gradient.item() == 1


def test_a_tensor_that_is_reached_on_two_ways_hides_no_other(net: nn.ModuleDict, images: Tensor) -> None:
    """However the ways are ordered, the features of both branches are found, each once."""
    features = [net[name](images) for name in ("first", "branch")]
    task = sum(feature.sum() for feature in features)
    for one, other in (features, features[::-1]):
        for term in (one * one + other, other + one * one, (one + one) * other, other * (one + one)):
            edges = last_shared(task, term.sum())
            assert {edge.node for edge in edges} == {feature.grad_fn for feature in features} and len(edges) == 2


def test_gradients_are_multiplied_and_none_where_there_is_none(net: nn.ModuleDict, images: Tensor) -> None:
    weight, other = net["first"].weight, net["second"].weight
    loss = weight.square().sum() / 2
    one, none = gradients(loss, [weight, other])
    assert one is not None and torch.equal(one, weight) and none is None
    (threefold,) = gradients(loss, [weight], 3.0)
    assert threefold is not None and torch.equal(threefold, 3 * weight)
    assert gradients(loss, []) == [] and gradients(torch.tensor(1.0), [weight, other]) == [None, None]


class NoGradient(torch.autograd.Function):
    """The same values, and no gradient, although the graph goes on."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> None:
        return None


def test_a_loss_that_gives_no_gradient_where_it_meets_the_task_has_no_length(
    net: nn.ModuleDict, images: Tensor
) -> None:
    feature = net["first"](images)
    cut: Tensor = NoGradient.apply(feature)  # type: ignore[no-untyped-call]
    assert lengths_at_last_shared(feature.sum(), {"kd": cut.sum()}) == {"kd": (pytest.approx(12**0.5), 0.0)}


@pytest.mark.parametrize("size", [1e-30, 2e38])
def test_a_length_whose_square_float32_cannot_hold(net: nn.ModuleDict, images: Tensor, size: float) -> None:
    feature = net["first"](images)
    task, term = feature.sum() * size, net["second"](feature).sum() * 0 + feature.sum() * size / 2
    measured = lengths_at_last_shared(task, {"kd": term})["kd"]
    assert measured == pytest.approx((12**0.5 * size, 12**0.5 * size / 2), rel=1e-6)


def test_nothing_shared_has_no_length(net: nn.ModuleDict, images: Tensor) -> None:
    task, term = net["first"](images).sum(), net["second"](images).sum()
    constant = torch.tensor(1.0)
    assert last_shared(task, term) == last_shared(task, constant) == last_shared(constant, term) == []
    assert lengths_at_last_shared(task, {"kd": term, "other": constant}) == {"kd": (0.0, 0.0), "other": (0.0, 0.0)}


def test_measuring_leaves_the_step_as_it_was(net: nn.ModuleDict, images: Tensor) -> None:
    def grads(measured: bool) -> list[Tensor]:
        net.zero_grad()
        feature = net["first"](images)
        task, term = net["second"](feature).square().sum(), net["adapter"](feature).sum()
        if measured:
            lengths_at_last_shared(task, {"kd": term})
            assert all(parameter.grad is None for parameter in net.parameters())
        (task + term).backward()
        return [parameter.grad.clone() for parameter in net.parameters() if parameter.grad is not None]

    assert all(map(torch.equal, grads(False), grads(True)))


def test_float16_is_measured_in_spite_of_its_range(net: nn.ModuleDict, images: Tensor) -> None:
    """A gradient of 1e-8 is none in float16: it is measured scaled, as it is trained scaled, and given unscaled."""
    with torch.autocast("cpu", torch.float16):
        logits = net["second"](net["first"](images))
        assert logits.dtype == torch.float16
        task, term = logits.float().sum() * 1e-8, logits.float().sum() * 1e4
        measured = lengths_at_last_shared(task, {"kd": term})["kd"]
    assert measured == pytest.approx((12**0.5 * 1e-8, 12**0.5 * 1e4), rel=1e-2)


def test_what_float16_cannot_hold_is_infinite(net: nn.ModuleDict, images: Tensor) -> None:
    with torch.autocast("cpu", torch.float16):
        logits = net["second"](net["first"](images))
        task, loss = lengths_at_last_shared(logits.float().sum(), {"kd": logits.float().sum() * 1e6})["kd"]
    assert task == pytest.approx(12**0.5) and loss == float("inf")

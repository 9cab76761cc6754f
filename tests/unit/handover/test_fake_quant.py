"""8-bit rounding while a student trains: by hand, and as a BatchNorm that is folded later would have it."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from rdistill.handover.fake_quant import ActivationRange, Rounding, find_rounding_points, rounded_weight


class Block(nn.Module):
    """As a residual block is: convolution, norm and activation; a second pair, a sum, an activation; a map resized."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.bn1, self.conv2, self.bn2 = (
            nn.Conv2d(3, 4, 3, padding=1),
            nn.BatchNorm2d(4),
            nn.Conv2d(4, 4, 1),
            nn.BatchNorm2d(4),
        )
        self.relu, self.head = nn.ReLU(inplace=True), nn.Conv2d(4, 2, 1)

    def forward(self, image: Tensor) -> Tensor:
        x = self.relu(self.bn1(self.conv1(image)))
        x = torch.relu(self.bn2(self.conv2(x)) + x)
        return self.head(nn.functional.interpolate(x, scale_factor=2.0))


def test_a_weight_by_hand() -> None:
    """The scale of a channel is its largest weight / 127: 1.27 -> steps of 0.01, 0.5 -> steps of 0.5 / 127."""
    weight = torch.tensor([[1.27, -0.004, 0.0061], [0.5, 0.25, -0.5]])
    expected = torch.tensor([[1.27, 0.0, 0.01], [0.5, round(0.25 * 254) / 254, -0.5]])
    assert torch.allclose(rounded_weight(weight), expected, atol=1e-6)
    assert torch.allclose(rounded_weight(weight.T.contiguous(), 1), expected.T, atol=1e-6)
    assert torch.equal(rounded_weight(torch.zeros(2, 3)), torch.zeros(2, 3))


def test_rounding_before_and_after_folding_are_the_same() -> None:
    weight, folded = (
        torch.randn(6, 3, 3, 3, generator=torch.Generator().manual_seed(0)),
        torch.tensor([2.0, -0.5, 8.0, 1.0, -4.0, 0.25]),
    )
    factor = folded[:, None, None, None]
    assert torch.allclose(rounded_weight(weight * factor), rounded_weight(weight) * factor, atol=1e-6)


def test_a_range_rounds_and_lets_gradients_through() -> None:
    """-1 to 1.55 are steps of 0.01; 9.9, which it has not learned, ends at the limit, and has no gradient."""
    activation_range = ActivationRange()
    assert torch.allclose(
        activation_range(torch.tensor([-1.0, 0.0, 0.004, 1.55])), torch.tensor([-1.0, 0.0, 0.0, 1.55]), atol=1e-6
    )
    activation_range.updating = False
    x = torch.tensor([0.1239, 9.9], requires_grad=True)
    y = activation_range(x)
    assert torch.allclose(y, torch.tensor([0.12, 1.55]), atol=1e-6)
    y.sum().backward()
    assert x.grad is not None and x.grad.tolist() == [1.0, 0.0]


def test_where_activations_are_rounded() -> None:
    """Not between what becomes one operator; the sum and the resized map are rounded where a convolution takes them."""
    block = Block().eval()
    points = find_rounding_points(block, lambda: block(torch.randn(1, 3, 8, 8)))
    assert points.outputs == {"relu", "bn2", "head"} and points.inputs == {"conv1", "head"}
    assert not any(module._forward_hooks for module in block.modules())


def test_a_network_rounds_until_it_is_let_go() -> None:
    block = Block().eval()
    image = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    before, state = block(image), {name: value.clone() for name, value in block.state_dict().items()}
    rounding = Rounding(block, find_rounding_points(block, lambda: block(image)))
    rounded = block(image)
    assert not torch.equal(rounded, before) and torch.allclose(rounded, before, atol=0.1)
    rounding.set_updating(False)
    low = rounding.ranges["conv1 input"].low
    block(100 * image)
    assert rounding.ranges["conv1 input"].low is low
    rounded.sum().backward()
    assert all(weight.grad is not None and weight.grad.isfinite().all() for weight in block.parameters())
    assert set(block.state_dict()) == set(state)  # what a checkpoint holds is what it was
    rounding.remove()
    assert torch.equal(block(image), before)


@pytest.mark.parametrize("module", [nn.ConvTranspose2d(3, 5, 2), nn.Linear(3, 5)])
def test_other_layers_with_weights(module: nn.Module) -> None:
    x = torch.randn(1, 3, 4, 4) if isinstance(module, nn.ConvTranspose2d) else torch.randn(2, 3)
    before = module(x)
    whole = nn.Sequential(module)
    rounding = Rounding(whole, find_rounding_points(whole, lambda: whole(x)))
    assert not torch.equal(module(x), before) and torch.allclose(module(x), before, atol=0.1)
    rounding.remove()
    assert torch.equal(module(x), before)

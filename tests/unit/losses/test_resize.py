"""The resizing of logits and features: PyTorch's values to the last bit, and its gradient up to rounding."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from rdistill.losses import resize
from rdistill.losses.resize import SMALLEST, resize_bilinear

SIZES = [
    ((4, 6), (32, 48)), ((7, 3), (5, 9)), ((32, 48), (4, 6)), ((1, 1), (3, 2)), ((3, 2), (1, 1)), ((5, 5), (5, 7)),
    ((40, 30), (60, 90)),
]  # fmt: skip


@pytest.fixture(autouse=True)
def small_ones_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small tensors are resized as large ones are."""
    monkeypatch.setattr(resize, "SMALLEST", 0)


@pytest.mark.parametrize(("before", "after"), SIZES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_values_and_gradients_are_those_of_pytorch(
    before: tuple[int, int], after: tuple[int, int], dtype: torch.dtype
) -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2, 3, *before, generator=generator, dtype=dtype).requires_grad_()
    upstream = torch.randn(2, 3, *after, generator=generator, dtype=dtype)
    actual = resize_bilinear(x, after)
    expected = F.interpolate(x, after, mode="bilinear", align_corners=False)
    assert actual.is_contiguous() and actual.dtype == dtype and type(actual.grad_fn).__name__.startswith("_Resize")
    assert torch.equal(actual, expected)
    gradient, of_pytorch = (torch.autograd.grad(y, x, upstream)[0] for y in (actual, expected))
    assert gradient.dtype == dtype and gradient.is_contiguous()
    torch.testing.assert_close(gradient, of_pytorch)


def test_the_gradient_is_the_derivative() -> None:
    x = torch.randn(1, 2, 3, 4, dtype=torch.float64, requires_grad=True)
    for size in ((5, 9), (2, 3)):
        assert torch.autograd.gradcheck(lambda x, size=size: resize_bilinear(x, size), x)


def test_gradients_in_other_memory_orders() -> None:
    """The gradient of a sum is expanded, that of some losses is in channels_last."""
    x = torch.randn(2, 3, 4, 4, requires_grad=True)
    (of_sum,) = torch.autograd.grad(resize_bilinear(x, (8, 8)).sum(), x)
    torch.testing.assert_close(of_sum, torch.full_like(x, 4.0))
    upstream = torch.randn(2, 3, 8, 8)
    channels_last = upstream.to(memory_format=torch.channels_last)
    gradients = [torch.autograd.grad(resize_bilinear(x, (8, 8)), x, order)[0] for order in (upstream, channels_last)]
    torch.testing.assert_close(*gradients)


def test_a_gradient_that_is_computed_within_autocast() -> None:
    """As that of a loss whose share is measured."""
    x, upstream = torch.randn(1, 2, 4, 4, requires_grad=True), torch.randn(1, 2, 8, 8)
    (expected,) = torch.autograd.grad(resize_bilinear(x, (8, 8)), x, upstream)
    with torch.autocast("cpu", torch.bfloat16):
        (actual,) = torch.autograd.grad(resize_bilinear(x, (8, 8)), x, upstream)
    assert torch.equal(actual, expected)


def test_what_pytorch_resizes() -> None:
    """Tensors of half precision, or on another device; equal sizes are not resized."""
    x = torch.randn(1, 2, 4, 4)
    assert resize_bilinear(x, (4, 4)) is x and resize_bilinear(x.requires_grad_(), [4, 4]) is x
    with torch.no_grad():
        assert resize_bilinear(x, (8, 8)).grad_fn is None
    for other in (x.detach().bfloat16(), x.detach().to("meta")):
        resized = resize_bilinear(other.requires_grad_(), (8, 8))
        assert resized.dtype == other.dtype and "Upsample" in type(resized.grad_fn).__name__


def test_small_tensors_are_left_to_pytorch(monkeypatch: pytest.MonkeyPatch) -> None:
    """For which it is faster."""
    monkeypatch.setattr(resize, "SMALLEST", SMALLEST)
    x = torch.randn(4, 1, 2, 2, requires_grad=True)
    names = [type(resize_bilinear(x, (side, 64)).grad_fn).__name__ for side in (63, 64)]
    assert names == ["UpsampleBilinear2DBackward0", "_ResizeBackward"]

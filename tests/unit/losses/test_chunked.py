"""Sums by chunks: what is cut, what is put together, and what they leave in memory."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from loss_cases import CASES, Case, batch
from torch import Tensor

from benchmarks.memory import peak_bytes
from rdistill.losses import chunked
from rdistill.losses import functional as L


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.mark.parametrize("images", [1, 3])
@pytest.mark.parametrize("over", [(0, 2), (0, 1, 2), (1, 3), (0,), ()])
@pytest.mark.parametrize("limit", [1, 100, 1000, 10**6])
def test_chunks_cover_everything_once(
    monkeypatch: pytest.MonkeyPatch, over: tuple[int, ...], limit: int, images: int
) -> None:
    monkeypatch.setattr(chunked, "BYTES_PER_THREAD", limit)
    x = torch.zeros(images, 2, 5, 7)
    for chunk in chunked.chunks(x, over):
        part = chunked.part(x, chunk)
        assert all(part.shape[dim] == x.shape[dim] for dim in range(4) if dim not in over)
        least = 4 * x.numel() // max(1, torch.tensor([x.shape[dim] for dim in over]).prod().item())
        assert part.nbytes <= max(limit, least)
        part += 1
    assert torch.equal(x, torch.ones_like(x))


def test_no_more_is_cut_than_has_to_be(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two images of the four fit: their rows stay whole."""
    x = torch.zeros(4, 2, 5, 7)
    monkeypatch.setattr(chunked, "BYTES_PER_THREAD", x.nbytes // 2)
    assert [chunked.part(x, chunk).shape for chunk in chunked.chunks(x, (0, 2))] == [(2, 2, 5, 7)] * 2


def test_chunks_are_larger_on_an_accelerator() -> None:
    """128 MiB, of which a chunk has 256 KiB on one thread of the CPU and 32 MiB elsewhere."""
    sizes = []
    for device in ("cpu", "meta"):
        x = torch.empty((), device=device).expand(4, 8, 1024, 1024)
        sizes.append(len(list(chunked.chunks(x, (0, 2)))))
    assert sizes == [512, 4]


def test_dimensions_of_one_entry_are_added_up_and_others_put_side_by_side(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chunked, "BYTES_PER_THREAD", 1)
    x = torch.randn(3, 2, 5, 7, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(1, 2, 1, 1, dtype=torch.float64)

    def values(x: Tensor, weight: Tensor) -> Tensor:
        return (x.square() * weight).sum(dim=(2, 3), keepdim=True)

    total = chunked.sums(values, x, weight, over=(0, 1, 2), shape=(3, 2, 1, 1))
    torch.testing.assert_close(total, values(x, weight))
    upstream = torch.randn_like(total)
    (gradient,) = torch.autograd.grad(total, x, upstream)
    torch.testing.assert_close(gradient, 2 * x.detach() * weight * upstream)
    highest = chunked.maxima(lambda x: x.amax(dim=(1, 3), keepdim=True), x.detach(), over=(0, 2), shape=(3, 1, 5, 1))
    assert torch.equal(highest, x.detach().amax(dim=(1, 3), keepdim=True))


def test_others_that_require_a_gradient_get_theirs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chunked, "BYTES_PER_THREAD", 1)
    x, beside = (torch.randn(3, 2, 5, 7, dtype=torch.float64, requires_grad=True) for _ in range(2))
    weight = torch.randn(1, 2, 1, 1, dtype=torch.float64, requires_grad=True)  # every chunk has all of it
    constant = torch.randn(3, 1, 1, 1, dtype=torch.float64)

    def values(x: Tensor, beside: Tensor, none: None, weight: Tensor, constant: Tensor) -> Tensor:
        return (x.square() * weight * constant + beside.pow(3) * weight).sum(dim=(2, 3), keepdim=True)

    total = chunked.sums(values, x, beside, None, weight, constant, over=(0, 2), shape=(3, 2, 1, 1))
    upstream = torch.randn_like(total)
    sources = (x, beside, weight)
    expected = torch.autograd.grad(values(x, beside, None, weight, constant), sources, upstream)
    torch.testing.assert_close(torch.autograd.grad(total, sources, upstream), expected)


def test_the_graph_may_be_used_again() -> None:
    """Shares of weights ask for the gradient of a loss before its backward pass."""
    student, teacher = (torch.randn(2, 3, 4, 6) for _ in range(2))
    student.requires_grad_()
    loss = L.kl(student, teacher) + L.l2(student, teacher)
    first, second = (torch.autograd.grad(loss, student, retain_graph=True)[0] for _ in range(2))
    assert torch.equal(first, second) and first.data_ptr() != second.data_ptr()


@pytest.mark.parametrize("function", [L.dsd, L.dist, L.cosine])
def test_autocast_around_the_backward_pass_changes_nothing(function: Callable[..., Tensor]) -> None:
    gradients = []
    for enabled in (False, True):
        torch.manual_seed(0)
        student, teacher = (torch.randn(2, 3, 4, 6) for _ in range(2))
        student.requires_grad_()
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            gradients += torch.autograd.grad(function(student, teacher), student)
    assert torch.equal(*gradients)


@pytest.mark.parametrize(
    "function",
    [L.kl, L.cwd, L.dist, L.l1, L.l2, L.cosine, L.at, L.fitnet, L.mgd, L.pkd, L.wkdf, L.hcl, L.theia],
    ids=lambda function: function.__name__,
)
def test_only_the_gradient_is_of_full_size(monkeypatch: pytest.MonkeyPatch, function: Callable[..., Tensor]) -> None:
    """Written in whole tensors each of them takes four or more times the student's size."""
    monkeypatch.setattr(chunked, "BYTES_PER_THREAD", 4096)
    student, teacher = (torch.randn(4, 8, 64, 64) for _ in range(2))
    student.requires_grad_()
    assert student.nbytes <= peak_bytes(lambda: function(student, teacher).backward()) < 1.3 * student.nbytes


@pytest.mark.parametrize(
    ("function", "most"),
    [
        (lambda s, t: L.skd_pairwise(s, t, grid=4), 1.3),
        (lambda s, t: L.cirkd_pairs(s, t, grid=4), 1.3),
        (lambda s, t: L.cirkd_memory(s, t, F.normalize(torch.ones(8, 8)), grid=16), 1.7),
        (lambda s, t: L.omni_contrast(s, t, grid=4, groups=4), 1.3),
        # Its two parts have a gradient each for a moment: of the class centres and of the positions.
        (lambda s, t: L.ifvd(s, t, torch.arange(64).expand(4, 64, 64) % 5, num_classes=5), 2.5),
    ],
    ids=["SKD", "CIRKD", "CIRKDMemory", "AfDCD", "IFVD"],
)
def test_relations_leave_little_beside_the_gradient(
    monkeypatch: pytest.MonkeyPatch, function: Callable[..., Tensor], most: float
) -> None:
    """A gradient in another order than the feature's would be of full size twice."""
    monkeypatch.setattr(chunked, "BYTES_PER_THREAD", 4096)
    student, teacher = (torch.randn(4, 8, 64, 64) for _ in range(2))
    student.requires_grad_()
    assert student.nbytes <= peak_bytes(lambda: function(student, teacher).backward()) < most * student.nbytes


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_many_chunks_come_to_the_same_as_one(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    student, teacher, label = batch(seed=2, dtype=torch.float64)
    student.requires_grad_()
    values, gradients = [], []
    for limit in (chunked.BYTES_PER_THREAD, 1, 100):
        monkeypatch.setattr(chunked, "BYTES_PER_THREAD", limit)
        values.append(case(student, teacher, label))
        gradients += torch.autograd.grad(values[-1], student)
    for value, gradient in zip(values, gradients, strict=True):
        torch.testing.assert_close(value, values[0], rtol=1e-12, atol=1e-14)
        torch.testing.assert_close(gradient, gradients[0], rtol=1e-10, atol=1e-14)

"""KL, CWD, DIST and DKD: values by hand, two classes, absent classes, a confident teacher."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from loss_cases import (
    CLASSES,
    ByHand,
    batch,
    cases_in,
    cwd_by_hand,
    kl_by_hand,
    kl_divergence,
    one_valid_pixel,
    pixels,
    slopes,
    softmax,
    values,
)
from torch import Tensor

from rdistill.losses import functional as L


def dist_by_hand(s: np.ndarray, t: np.ndarray, label: np.ndarray) -> float:
    rows = pixels(label)
    s, t = (softmax(np.array([f[n, :, y, x] for n, y, x in rows]) / 2) for f in (s, t))
    inter = np.mean([1 - np.corrcoef(a, b)[0, 1] for a, b in zip(s, t, strict=True)])
    intra = np.mean([1 - np.corrcoef(a, b)[0, 1] for a, b in zip(s.T, t.T, strict=True)])
    return float(2**2 * (2 * inter + 3 * intra))


def dkd_by_hand(s: np.ndarray, t: np.ndarray, label: np.ndarray) -> float:
    each = []
    for n, y, x in pixels(label):
        k = label[n, y, x]
        a, b = t[n, :, y, x] / 4, s[n, :, y, x] / 4
        p, q = softmax(a), softmax(b)
        target = kl_divergence(np.array([p[k], 1 - p[k]]), np.array([q[k], 1 - q[k]]))
        others = kl_divergence(softmax(np.delete(a, k)), softmax(np.delete(b, k)))
        each.append(target + 8 * others)
    return 16 * float(np.mean(each))


def standardised(logits: np.ndarray) -> np.ndarray:
    """As Sun et al. publish it."""
    return (logits - logits.mean(axis=1, keepdims=True)) / (1e-7 + logits.std(axis=1, ddof=1, keepdims=True))


BY_HAND: dict[str, ByHand] = {
    "kl": lambda s, t, label: kl_by_hand(s, t, label, tau=2.0),
    "kl_per_class": lambda s, t, label: kl_by_hand(s, t, label, tau=1.0) / CLASSES,
    "kl_standardised": lambda s, t, label: kl_by_hand(standardised(s), standardised(t), label, tau=2.0),
    "cwd": cwd_by_hand,
    "dist": dist_by_hand,
    "dkd": dkd_by_hand,
    "dkd_standardised": lambda s, t, label: dkd_by_hand(standardised(s), standardised(t), label),
}  # fmt: skip


@pytest.mark.parametrize("name", cases_in("distributions"))
def test_value_is_the_one_worked_out_by_hand(name: str) -> None:
    by_hand, double, single = values(name, BY_HAND[name])
    assert double == pytest.approx(by_hand, rel=1e-6) and single == pytest.approx(by_hand, rel=1e-4)


@pytest.mark.parametrize("name", cases_in("distributions"))
def test_gradient_is_that_of_the_value_by_hand(name: str) -> None:
    by_hand, slope = slopes(name, BY_HAND[name])
    assert abs(by_hand) > 1e-4 and slope == pytest.approx(by_hand, rel=1e-5)


@pytest.mark.parametrize("name", ["kl", "kl_per_class", "dkd"])
def test_a_single_valid_pixel_counts_whole(name: str) -> None:
    by_hand, double, _ = values(name, BY_HAND[name], one_valid_pixel())
    assert double == pytest.approx(by_hand, rel=1e-6)


def test_kl_of_two_known_distributions() -> None:
    # p_t = (3/4, 1/4), p_s = (1/2, 1/2): 3/4 log 3/2 + 1/4 log 1/2
    teacher = torch.log(torch.tensor([3.0, 1.0])).view(1, 2, 1, 1).expand(1, 2, 2, 2)
    expected = 0.75 * np.log(1.5) + 0.25 * np.log(0.5)
    student = torch.zeros(1, 2, 2, 2)
    assert L.kl(student, teacher).item() == pytest.approx(expected, rel=1e-6)
    assert L.kl(student, teacher, per_class=True).item() == pytest.approx(expected / 2, rel=1e-6)
    # The factor T^2 is there so that the gradient for small differences hardly changes with T.
    assert L.kl(student, 4 * teacher, tau=4.0).item() == pytest.approx(16 * expected, rel=1e-6)


def test_cwd_is_over_the_whole_plane_not_over_rows() -> None:
    # One channel, whole rows exchanged: every row's own softmax is the same, the plane's is not.
    teacher = torch.tensor([[0.0, 0.0], [3.0, 3.0]]).view(1, 1, 2, 2)
    assert L.cwd(teacher.flip(2), teacher, tau=1.0).item() > 1.0


def test_dist_of_two_classes_teaches_through_the_pixels_only() -> None:
    student, teacher, _ = batch()
    student, teacher = student[:, :2].requires_grad_(), teacher[:, :2]
    L.dist(student, teacher, gamma=0.0).backward()
    assert student.grad is not None
    assert student.grad.abs().max() < 1e-5


def absent_classes(margin: float, noise: float = 0.5) -> tuple[Tensor, Tensor]:
    """Logits of 19 classes of which 10 occur, ``margin`` above the others; the student's differ by ``noise``."""
    generator = torch.Generator().manual_seed(0)
    label = torch.randint(0, 10, (2, 24, 24), generator=generator)
    teacher = torch.randn(2, 19, 24, 24, generator=generator) + margin * F.one_hot(label, 19).movedim(3, 1)
    return teacher + noise * torch.randn(teacher.shape, generator=generator), teacher


def exact_dist(student: Tensor, teacher: Tensor) -> Tensor:
    """The definition in float64, without any floor, as the authors' code comes to with enough pixels."""
    rows = [x.double().softmax(dim=1).movedim(1, 3).flatten(0, 2) for x in (student, teacher)]
    distances = []
    for dim in (0, 1):
        s, t = (x - x.mean(dim=dim, keepdim=True) for x in rows)
        distances.append(1 - F.cosine_similarity(s, t, dim=dim, eps=0).mean())
    return distances[0] + distances[1]


@pytest.mark.parametrize("margin", [0.0, 8.0, 16.0, 24.0, 40.0])
def test_dist_of_absent_classes(margin: float) -> None:
    """Their probabilities are small everywhere, and vary all the same."""
    student, teacher = absent_classes(margin)
    assert L.dist(teacher, teacher).item() == pytest.approx(0, abs=1e-5)
    student.requires_grad_()
    (gradient,) = torch.autograd.grad(L.dist(student, teacher), student)
    expected = exact_dist(student, teacher)
    (exact,) = torch.autograd.grad(expected, student)
    assert L.dist(student, teacher).item() == pytest.approx(expected.item(), rel=1e-5)
    assert (gradient - exact).norm() < 1e-3 * exact.norm()


@pytest.mark.parametrize(("size_s", "size_t"), [(3e-4, 1.0), (3e-5, 1.0), (1.0, 3e-4), (1.0, 3e-5), (3e-5, 3e-5)])
def test_dist_over_classes_that_hardly_differ(size_s: float, size_t: float) -> None:
    """Below a relative deviation of a ten-thousandth the length of a side is a constant, of which the gradient has no
    part."""
    teacher = size_t * torch.tensor([1.0, -0.5, 0.2], dtype=torch.float64).view(1, 3, 1, 1)
    student = size_s * torch.tensor([0.3, 1.0, -1.0], dtype=torch.float64).view(1, 3, 1, 1)
    student.requires_grad_()

    def by_hand(s: Tensor) -> Tensor:
        x, y = (p.softmax(dim=1).flatten() * 3 - 1 for p in (s, teacher))
        lengths = (side.square().mean().sqrt().clamp(min=1e-4) for side in (x, y))
        return 1 - (x * y).mean() / next(lengths) / next(lengths)

    value, expected = L.dist(student, teacher, gamma=0.0), by_hand(student)
    torch.testing.assert_close(value, expected)
    gradients = [torch.autograd.grad(each, student)[0] for each in (value, expected)]
    torch.testing.assert_close(*gradients)


@pytest.mark.parametrize(("size_s", "size_t"), [(3e-4, 1.0), (3e-5, 1.0), (1.0, 3e-4), (1.0, 3e-5)])
def test_dist_over_pixels_that_hardly_differ(size_s: float, size_t: float) -> None:
    """The same for the probabilities of a class. The mean that they are divided by is a constant too: it would add to
    the gradient a part of the size of the deviation."""
    student, teacher, _ = batch(dtype=torch.float64)
    student, teacher = (size_s * student).requires_grad_(), size_t * teacher

    def by_hand(s: Tensor) -> Tensor:
        p, q = (x.softmax(dim=1).movedim(1, 0).flatten(1) for x in (s, teacher))
        x, y = (side / side.mean(dim=1, keepdim=True) - 1 for side in (p, q))
        lengths = (side.square().mean(dim=1).sqrt().clamp(min=1e-4) for side in (x, y))
        return (1 - (x * y).mean(dim=1) / next(lengths) / next(lengths)).mean()

    value, expected = L.dist(student, teacher, beta=0.0), by_hand(student)
    torch.testing.assert_close(value, expected)
    gradients = [torch.autograd.grad(each, student)[0] for each in (value, expected)]
    torch.testing.assert_close(*gradients, rtol=1e-3, atol=1e-4 * gradients[0].abs().max().item())


def test_dist_over_a_single_pixel_has_no_correlation() -> None:
    """1 - 0 for each class, without a gradient; without any pixel the value is 0."""
    student, teacher, _ = batch()
    student.requires_grad_()
    value = L.dist(student, teacher, mask=one_valid_pixel() != 255, beta=0.0, gamma=2.0)
    assert value.item() == pytest.approx(2) and not torch.autograd.grad(value, student)[0].any()


def test_dist_of_classes_without_any_probability() -> None:
    """At a margin of 200 nothing is left of it in float32: no correlation, and no gradient that is not finite."""
    student, teacher = absent_classes(200.0)
    student.requires_grad_()
    value = L.dist(student, teacher)
    value.backward()
    assert value.isfinite() and student.grad is not None and student.grad.isfinite().all()


def test_dkd_with_a_confident_teacher_keeps_its_digits() -> None:
    # 1 - p_target is 1e-13 here: gone in float32 unless it comes from the other classes' own terms.
    student, teacher = torch.zeros(1, 3, 1, 1), torch.tensor([30.0, 0.0, 1.0]).view(1, 3, 1, 1)
    label = torch.zeros(1, 1, 1, dtype=torch.long)
    p = softmax(np.array([0.0, 1.0]))
    expected = np.log(3) + kl_divergence(p, np.array([0.5, 0.5]))
    assert L.dkd(student, teacher, label, tau=1.0, beta=1.0).item() == pytest.approx(expected, rel=1e-5)


def test_dkd_gives_an_ignored_pixel_no_gradient_to_the_last_bit() -> None:
    """Of its equal logits the parts would leave rounding errors."""
    student, teacher = (torch.randn(1, 7, 4, 6, generator=torch.Generator().manual_seed(seed)) for seed in (0, 1))
    label = torch.arange(24).view(1, 4, 6) % 7
    label[0, :2] = 255
    student.requires_grad_()
    (gradient,) = torch.autograd.grad(L.dkd(student, teacher, label, tau=3.0, alpha=0.7, beta=0.3), student)
    assert not gradient[:, :, :2].any() and gradient[:, :, 2:].all()


def test_dkd_of_two_classes_has_no_part_among_the_others() -> None:
    student, teacher, label = batch()
    student, teacher, label = student[:, :2], teacher[:, :2], label.clamp(max=1)
    assert L.dkd(student, teacher, label, alpha=0.0, beta=8.0).item() == 0.0


def test_dkd_with_equal_parts_of_the_teachers_confidence_is_kl() -> None:
    """KL = target part + (1 - p_t of the target) * others' part: Zhao et al., equation 7, pixel by pixel."""
    student, teacher, label = batch(dtype=torch.float64)
    for n, y, x in pixels(label.numpy()):
        pixel = (slice(n, n + 1), slice(None), slice(y, y + 1), slice(x, x + 1))
        own = label[n : n + 1, y : y + 1, x : x + 1]
        rest = 1 - torch.softmax(teacher[pixel] / 4, dim=1)[0, own.item(), 0, 0].item()
        torch.testing.assert_close(
            L.dkd(student[pixel], teacher[pixel], own, beta=rest), L.kl(student[pixel], teacher[pixel], tau=4.0)
        )

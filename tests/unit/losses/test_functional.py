"""The rules that hold for every pure loss; their values by hand stand in the test file of each one's module."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from loss_cases import CASES, CLASSES, KEYS, MASKED, Case, batch, function_of, halves, labelled, masked, plain
from torch import Tensor

from rdistill.losses import LOSSES
from rdistill.losses import functional as L

# It contrasts: what differs most from the other groups is least, not what is alike.
ATTRACTED = {name: case for name, case in CASES.items() if name != "omni_contrast"}
every_case = pytest.mark.parametrize("case", CASES.values(), ids=CASES)
attracted_case = pytest.mark.parametrize("case", ATTRACTED.values(), ids=ATTRACTED)
masked_case = pytest.mark.parametrize("case", MASKED.values(), ids=MASKED)


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


def test_the_defaults_are_the_published_ones() -> None:
    """On a feature so large that the grids matter."""
    generator = torch.Generator().manual_seed(3)
    student, teacher = (torch.randn(1, CLASSES, 34, 36, generator=generator) for _ in range(2))
    label = torch.randint(0, CLASSES, (1, 34, 36), generator=generator)
    label[0, :5] = 255
    pairs: list[tuple[Callable[..., Tensor], dict[str, Any], tuple[Tensor, ...]]] = [
        (L.kl, dict(tau=1.0, per_class=False), ()),
        (L.cwd, dict(tau=4.0), ()),
        (L.dist, dict(tau=1.0, beta=1.0, gamma=1.0), ()),
        (L.dkd, dict(ignore_index=255, tau=4.0, alpha=1.0, beta=8.0), (label,)),
        (L.skd_pairwise, dict(grid=16), ()),
        (L.cirkd_pairs, dict(tau=0.1, grid=16), ()),
        (L.cirkd_memory, dict(tau=0.1, kd_tau=1.0, grid=32), (KEYS,)),
        (L.dsd, dict(tau=4.0, pixel_weight=1.0, category_weight=1.0), ()),
        (L.wkdf, dict(grid=4, mean_weight=2.0), ()),
        (L.hcl, dict(levels=3), ()),
    ]
    for function, defaults, more in pairs:
        expected = function(student, teacher, *more, **defaults)
        assert torch.equal(function(student, teacher, *more), expected), function.__name__
    of_labels: list[tuple[Callable[..., Tensor], dict[str, Any]]] = [
        (L.ifvd, dict(ignore_index=255)),
        (L.bpkd, dict(ignore_index=255, width=2, edge=1.0, body=1.0, tau=1.0, body_tau=4.0)),
    ]
    for function, defaults in of_labels:  # 300 classes, of which the ignored label could be one
        expected = function(student, teacher, halves(label), num_classes=300, **defaults)
        assert torch.equal(function(student, teacher, halves(label), num_classes=300), expected), function.__name__
    wide_student, wide_teacher = (torch.randn(1, 34, 20, 20, generator=generator) for _ in range(2))
    defaults = dict(tau=0.07, grid=16, patch=4, groups=16)
    expected = L.omni_contrast(wide_student, wide_teacher, **defaults)
    assert torch.equal(L.omni_contrast(wide_student, wide_teacher), expected)


@pytest.mark.parametrize("out_of_range", [-1, CLASSES, 254])
@pytest.mark.parametrize("name", ["dkd", "ifvd"])
def test_a_label_that_is_no_class_is_ignored(name: str, out_of_range: int) -> None:
    student, teacher, label = batch()
    wrong = torch.where(label == 255, out_of_range, label)
    assert torch.equal(CASES[name](student, teacher, wrong), CASES[name](student, teacher, label))


@pytest.mark.parametrize("function", [L.dkd, L.ifvd, L.bpkd], ids=lambda function: function.__name__)
def test_the_ignored_label_may_be_the_number_of_a_class(function: Callable[..., Tensor]) -> None:
    student, teacher, label = batch()
    more = {} if function is L.dkd else {"num_classes": CLASSES}
    value = function(student, teacher, label, ignore_index=1, **more)
    assert torch.equal(value, function(student, teacher, torch.where(label == 1, 255, label), **more))
    assert value != function(student, teacher, label, **more)


def test_no_mask_is_a_mask_of_everything() -> None:
    student, teacher, label = batch()
    full = torch.ones_like(label, dtype=torch.bool)
    for function in (L.kl, L.cwd, L.dist, L.dsd, L.l1, L.l2, L.cosine):
        torch.testing.assert_close(function(student, teacher), function(student, teacher, mask=full))
    torch.testing.assert_close(
        L.cirkd_memory(student, teacher, KEYS), L.cirkd_memory(student, teacher, KEYS, mask=full)
    )


def test_pairwise_losses_take_other_channels() -> None:
    student, teacher, label = batch()
    wide = torch.cat([teacher, teacher], dim=1)
    # Doubling every channel changes no cosine and no relative energy.
    for function in (L.skd_pairwise, L.cirkd_pairs, L.at):
        torch.testing.assert_close(function(student, wide), function(student, teacher))
    torch.testing.assert_close(
        L.ifvd(student, wide, label, num_classes=CLASSES),
        L.ifvd(student, teacher, label, num_classes=CLASSES),
    )


def test_every_function_has_a_case() -> None:
    assert {info.function for info in LOSSES.values()} == {function_of(name) for name in CASES}


@attracted_case
def test_identical_inputs_are_the_minimum(case: Case) -> None:
    student, teacher, label = batch()
    same = teacher.clone().requires_grad_()
    least = case(same, teacher, label)
    assert least.item() == pytest.approx(0.0, abs=2e-6)
    least.backward()
    assert same.grad is not None
    assert same.grad.abs().max() < 1e-5
    for scale in (0.01, 0.1, 1.0, 10.0):
        for sign in (1, -1):
            assert case(teacher + sign * scale * student, teacher, label).item() > least.item()


@every_case
def test_gradient_is_the_numerical_one(case: Case) -> None:
    student, teacher, label = batch(seed=1, dtype=torch.float64)
    student.requires_grad_()
    assert torch.autograd.gradcheck(lambda s: case(s, teacher, label), (student,))


@every_case
def test_no_gradient_reaches_the_teacher(case: Case) -> None:
    student, teacher, label = batch()
    teacher.requires_grad_()
    student.requires_grad_()
    case(student, teacher, label).backward()
    assert teacher.grad is None
    assert student.grad is not None
    assert student.grad.abs().sum() > 0


@every_case
def test_batch_size_does_not_change_the_value(case: Case) -> None:
    student, teacher, label = batch()
    twice = case(torch.cat([student] * 2), torch.cat([teacher] * 2), torch.cat([label] * 2))
    torch.testing.assert_close(twice, case(student, teacher, label), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", [name for name in CASES if name != "bpkd"])  # whose edges have a width in pixels
def test_resolution_does_not_change_the_value(name: str) -> None:
    case = CASES[name]
    student, teacher, label = batch()
    big = [x.repeat_interleave(2, dim=-1).repeat_interleave(2, dim=-2) for x in (student, teacher, label)]
    torch.testing.assert_close(case(big[0], big[1], big[2]), case(student, teacher, label), rtol=1e-5, atol=1e-6)


@masked_case
def test_all_ignored_is_a_connected_zero(case: Case) -> None:
    student, teacher, label = batch()
    student, teacher = student * 1e38, teacher * 1e38
    student[0, 0, 0, 0], student[1, 1, 1, 1], teacher[0, 0, 0, 1] = float("inf"), float("nan"), float("inf")
    student.requires_grad_()
    value = case(student, teacher, torch.full_like(label, 255))
    assert value.item() == 0.0
    value.backward()
    assert student.grad is not None
    assert torch.equal(student.grad, torch.zeros_like(student))


@masked_case
@pytest.mark.parametrize("junk", [1e30, float("inf"), float("nan")])
def test_what_is_ignored_does_not_matter(case: Case, junk: float) -> None:
    student, teacher, label = batch()
    ignored = (label == 255).unsqueeze(1).expand_as(student)
    student_junk = torch.where(ignored, junk, student).requires_grad_()
    student.requires_grad_()
    clean, dirty = (
        case(student, teacher, label),
        case(student_junk, torch.where(ignored, junk, teacher), label),
    )
    assert torch.equal(clean, dirty)
    clean.backward()
    dirty.backward()
    assert torch.equal(student.grad, student_junk.grad)
    assert student.grad is not None
    assert torch.equal(student.grad[ignored], torch.zeros_like(student.grad[ignored]))


@masked_case
def test_an_all_ignored_picture_does_not_dilute_the_others(case: Case) -> None:
    student, teacher, label = batch()
    value = case(student[:1], teacher[:1], label[:1])
    label = label.clone()
    label[1] = 255
    torch.testing.assert_close(case(student, teacher, label), value, rtol=1e-5, atol=1e-6)


@every_case
def test_bfloat16_is_computed_in_float32(case: Case) -> None:
    student, teacher, label = batch()
    student, teacher = student.bfloat16().requires_grad_(), teacher.bfloat16()
    value = case(student, teacher, label)
    assert value.dtype == torch.float32
    assert torch.equal(value, case(student.float(), teacher.float(), label))
    value.backward()
    assert student.grad is not None
    assert student.grad.dtype == torch.bfloat16
    assert student.grad.isfinite().all()


@every_case
def test_autocast_changes_nothing(case: Case) -> None:
    student, teacher, label = batch()
    with torch.autocast("cpu", torch.bfloat16):
        value = case(student, teacher, label)
    assert value.dtype == torch.float32
    assert torch.equal(value, case(student, teacher, label))


@every_case
def test_dead_features_leave_finite_gradients(case: Case) -> None:
    """After a ReLU whole positions and channels are zero; so is everything in a freshly zeroed layer."""
    student, teacher, label = batch()
    for dead in (torch.zeros_like(student), student.relu() * (student[:, :1] > 0)):
        dead = dead.clone().requires_grad_()
        value = case(dead, teacher, label)
        value.backward()
        assert dead.grad is not None
        assert value.isfinite()
        assert dead.grad.isfinite().all()
        assert case(dead, dead.detach(), label).isfinite()


# What a factor on both inputs (and on the temperature) does to each loss: the power of it that the value grows by.
SCALED: dict[str, tuple[int, Callable[[float], Case]]] = {
    "skd": (0, lambda k: plain(L.skd_pairwise, grid=2)),
    "ifvd": (0, lambda k: labelled(L.ifvd, num_classes=CLASSES)),
    "cirkd": (0, lambda k: plain(L.cirkd_pairs, grid=2)),
    "cirkd_memory": (0, lambda k: CASES["cirkd_memory"]),
    "at": (0, lambda k: plain(L.at)),
    "pkd": (0, lambda k: plain(L.pkd)),
    "cosine": (0, lambda k: masked(L.cosine)),
    "dsd": (0, lambda k: masked(L.dsd, tau=4 * k)),
    "dsd_layers": (0, lambda k: lambda s, t, label: L.dsd([s * s.abs() / k, s], [t, t / 3], mask=label != 255, tau=k)),
    "l1": (1, lambda k: masked(L.l1)),
    "l2": (2, lambda k: masked(L.l2)),
    "fitnet": (2, lambda k: plain(L.fitnet)),
    "mgd": (2, lambda k: plain(L.mgd)),
    "kl": (2, lambda k: masked(L.kl, tau=k)),
    "cwd": (2, lambda k: masked(L.cwd, tau=k)),
    "dist": (2, lambda k: masked(L.dist, tau=k)),
    "dkd": (2, lambda k: labelled(L.dkd, tau=k)),
    "bpkd": (
        2, lambda k: lambda s, t, label: L.bpkd(s, t, halves(label), num_classes=3, width=1, tau=k, body_tau=k)
    ),
    "kl_standardised": (0, lambda k: masked(L.kl, standardize=True)),
    "dkd_standardised": (0, lambda k: labelled(L.dkd, standardize=True)),
    "wkdf": (2, lambda k: plain(L.wkdf, grid=2)),
    "hcl": (2, lambda k: plain(L.hcl, levels=2)),
    "omni_contrast": (0, lambda k: plain(L.omni_contrast, tau=k, grid=2, patch=2)),
}  # fmt: skip
NOT_SCALED = {"theia"}  # its target is standardised, so it has a size of 1 whatever the teacher's


def test_every_function_is_scaled() -> None:
    assert set(SCALED) | NOT_SCALED >= {name.split("_per_")[0].removesuffix("_unpooled") for name in CASES}


@pytest.mark.parametrize("decade", [-6, -4, -3, -2, -1, 1, 3, 6])
@pytest.mark.parametrize("name", SCALED)
def test_no_absolute_size_counts(name: str, decade: int) -> None:
    """Over 12 decades, in float32, also with features that a ReLU has zeroed: no floor is an absolute number."""
    student, teacher, label = batch()
    power, case = SCALED[name]
    k = 10.0**decade
    for prepare in (lambda x: x, with_dead_positions):
        values, gradients = [], []
        for scale in (1.0, k):
            x = (prepare(student) * scale).requires_grad_()
            values.append(case(scale)(x, prepare(teacher) * scale, label))
            gradients.append(torch.autograd.grad(values[-1], x)[0])
        assert values[1].item() == pytest.approx(values[0].item() * k**power, rel=1e-4)
        torch.testing.assert_close(gradients[1] * k ** (1 - power), gradients[0], rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("decade", [-6, -3, 3, 6])
@pytest.mark.parametrize(
    "name", [name for name, (power, _) in SCALED.items() if not power and name[:3] not in ("dsd", "omn")]
)
def test_each_side_has_its_own_scale(name: str, decade: int) -> None:
    """A student of other features than its teacher's: what compares directions sees no difference in size."""
    student, teacher, label = batch()
    case, k = SCALED[name][1](1.0), 10.0**decade
    expected = case(student, teacher, label)
    torch.testing.assert_close(case(student * k, teacher, label), expected, rtol=1e-4, atol=0)
    torch.testing.assert_close(case(student, teacher * k, label), expected, rtol=1e-4, atol=0)


def with_dead_positions(x: Tensor) -> Tensor:
    """As after a ReLU: some positions zero in every channel, the other values positive."""
    x = x.abs()
    x[:, :, 1, 1:3] = 0
    x[1, :, 3, :3] = 0
    return x


@pytest.mark.parametrize("nearly", [0.0, 1e-20, 1e-7])
@pytest.mark.parametrize("name", ["cosine", "ifvd", "cirkd_unpooled", "skd_unpooled", "cirkd_memory_all"])
def test_dead_positions_have_no_say(name: str, nearly: float) -> None:
    """Their direction is none or noise, and its gradient would be that of all other positions many times over."""
    cases = CASES | {"cirkd_memory_all": lambda s, t, label: L.cirkd_memory(s, t, KEYS)}
    student, teacher, label = batch(seed=3)
    label = label.clamp(max=CLASSES - 1)
    dead = (with_dead_positions(student) == 0).all(dim=1, keepdim=True).expand_as(student)
    student = torch.where(dead, nearly * student, student).requires_grad_()
    (gradient,) = torch.autograd.grad(cases[name](student, teacher, label), student)
    # IFVD's share is that of the class centre, in which every position counts.
    assert gradient[dead].norm() < (1 if name == "ifvd" else 0.01) * gradient[~dead].norm()
    if name != "ifvd" and not nearly:
        assert not gradient[dead].any()


@every_case
def test_large_logits_stay_finite(case: Case) -> None:
    student, teacher, label = batch()
    student = (student * 1e4).requires_grad_()
    value = case(student, teacher * 1e4, label)
    value.backward()
    assert value.isfinite()
    assert student.grad is not None
    assert student.grad.isfinite().all()


@every_case
def test_shapes_that_do_not_match_are_an_error(case: Case) -> None:
    student, teacher, label = batch()
    with pytest.raises(ValueError, match=r"\(2, 3, 4, 6\)"):
        case(student, teacher[..., :5], label)


@pytest.mark.parametrize("name", [name for name in MASKED if name[:3] not in ("ifv", "dkd", "bpk")])
def test_a_mask_of_another_size_is_an_error(name: str) -> None:
    student, teacher, label = batch()
    with pytest.raises(ValueError, match=r"^mask must be \(2, 4, 6\) like the tensors, got \(2, 2, 6\)$"):
        MASKED[name](student, teacher, label[:, :2])


@every_case
def test_value_needs_no_data(case: Case) -> None:
    """On the meta device there is no data to look at: a branch on a value, or an .item(), would raise."""
    if case is CASES["cirkd_memory"]:
        student, teacher, label = (x.to("meta") for x in batch())
        keys = KEYS.to("meta")
        assert L.cirkd_memory(student, teacher, keys, mask=label != 255).shape == ()
        return
    student, teacher, label = (x.to("meta") for x in batch())
    assert case(student, teacher, label).shape == ()

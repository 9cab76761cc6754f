"""The pure losses: hand values in numpy, and the rules that hold for every one of them."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from rdistill.losses import functional as L

CLASSES = 3
KEYS = F.normalize(torch.randn(7, CLASSES, generator=torch.Generator().manual_seed(5)), dim=1)

# Every loss as f(student, teacher, label); the label's ignored pixels (255) become its mask where it has one.
Case = Callable[[Tensor, Tensor, Tensor], Tensor]


def masked(function: Callable[..., Tensor], **params: Any) -> Case:
    return lambda s, t, label: function(s, t, mask=label != 255, **params)


def labelled(function: Callable[..., Tensor], **params: Any) -> Case:
    return lambda s, t, label: function(s, t, label, **params)


def plain(function: Callable[..., Tensor], **params: Any) -> Case:
    return lambda s, t, label: function(s, t, **params)


# Three layers whose attention differs, made of one tensor pixel by pixel (powers of two: exact in bfloat16).
LAYER_SCALES = torch.tensor([[2.0, 1.0, 0.5], [0.25, 1.0, 4.0], [1.0, 1.0, 1.0]])


def dsd_layers(s: Tensor, t: Tensor, label: Tensor) -> Tensor:
    scales = LAYER_SCALES.to(s).view(3, 1, CLASSES, 1, 1)
    return L.dsd([s * scale for scale in scales], [t * scale for scale in scales], mask=label != 255)


def halves(label: Tensor) -> Tensor:
    """Class 0 on the left, 1 on the right, so that there is a body beside the edge; ignored where ``label`` is."""
    columns = torch.arange(label.shape[-1], device=label.device) * 2 // label.shape[-1]
    return torch.where(label == 255, 255, columns)


MASKED: dict[str, Case] = {
    "kl": masked(L.kl, tau=2.0),
    "kl_per_class": masked(L.kl, per_class=True),
    "kl_standardised": masked(L.kl, tau=2.0, standardize=True),
    "dkd_standardised": labelled(L.dkd, standardize=True),
    "cwd": masked(L.cwd),
    "dist": masked(L.dist, tau=2.0, beta=2.0, gamma=3.0),
    "dsd": masked(L.dsd),
    "dsd_layers": dsd_layers,
    "l1": masked(L.l1),
    "l2": masked(L.l2),
    "cosine": masked(L.cosine),
    "cirkd_memory": lambda s, t, label: L.cirkd_memory(s, t, KEYS, mask=label != 255, kd_tau=2.0, grid=2),
    "ifvd": labelled(L.ifvd, num_classes=CLASSES),
    "dkd": labelled(L.dkd),
    "bpkd": lambda s, t, label: L.bpkd(s, t, halves(label), num_classes=CLASSES, width=1, edge=2.0, tau=2.0),
}
CASES: dict[str, Case] = MASKED | {
    "skd": plain(L.skd_pairwise, grid=2),
    "skd_unpooled": plain(L.skd_pairwise),
    "cirkd": plain(L.cirkd_pairs, grid=2),
    "cirkd_unpooled": plain(L.cirkd_pairs, tau=0.5, grid=16),
    "at": plain(L.at),
    "fitnet": plain(L.fitnet),
    "mgd": plain(L.mgd),
    "pkd": plain(L.pkd),
    "wkdf": plain(L.wkdf, grid=2, mean_weight=3.0),
    "hcl": plain(L.hcl, levels=2),
    "theia": plain(L.theia),
    "omni_contrast": plain(L.omni_contrast, tau=0.5, grid=2, patch=2, groups=3),
}
# It contrasts: what differs most from the other groups is least, not what is alike.
ATTRACTED = {name: case for name, case in CASES.items() if name != "omni_contrast"}
every_case = pytest.mark.parametrize("case", CASES.values(), ids=CASES)
attracted_case = pytest.mark.parametrize("case", ATTRACTED.values(), ids=ATTRACTED)
masked_case = pytest.mark.parametrize("case", MASKED.values(), ids=MASKED)


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


def batch(seed: int = 0, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor, Tensor]:
    """Student, teacher (2 x 3 x 4 x 6) and a label (2 x 4 x 6) with ignored pixels."""
    generator = torch.Generator().manual_seed(seed)
    student, teacher = (torch.randn(2, CLASSES, 4, 6, generator=generator, dtype=dtype) for _ in range(2))
    label = torch.randint(0, CLASSES, (2, 4, 6), generator=generator)
    label[0, :2, :3] = 255
    label[1, 3, 4] = 255
    return student, teacher, label


# ---------------------------------------------------------------------------------------------------------
# Values, worked out in numpy pixel by pixel


def softmax(x: np.ndarray, axis: int = -1) -> np.ndarray:
    e = np.exp(x - x.max(axis=axis, keepdims=True))
    return e / e.sum(axis=axis, keepdims=True)


def kl_divergence(p: np.ndarray, q: np.ndarray) -> float:
    return float(np.sum(p * np.log(p / q)))


def cosine_of(a: np.ndarray, b: np.ndarray) -> float:
    return float(a @ b / np.linalg.norm(a) / np.linalg.norm(b))


def pixels(label: np.ndarray) -> list[tuple[int, int, int]]:
    return [(n, y, x) for n, y, x in np.ndindex(*label.shape) if label[n, y, x] != 255]


def kl_by_hand(s: np.ndarray, t: np.ndarray, label: np.ndarray, tau: float) -> float:
    each = [kl_divergence(softmax(t[n, :, y, x] / tau), softmax(s[n, :, y, x] / tau)) for n, y, x in pixels(label)]
    return tau**2 * float(np.mean(each))


def cwd_by_hand(s: np.ndarray, t: np.ndarray, label: np.ndarray) -> float:
    total = 0.0
    for n, c in np.ndindex(*s.shape[:2]):
        valid = label[n] != 255
        total += kl_divergence(softmax(t[n, c][valid] / 4), softmax(s[n, c][valid] / 4))
    return 16 * total / (s.shape[0] * s.shape[1])


def skd_by_hand(s: np.ndarray, t: np.ndarray, grid: int | None) -> float:
    def affinity(x: np.ndarray, n: int) -> np.ndarray:
        height, width = (x.shape[2] // grid, x.shape[3] // grid) if grid else (1, 1)
        rows, columns = x.shape[2] // height, x.shape[3] // width
        cells = [
            x[n, :, i * height : (i + 1) * height, j * width : (j + 1) * width].max(axis=(1, 2))
            for i in range(rows)
            for j in range(columns)
        ]
        return np.array([[cosine_of(a, b) for b in cells] for a in cells])

    return float(np.mean([(affinity(t, n) - affinity(s, n)) ** 2 for n in range(len(s))]))


def ifvd_by_hand(s: np.ndarray, t: np.ndarray, label: np.ndarray) -> float:
    def similarity(f: np.ndarray, n: int, y: int, x: int) -> float:
        return cosine_of(f[n, :, y, x], f[n][:, label[n] == label[n, y, x]].mean(axis=1))

    return float(np.mean([(similarity(s, *p) - similarity(t, *p)) ** 2 for p in pixels(label)]))


def cirkd_by_hand(s: np.ndarray, t: np.ndarray, tau: float, grid: bool) -> float:
    def nodes(f: np.ndarray) -> np.ndarray:  # N x nodes x C
        if grid:  # 2 x 2 averages of a 4 x 6 feature
            f = f.reshape(2, CLASSES, 2, 2, 2, 3).mean(axis=(3, 5))
        f = f.reshape(2, CLASSES, -1).transpose(0, 2, 1)
        return f / np.linalg.norm(f, axis=2, keepdims=True)

    s, t = nodes(s), nodes(t)
    per_pair = []
    for i in range(2):
        for j in range(2):
            rows = [
                kl_divergence(softmax(t[j] @ t[i, k] / tau), softmax(s[j] @ s[i, k] / tau)) for k in range(s.shape[1])
            ]
            per_pair.append(np.mean(rows))
    return float(np.sum(per_pair) / 2**2)


def memory_by_hand(s: np.ndarray, t: np.ndarray, label: np.ndarray) -> float:
    keys = KEYS.double().numpy()
    each = []
    for n in range(2):
        for y in (0, 2):
            for x in (0, 3):  # a 2 x 2 choice of the 4 x 6 pixels
                if label[n, y, x] != 255:
                    a, b = (keys @ (f[n, :, y, x] / np.linalg.norm(f[n, :, y, x])) / 0.1 / 2 for f in (t, s))
                    each.append(kl_divergence(softmax(a), softmax(b)))
    return 2**2 * float(np.mean(each))


def dist_by_hand(s: np.ndarray, t: np.ndarray, label: np.ndarray) -> float:
    rows = pixels(label)
    s, t = (softmax(np.array([f[n, :, y, x] for n, y, x in rows]) / 2) for f in (s, t))
    inter = np.mean([1 - np.corrcoef(a, b)[0, 1] for a, b in zip(s, t, strict=True)])
    intra = np.mean([1 - np.corrcoef(a, b)[0, 1] for a, b in zip(s.T, t.T, strict=True)])
    return float(2**2 * (2 * inter + 3 * intra))


def attention_by_hand(f: np.ndarray, valid: np.ndarray) -> np.ndarray:
    energy = np.where(valid, (f**2).mean(axis=0), 0).ravel()
    return energy / np.linalg.norm(energy)


def at_by_hand(s: np.ndarray, t: np.ndarray) -> float:
    everywhere = np.ones(s.shape[2:], dtype=bool)
    return float(
        np.mean([np.sum((attention_by_hand(a, everywhere) - attention_by_hand(b, everywhere)) ** 2)
                 for a, b in zip(s, t, strict=True)])
    )  # fmt: skip


def gram_error_by_hand(s: np.ndarray, t: np.ndarray, label: np.ndarray) -> float:
    def gram(f: np.ndarray, n: int) -> np.ndarray:
        p = softmax(f[n][:, label[n] != 255] / 4)
        return p.shape[1] * p @ p.T

    return float(np.mean([(gram(s, n) - gram(t, n)) ** 2 for n in range(2)]))


def dsd_by_hand(s: np.ndarray, t: np.ndarray, label: np.ndarray, *, layers: bool) -> float:
    def maps(f: np.ndarray, n: int) -> list[np.ndarray]:
        stack = [f[n] * scale[:, None, None] for scale in LAYER_SCALES.numpy()] if layers else [f[n]]
        attention = [attention_by_hand(layer, label[n] != 255) for layer in stack]
        if not layers:
            return attention
        residuals = [attention[j] - attention[i] for i, j in ((0, 1), (0, 2), (1, 2))]
        return [r / np.linalg.norm(r) for r in residuals]

    each = [np.sum((a - b) ** 2) for n in range(2) for a, b in zip(maps(s, n), maps(t, n), strict=True)]
    return float(np.mean(each)) + gram_error_by_hand(s, t, label)


def pkd_by_hand(s: np.ndarray, t: np.ndarray) -> float:
    """As the paper puts it: one minus the channel's Pearson correlation."""
    return float(np.mean([1 - np.corrcoef(s[:, c].ravel(), t[:, c].ravel())[0, 1] for c in range(CLASSES)]))


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


def bpkd_by_hand(s: np.ndarray, t: np.ndarray, label: np.ndarray) -> float:
    """Width 1, edge 2, body 1, tau 2 at the edge and 4 in the body."""
    label = halves(torch.from_numpy(label)).numpy()
    edge, body = np.full(label.shape, 255), np.full(label.shape, 255)
    for n, y, x in pixels(label):
        around = label[n, max(y - 1, 0) : y + 2, max(x - 1, 0) : x + 2]
        (edge if len(set(around[around != 255])) > 1 else body)[n, y, x] = label[n, y, x]
    return 2 * kl_by_hand(s, t, edge, tau=2.0) + cwd_by_hand(s, t, body)


def cells_of(f: np.ndarray) -> np.ndarray:
    """N x C x 4 x 6 in 2 x 2 cells of 2 x 3: N x C x cells x positions."""
    n, c, h, w = f.shape
    return f.reshape(n, c, 2, h // 2, 2, w // 2).transpose(0, 1, 2, 4, 3, 5).reshape(n, c, 4, -1)


def wkdf_by_hand(s: np.ndarray, t: np.ndarray) -> float:
    s, t = cells_of(s), cells_of(t)
    squares = 3 * (s.mean(3) - t.mean(3)) ** 2 + (s.std(3) - t.std(3)) ** 2
    return float(squares.sum(axis=1).mean())


def hcl_by_hand(s: np.ndarray, t: np.ndarray) -> float:
    difference = s - t
    levels = [difference**2, cells_of(difference).mean(3) ** 2, difference.mean(axis=(2, 3)) ** 2]
    return float(sum(weight * level.mean() for weight, level in zip((1, 0.5, 0.25), levels, strict=True)) / 1.75)


def theia_by_hand(s: np.ndarray, t: np.ndarray) -> float:
    everywhere = np.zeros((2, 4, 6))
    angles = [1 - cosine_of(a, b) for a, b in zip(at_pixels(s, everywhere), at_pixels(t, everywhere), strict=True)]
    difference = np.abs(s - t)
    return float(0.9 * np.mean(angles) + 0.1 * np.where(difference < 1, difference**2 / 2, difference - 0.5).mean())


def contrast_by_hand(s: np.ndarray, t: np.ndarray) -> float:
    """One patch of 2 x 2 cells an image, three groups of one channel, tau 0.5."""
    s, t = cells_of(s).max(3), cells_of(t).max(3)
    each = []
    for n, group, cell in np.ndindex(2, 3, 4):
        positive = np.exp(-abs(s[n, group, cell] - t[n, group, cell]) / 0.5)
        rest = [j for j in range(3) if j != group]
        negatives = np.exp(-np.abs(s[n, group, cell] - t[n, rest]) / 0.5).sum()
        each.append(-np.log(positive / (positive + negatives)))
    return float(np.mean(each))


def at_pixels(f: np.ndarray, label: np.ndarray) -> np.ndarray:
    return np.array([f[n, :, y, x] for n, y, x in pixels(label)])


BY_HAND: dict[str, Callable[[np.ndarray, np.ndarray, np.ndarray], float]] = {
    "kl": lambda s, t, label: kl_by_hand(s, t, label, tau=2.0),
    "kl_per_class": lambda s, t, label: kl_by_hand(s, t, label, tau=1.0) / CLASSES,
    "kl_standardised": lambda s, t, label: kl_by_hand(standardised(s), standardised(t), label, tau=2.0),
    "dkd_standardised": lambda s, t, label: dkd_by_hand(standardised(s), standardised(t), label),
    "cwd": cwd_by_hand,
    "skd": lambda s, t, label: skd_by_hand(s, t, grid=2),
    "skd_unpooled": lambda s, t, label: skd_by_hand(s, t, grid=None),
    "ifvd": ifvd_by_hand,
    "cirkd": lambda s, t, label: cirkd_by_hand(s, t, tau=0.1, grid=True),
    "cirkd_unpooled": lambda s, t, label: cirkd_by_hand(s, t, tau=0.5, grid=False),
    "cirkd_memory": memory_by_hand,
    "dist": dist_by_hand,
    "at": lambda s, t, label: at_by_hand(s, t),
    "fitnet": lambda s, t, label: float(np.mean((s - t) ** 2)),
    "mgd": lambda s, t, label: float(np.sum((s - t) ** 2)) / (2 * 4 * 6),
    "pkd": lambda s, t, label: pkd_by_hand(s, t),
    "dsd": lambda s, t, label: dsd_by_hand(s, t, label, layers=False),
    "dsd_layers": lambda s, t, label: dsd_by_hand(s, t, label, layers=True),
    "dkd": dkd_by_hand,
    "bpkd": bpkd_by_hand,
    "wkdf": lambda s, t, label: wkdf_by_hand(s, t),
    "hcl": lambda s, t, label: hcl_by_hand(s, t),
    "theia": lambda s, t, label: theia_by_hand(s, t),
    "omni_contrast": lambda s, t, label: contrast_by_hand(s, t),
    "l1": lambda s, t, label: float(np.mean(np.abs(at_pixels(s, label) - at_pixels(t, label)))),
    "l2": lambda s, t, label: float(np.mean((at_pixels(s, label) - at_pixels(t, label)) ** 2)),
    "cosine": lambda s, t, label: 1 - float(
        np.mean([cosine_of(a, b) for a, b in zip(at_pixels(s, label), at_pixels(t, label), strict=True)])
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_value_is_the_one_worked_out_by_hand(name: str) -> None:
    student, teacher, label = batch(dtype=torch.float64)
    expected = BY_HAND[name](student.numpy(), teacher.numpy(), label.numpy())
    assert CASES[name](student, teacher, label).item() == pytest.approx(expected, rel=1e-6)
    assert CASES[name](student.float(), teacher.float(), label).item() == pytest.approx(expected, rel=1e-4)


def test_kl_of_two_known_distributions() -> None:
    # p_t = (3/4, 1/4), p_s = (1/2, 1/2): 3/4 log 3/2 + 1/4 log 1/2
    teacher = torch.log(torch.tensor([3.0, 1.0])).view(1, 2, 1, 1).expand(1, 2, 2, 2)
    expected = 0.75 * np.log(1.5) + 0.25 * np.log(0.5)
    student = torch.zeros(1, 2, 2, 2)
    assert L.kl(student, teacher).item() == pytest.approx(expected, rel=1e-6)
    assert L.kl(student, teacher, per_class=True).item() == pytest.approx(expected / 2, rel=1e-6)
    # The factor T^2 is there so that the gradient for small differences hardly changes with T.
    assert L.kl(student, 4 * teacher, tau=4.0).item() == pytest.approx(16 * expected, rel=1e-6)


@pytest.mark.parametrize("name", ["kl", "kl_per_class", "l1", "l2", "cosine", "dkd", "cirkd_memory"])
def test_a_single_valid_pixel_counts_whole(name: str) -> None:
    student, teacher, label = batch(dtype=torch.float64)
    label = torch.full_like(label, 255)
    label[1, 2, 3] = 1
    expected = BY_HAND[name](student.numpy(), teacher.numpy(), label.numpy())
    assert CASES[name](student, teacher, label).item() == pytest.approx(expected, rel=1e-6)


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
    ]
    for function, defaults, more in pairs:
        expected = function(student, teacher, *more, **defaults)
        assert torch.equal(function(student, teacher, *more), expected), function.__name__
    assert torch.equal(
        L.ifvd(student, teacher, label, num_classes=CLASSES),
        L.ifvd(student, teacher, label, num_classes=CLASSES, ignore_index=255),
    )


@pytest.mark.parametrize("out_of_range", [-1, CLASSES, 254])
@pytest.mark.parametrize("name", ["dkd", "ifvd"])
def test_a_label_that_is_no_class_is_ignored(name: str, out_of_range: int) -> None:
    student, teacher, label = batch()
    wrong = torch.where(label == 255, out_of_range, label)
    assert torch.equal(CASES[name](student, teacher, wrong), CASES[name](student, teacher, label))


def test_a_mask_may_be_of_numbers() -> None:
    student, teacher, label = batch()
    mask = label != 255
    for number in (torch.uint8, torch.float32):
        assert torch.equal(L.kl(student, teacher, mask=mask.to(number)), L.kl(student, teacher, mask=mask))


def test_dsd_brings_layers_to_the_size_of_the_last() -> None:
    """Attention of a coarser layer is masked at its own size, interpolated, and masked again."""
    student, teacher, label = batch(dtype=torch.float64)
    coarse_s, coarse_t = (x[:, :, ::2, ::3] + 0.5 for x in (student, teacher))
    valid = (label != 255).unsqueeze(1)
    coarse_valid = L.resize_nearest(valid, (2, 2))

    def residuals(coarse: Tensor, last: Tensor) -> Tensor:
        energy = torch.where(coarse_valid, coarse, 0).square().mean(dim=1, keepdim=True)
        energy = F.interpolate(energy, size=(4, 6), mode="bilinear", align_corners=False)
        last = torch.where(valid, last, 0).square().mean(dim=1, keepdim=True)
        first, second = (F.normalize((x * valid).flatten(1), dim=1) for x in (energy, last))
        return F.normalize(second - first, dim=1)

    expected = (residuals(coarse_s, student) - residuals(coarse_t, teacher)).square().sum(dim=1).mean()
    actual = L.dsd(
        [coarse_s, student], [coarse_t, teacher], mask=valid.squeeze(1), pixel_weight=2.0, category_weight=0.0
    )
    torch.testing.assert_close(actual, 2 * expected)
    category = L.dsd([student], [teacher], mask=valid.squeeze(1), pixel_weight=0.0, category_weight=3.0)
    by_hand = gram_error_by_hand(student.numpy(), teacher.numpy(), label.numpy())
    assert category.item() == pytest.approx(3 * by_hand)


def test_cwd_is_over_the_whole_plane_not_over_rows() -> None:
    # One channel, whole rows exchanged: every row's own softmax is the same, the plane's is not.
    teacher = torch.tensor([[0.0, 0.0], [3.0, 3.0]]).view(1, 1, 2, 2)
    assert L.cwd(teacher.flip(2), teacher, tau=1.0).item() > 1.0


def test_no_mask_is_a_mask_of_everything() -> None:
    student, teacher, label = batch()
    full = torch.ones_like(label, dtype=torch.bool)
    for function in (L.kl, L.cwd, L.dist, L.dsd, L.l1, L.l2, L.cosine):
        torch.testing.assert_close(function(student, teacher), function(student, teacher, mask=full))
    torch.testing.assert_close(
        L.cirkd_memory(student, teacher, KEYS), L.cirkd_memory(student, teacher, KEYS, mask=full)
    )


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


# ---------------------------------------------------------------------------------------------------------
# Rules that hold for all


def test_every_function_has_a_case() -> None:
    from rdistill.losses import LOSSES

    variants = re.compile("_(per_class|unpooled|layers|standardised)$")
    covered = {variants.sub("", name) for name in CASES}
    named = {"skd_pairwise": "skd", "cirkd_pairs": "cirkd"}
    assert {named.get(info.function, info.function) for info in LOSSES.values()} == covered


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


def test_what_is_nearly_zero_is_so_beside_its_own_image() -> None:
    """A vector of 2e-5, a fifth of what counts beside vectors of 1, fades as its cube; in an image that is nearly empty
    it counts whole."""
    for rest, expected in ((1.0, 0.2**3), (0.0, 1.0)):
        x = torch.full((1, 1, 40_000), rest, dtype=torch.float64)
        x[0, 0, 0], x[0, 0, 1] = 2e-5, 1.0
        assert L.unit(x, dim=1)[0, 0, 0].item() == pytest.approx(expected, rel=1e-3)


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
    assert problem(L.dsd, [x, x], [x, x[:, :1]]).startswith("dsd, last layer: student and teacher must be")
    assert problem(L.dkd, x[:, :1], x[:, :1], torch.zeros(2, 4, 6)) == "dkd needs logits of at least 2 classes, got 1"


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


def test_nearest_resize_is_torchs_and_exact_for_labels() -> None:
    label = torch.randint(0, 255, (2, 12, 20))
    for size in ((12, 20), (6, 10), (24, 40), (5, 7), (1, 3)):
        expected = F.interpolate(label.unsqueeze(1).double(), size=size, mode="nearest").squeeze(1).long()
        assert torch.equal(L.resize_nearest(label, size), expected)


@pytest.mark.parametrize("width", [1, 2, 3])
def test_the_width_of_the_edge_counts_pixels(width: int) -> None:
    """Twice the resolution with twice the width is the same; every width alone is another value."""
    student, teacher, label = (x.repeat_interleave(2, dim=-1).repeat_interleave(2, dim=-2) for x in batch())
    label = halves(label)
    big = [x.repeat_interleave(2, dim=-1).repeat_interleave(2, dim=-2) for x in (student, teacher, label)]
    value = L.bpkd(student, teacher, label, num_classes=CLASSES, width=width)
    torch.testing.assert_close(L.bpkd(*big, num_classes=CLASSES, width=2 * width), value)
    assert not torch.isclose(L.bpkd(*big, num_classes=CLASSES, width=width), value)


def test_an_ignored_neighbour_makes_no_edge() -> None:
    student, teacher, _ = batch()
    label = torch.full((2, 4, 6), 255)
    label[..., :2], label[..., 4:] = 0, 1  # two ignored columns between: further apart than the width
    apart = L.bpkd(student, teacher, label, num_classes=CLASSES, width=2, edge=1.0, body=0.0)
    assert apart.item() == 0.0
    assert L.bpkd(student, teacher, label, num_classes=CLASSES, width=3, edge=1.0, body=0.0).item() > 0


def test_contrast_is_over_the_other_groups_of_the_same_patch() -> None:
    student, teacher, _ = batch()
    left = [x[..., :2] for x in (student, teacher)]
    both = [x[..., :4] for x in (student, teacher)]
    each = [L.omni_contrast(student[..., i : i + 2], teacher[..., i : i + 2], patch=2) for i in (0, 2)]
    torch.testing.assert_close(L.omni_contrast(*both, patch=2), (each[0] + each[1]) / 2)
    torch.testing.assert_close(L.omni_contrast(*left, patch=2), each[0])
    cut_off = [x[..., :3, :5] for x in (student, teacher)]
    torch.testing.assert_close(
        L.omni_contrast(*cut_off, patch=2), L.omni_contrast(*(x[..., :2, :4] for x in cut_off), patch=2)
    )


def test_groups_are_as_many_as_divide_the_channels() -> None:
    assert [L.groups_of(channels, 16) for channels in (512, 24, 15, 3, 17, 1)] == [16, 12, 15, 3, 0, 0]
    with pytest.raises(ValueError, match="17 channels cannot be split into 2 to 16 groups"):
        L.omni_contrast(torch.zeros(1, 17, 4, 4), torch.zeros(1, 17, 4, 4))


@pytest.mark.parametrize(("size", "counted"), [((4, 4), 2), ((8, 6), 3), ((2, 9), 1)])
def test_hcl_leaves_out_levels_that_are_not_coarser(size: tuple[int, int], counted: int) -> None:
    """A constant difference of 3 is 9 at every level, so the value is 9 however many count."""
    teacher = torch.randn(1, 2, *size)
    assert L.hcl(teacher + 3, teacher).item() == pytest.approx(9, rel=1e-5)
    spike = torch.zeros(1, 1, *size)
    spike[0, 0, 0, 0] = 1
    pooled = [F.adaptive_avg_pool2d(spike, cells).square().mean().item() for cells in (4, 2, 1) if cells < min(size)]
    assert len(pooled) == counted
    weights = {4: 0.5, 2: 0.25, 1: 0.125}
    used = [weights[cells] for cells in (4, 2, 1) if cells < min(size)]
    expected = (spike.square().mean().item() + sum(w * p for w, p in zip(used, pooled, strict=True))) / (1 + sum(used))
    assert L.hcl(spike, torch.zeros_like(spike)).item() == pytest.approx(expected)

"""Every pure loss as f(student, teacher, label), a batch for it, and what its values are worked out by hand with."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from rdistill.losses import functional as L

CLASSES = 3
KEYS = F.normalize(torch.randn(7, CLASSES, generator=torch.Generator().manual_seed(5)), dim=1)

# Every loss as f(student, teacher, label); the label's ignored pixels (255) become its mask where it has one.
Case = Callable[[Tensor, Tensor, Tensor], Tensor]
ByHand = Callable[[np.ndarray, np.ndarray, np.ndarray], float]
VARIANT = re.compile("_(per_class|unpooled|layers|standardised)$")
NAMED = {"skd": "skd_pairwise", "cirkd": "cirkd_pairs"}


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
    "cirkd_memory": lambda s, t, label: L.cirkd_memory(s, t, KEYS, mask=label != 255, kd_tau=3.0, grid=2),
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


def function_of(name: str) -> str:
    """The function that a case calls."""
    name = VARIANT.sub("", name)
    return NAMED.get(name, name)


def cases_in(module: str) -> list[str]:
    """The cases of a module of `rdistill.losses`: each of them has a value that its test file works out by hand."""
    return [name for name in CASES if getattr(L, function_of(name)).__module__ == f"rdistill.losses.{module}"]


def batch(seed: int = 0, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor, Tensor]:
    """Student, teacher (2 x 3 x 4 x 6) and a label (2 x 4 x 6) with ignored pixels."""
    generator = torch.Generator().manual_seed(seed)
    student, teacher = (torch.randn(2, CLASSES, 4, 6, generator=generator, dtype=dtype) for _ in range(2))
    label = torch.randint(0, CLASSES, (2, 4, 6), generator=generator)
    label[0, :2, :3] = 255
    label[1, 3, 4] = 255
    return student, teacher, label


def one_valid_pixel() -> Tensor:
    """A label of which all is ignored but one pixel."""
    label = torch.full((2, 4, 6), 255)
    label[1, 2, 3] = 1
    return label


def values(name: str, by_hand: ByHand, label: Tensor | None = None) -> tuple[float, float, float]:
    """A case's value by hand, as computed of float64, and as computed of float32."""
    student, teacher, usual = batch(dtype=torch.float64)
    label = usual if label is None else label
    expected = by_hand(student.numpy(), teacher.numpy(), label.numpy())
    case = CASES[name]
    return expected, case(student, teacher, label).item(), case(student.float(), teacher.float(), label).item()


def slopes(name: str, by_hand: ByHand) -> tuple[float, float]:
    """The derivative along one direction of the student: of the value by hand, by differences, and of the gradient."""
    student, teacher, label = batch(dtype=torch.float64)
    along = torch.randn(student.shape, generator=torch.Generator().manual_seed(9), dtype=student.dtype)
    step = 1e-5
    ends = (by_hand((student + sign * step * along).numpy(), teacher.numpy(), label.numpy()) for sign in (1, -1))
    expected = (next(ends) - next(ends)) / (2 * step)
    (gradient,) = torch.autograd.grad(CASES[name](student.requires_grad_(), teacher, label), student)
    return expected, float((gradient * along).sum())


# What the values are worked out by, in numpy, pixel by pixel ---------------------------------------------------------


def softmax(x: np.ndarray, axis: int = -1) -> np.ndarray:
    e = np.exp(x - x.max(axis=axis, keepdims=True))
    return e / e.sum(axis=axis, keepdims=True)


def kl_divergence(p: np.ndarray, q: np.ndarray) -> float:
    return float(np.sum(p * np.log(p / q)))


def cosine_of(a: np.ndarray, b: np.ndarray) -> float:
    return float(a @ b / np.linalg.norm(a) / np.linalg.norm(b))


def pixels(label: np.ndarray) -> list[tuple[int, int, int]]:
    return [(n, y, x) for n, y, x in np.ndindex(*label.shape) if label[n, y, x] != 255]


def at_pixels(f: np.ndarray, label: np.ndarray) -> np.ndarray:
    return np.array([f[n, :, y, x] for n, y, x in pixels(label)])


def cells_of(f: np.ndarray) -> np.ndarray:
    """N x C x 4 x 6 in 2 x 2 cells of 2 x 3: N x C x cells x positions."""
    n, c, h, w = f.shape
    return f.reshape(n, c, 2, h // 2, 2, w // 2).transpose(0, 1, 2, 4, 3, 5).reshape(n, c, 4, -1)


def kl_by_hand(s: np.ndarray, t: np.ndarray, label: np.ndarray, tau: float) -> float:
    each = [kl_divergence(softmax(t[n, :, y, x] / tau), softmax(s[n, :, y, x] / tau)) for n, y, x in pixels(label)]
    return tau**2 * float(np.mean(each))


def cwd_by_hand(s: np.ndarray, t: np.ndarray, label: np.ndarray) -> float:
    total = 0.0
    for n, c in np.ndindex(*s.shape[:2]):
        valid = label[n] != 255
        total += kl_divergence(softmax(t[n, c][valid] / 4), softmax(s[n, c][valid] / 4))
    return 16 * total / (s.shape[0] * s.shape[1])

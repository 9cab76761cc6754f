"""SKD, IFVD and CIRKD: values by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from loss_cases import (
    CLASSES,
    KEYS,
    ByHand,
    batch,
    cases_in,
    cosine_of,
    kl_divergence,
    one_valid_pixel,
    pixels,
    softmax,
    values,
)

from rdistill.losses import functional as L


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
                    a, b = (keys @ (f[n, :, y, x] / np.linalg.norm(f[n, :, y, x])) / 0.1 / 3 for f in (t, s))
                    each.append(kl_divergence(softmax(a), softmax(b)))
    return 3**2 * float(np.mean(each))


BY_HAND: dict[str, ByHand] = {
    "skd": lambda s, t, label: skd_by_hand(s, t, grid=2),
    "skd_unpooled": lambda s, t, label: skd_by_hand(s, t, grid=None),
    "ifvd": ifvd_by_hand,
    "cirkd": lambda s, t, label: cirkd_by_hand(s, t, tau=0.1, grid=True),
    "cirkd_unpooled": lambda s, t, label: cirkd_by_hand(s, t, tau=0.5, grid=False),
    "cirkd_memory": memory_by_hand,
}  # fmt: skip


@pytest.mark.parametrize("name", cases_in("relations"))
def test_value_is_the_one_worked_out_by_hand(name: str) -> None:
    by_hand, double, single = values(name, BY_HAND[name])
    assert double == pytest.approx(by_hand, rel=1e-6) and single == pytest.approx(by_hand, rel=1e-4)


@pytest.mark.parametrize("name", ["cirkd_memory"])
def test_a_single_valid_pixel_counts_whole(name: str) -> None:
    by_hand, double, _ = values(name, BY_HAND[name], one_valid_pixel())
    assert double == pytest.approx(by_hand, rel=1e-6)


def test_keys_that_are_not_filled_are_no_keys() -> None:
    student, teacher, label = batch(dtype=torch.float64)
    student.requires_grad_()
    filled = torch.arange(len(KEYS)) % 3 != 1
    results = []
    for keys, key_mask in ((KEYS, filled), (KEYS[filled], None)):
        value = L.cirkd_memory(student, teacher, keys, mask=label != 255, key_mask=key_mask)
        results.append([value.detach(), *torch.autograd.grad(value, student)])
    torch.testing.assert_close(*results)

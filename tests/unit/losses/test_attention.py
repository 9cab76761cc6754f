"""AT and DSD: values by hand, and layers of several sizes."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from loss_cases import LAYER_SCALES, ByHand, batch, cases_in, softmax, values
from torch import Tensor

from rdistill.losses import functional as L


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


BY_HAND: dict[str, ByHand] = {
    "at": lambda s, t, label: at_by_hand(s, t),
    "dsd": lambda s, t, label: dsd_by_hand(s, t, label, layers=False),
    "dsd_layers": lambda s, t, label: dsd_by_hand(s, t, label, layers=True),
}  # fmt: skip


@pytest.mark.parametrize("name", cases_in("attention"))
def test_value_is_the_one_worked_out_by_hand(name: str) -> None:
    by_hand, double, single = values(name, BY_HAND[name])
    assert double == pytest.approx(by_hand, rel=1e-6) and single == pytest.approx(by_hand, rel=1e-4)


def test_the_gram_matrix_of_two_positions_is_by_their_own_sums() -> None:
    """Where the exponentials of a channel add up to less than 2."""
    student, teacher, _ = batch(dtype=torch.float64)
    label = torch.full((2, 4, 6), 255)
    label[0, 1, 2] = label[0, 3, 3] = label[1, 0, 0] = label[1, 2, 5] = 0
    actual = L.dsd([student], [teacher], mask=label != 255, pixel_weight=0.0)
    assert actual.item() == pytest.approx(gram_error_by_hand(student.numpy(), teacher.numpy(), label.numpy()))


def test_the_level_of_a_channel_does_not_count() -> None:
    """Its softmax over the positions does not change; the other channels' exponentials leave nothing of its own."""
    student, teacher, label = batch(dtype=torch.float64)
    levels = torch.tensor([-4e3, 0.0, 4e3]).view(3, 1, 1)
    for mask in (None, label != 255):
        expected = L.dsd([student], [teacher], mask=mask, pixel_weight=0.0)
        torch.testing.assert_close(L.dsd([student + levels], [teacher - levels], mask=mask, pixel_weight=0.0), expected)


def test_dsd_brings_layers_to_the_size_of_the_last() -> None:
    """Attention of a coarser layer is masked at its own size, interpolated, and masked again."""
    student, teacher, label = batch(dtype=torch.float64)
    valid = (label != 255).unsqueeze(1)

    def residuals(layers: list[Tensor]) -> Tensor:
        maps = []
        for layer in layers:
            layer = torch.where(L.resize_nearest(valid, layer.shape[-2:]), layer, 0)
            energy = F.interpolate(layer.square().mean(dim=1, keepdim=True), size=(4, 6), mode="bilinear")
            maps.append(F.normalize((energy * valid).flatten(1), dim=1))
        pairs = [(j, i) for i in range(len(maps)) for j in range(i + 1, len(maps))]
        return torch.stack([F.normalize(maps[j] - maps[i], dim=1) for j, i in pairs], dim=1)

    sizes = [(2, 2), (4, 3)]
    layers_s, layers_t = (
        [*(L.resize_nearest(x, size) + 0.5 * i for i, size in enumerate(sizes, start=1)), x] for x in (student, teacher)
    )
    for first in (0, 1):  # three layers, two layers
        some_s, some_t = layers_s[first:], layers_t[first:]
        expected = (residuals(some_s) - residuals(some_t)).square().sum(dim=2).mean()
        actual = L.dsd(some_s, some_t, mask=valid.squeeze(1), pixel_weight=2.0, category_weight=0.0)
        torch.testing.assert_close(actual, 2 * expected)
    category = L.dsd([student], [teacher], mask=valid.squeeze(1), pixel_weight=0.0, category_weight=3.0)
    by_hand = gram_error_by_hand(student.numpy(), teacher.numpy(), label.numpy())
    assert category.item() == pytest.approx(3 * by_hand)

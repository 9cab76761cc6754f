"""Sizes that patches divide, and maps of what is given for the patches."""

from __future__ import annotations

import pytest
import torch

from rdistill.core.errors import UserError
from rdistill.networks.patches import fitted, folded, in_proportion, resized, without_padding


def test_sides_become_the_next_multiple() -> None:
    images = torch.arange(1.0, 1 + 2 * 3 * 5 * 7).reshape(2, 3, 5, 7)
    assert fitted(images, 1, "pad") is images
    assert fitted(images[..., :4, :4], 4, "resize").shape == (2, 3, 4, 4)
    padded = fitted(images, 4, "pad")
    assert padded.shape == (2, 3, 8, 8)
    assert torch.equal(padded[..., :5, :7], images) and padded[..., 5:, :].abs().sum() == 0
    assert padded[..., 7:].abs().sum() == 0
    assert torch.equal(fitted(images, 4, "resize"), resized(images, (8, 8)))


def test_resizing_smaller_averages() -> None:
    """Without the averaging every second column of stripes would be all that is left."""
    stripes = torch.tensor([0.0, 1.0]).repeat(8).expand(1, 1, 16, 16)
    assert resized(stripes, (4, 4)).sub(0.5).abs().max() < 0.15


def test_padding_is_cut_off_where_it_covers_more_than_half_of_a_cell() -> None:
    cells = torch.arange(16.0).reshape(1, 1, 4, 4)
    assert torch.equal(without_padding(cells, (50, 64), (64, 64)), cells[..., :3, :])  # 14 of 16 pixels are padding
    assert torch.equal(without_padding(cells, (57, 64), (64, 64)), cells)  # 7 of 16
    assert torch.equal(without_padding(cells, (40, 56), (64, 64)), cells[..., :3, :])  # half of a cell is kept, twice
    assert without_padding(cells, (1, 1), (64, 64)).shape == (1, 1, 1, 1)


def test_a_map_gets_the_image_s_proportions_back() -> None:
    assert in_proportion(torch.zeros(1, 2, 8, 8), (32, 32)).shape == (1, 2, 8, 8)
    assert in_proportion(torch.zeros(1, 2, 8, 8), (16, 64)).shape == (1, 2, 4, 16)
    assert in_proportion(torch.zeros(1, 2, 64, 64), (16, 32)).shape == (1, 2, 16, 32)  # no finer than the image
    rounded = torch.zeros(1, 2, 3, 5)
    assert in_proportion(rounded, (45, 66)) is rounded


def test_tokens_are_folded_row_by_row_without_those_in_front() -> None:
    tokens = torch.arange(2.0 * 11 * 3).reshape(2, 11, 3)  # five in front of 2 x 3 patches
    maps = folded(tokens, (2, 3))
    assert maps.shape == (2, 3, 2, 3)
    for row in range(2):
        for column in range(3):
            assert torch.equal(maps[:, :, row, column], tokens[:, 5 + 3 * row + column])
    for length in (5, 6 + 65):
        with pytest.raises(UserError, match=f"gives {length} tokens for 2 x 3 patches"):
            folded(torch.zeros(1, length, 3), (2, 3))

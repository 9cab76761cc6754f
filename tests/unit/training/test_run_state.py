"""The random streams of a run: kept in a checkpoint, put back to the last bit, a worker's own apart from others'."""

from __future__ import annotations

import io
import random

import numpy as np
import pytest
import torch

from rdistill.data.random_state import seed_everything
from rdistill.training.run_state import plain_random_state, set_plain_random_state


def numbers() -> tuple[float, float, float]:
    return random.random(), float(np.random.standard_normal()), float(torch.rand(()))


def test_random_state_survives_a_checkpoint() -> None:
    np.random.standard_normal()  # leaves a second number in store, which is part of the state
    random.gauss(0, 1)  # likewise
    file = io.BytesIO()
    torch.save(plain_random_state(), file)
    expected = [(*numbers(), random.gauss(0, 1)) for _ in range(2)]
    file.seek(0)
    set_plain_random_state(torch.load(file, weights_only=True))
    assert [(*numbers(), random.gauss(0, 1)) for _ in range(2)] == expected


def test_taking_the_state_draws_nothing() -> None:
    seed_everything(7)
    expected = numbers()
    seed_everything(7)
    plain_random_state()
    assert numbers() == expected


def test_the_state_is_a_copy() -> None:
    """What is drawn afterwards does not change what a checkpoint, written later, holds."""
    state = plain_random_state()
    expected = numbers()
    [numbers() for _ in range(3)]
    set_plain_random_state(state)
    assert numbers() == expected


@pytest.mark.parametrize(("entropy", "again"), [((0, 1), (0, 2)), ((0, 1), (1, 1)), ((0, 1), (1, 0))])
def test_streams_of_other_seeds_and_workers_differ_in_every_generator(
    entropy: tuple[int, int], again: tuple[int, int]
) -> None:
    seed_everything(*entropy)
    first = numbers()
    seed_everything(*again)
    assert all(left != right for left, right in zip(first, numbers(), strict=True))
    seed_everything(*entropy)
    assert numbers() == first

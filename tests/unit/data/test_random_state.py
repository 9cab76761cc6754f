"""The generators of Python, numpy and torch are seeded, kept and put back together."""

from __future__ import annotations

import random

import numpy as np
import torch

from rdistill.data.random_state import random_state, random_state_of, seed_everything, set_random_state


def numbers() -> tuple[float, float, float]:
    return random.gauss(0, 1), float(np.random.standard_normal()), float(torch.rand(()))


def test_a_state_that_is_put_back_draws_the_same_again() -> None:
    numbers()  # Python's and numpy's second normal number is in store, which is part of the state
    state = random_state()
    expected = [numbers(), numbers()]
    seed_everything(7)
    set_random_state(state)
    assert [numbers(), numbers()] == expected


def test_the_states_of_a_draw_depend_on_its_integers_alone_and_are_gone_after_it() -> None:
    seed_everything(0)
    expected = numbers()
    seed_everything(0)
    with random_state_of(3, 4):
        first = numbers()
    assert numbers() == expected
    with random_state_of(3, 4):
        assert numbers() == first
    seed_everything(3, 4)
    assert numbers() == first


def test_seed_everything() -> None:
    drawn = []
    for entropy in ((0, 1), (0, 1), (0, 2), (1, 1)):
        seed_everything(*entropy)
        drawn.append(numbers())
    assert drawn[0] == drawn[1] and len(set(drawn)) == 3

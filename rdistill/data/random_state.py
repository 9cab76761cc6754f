"""Seeds, saves and restores the global random generators of Python, numpy and torch."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor


class RandomState(NamedTuple):
    """The states of all generators, in the libraries' own formats."""

    python: tuple[Any, ...]
    numpy: dict[str, Any]
    torch: Tensor
    cuda: list[Tensor]  # a state for each device; empty if CUDA was not touched


def random_state(*, cuda: bool = True) -> RandomState:
    """Returns the current states. Use ``cuda=False`` in a forked process, which must not touch CUDA."""
    numpy_state = np.random.get_state(legacy=False)
    assert isinstance(numpy_state, dict)
    devices = torch.cuda.get_rng_state_all() if cuda and torch.cuda.is_available() else []
    return RandomState(random.getstate(), numpy_state, torch.random.get_rng_state(), devices)


def set_random_state(state: RandomState) -> None:
    """Restores the states; those of CUDA only if the number of devices is still the same."""
    random.setstate(state.python)
    np.random.set_state(state.numpy)
    torch.random.set_rng_state(state.torch.cpu())
    if state.cuda and torch.cuda.is_available() and len(state.cuda) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all([device.cpu() for device in state.cuda])


def seed_everything(*entropy: int) -> None:
    """Seeds all generators, including those of CUDA, from integers."""
    torch.manual_seed(_seed_python_and_numpy(*entropy))


@contextmanager
def random_state_of(*entropy: int) -> Iterator[None]:
    """Seeds the CPU generators from integers within the context, then restores their states."""
    saved = random_state(cuda=False)
    # torch.manual_seed would also touch CUDA, which a forked data worker must not do.
    torch.default_generator.manual_seed(_seed_python_and_numpy(*entropy))
    try:
        yield
    finally:
        set_random_state(saved)


def _seed_python_and_numpy(*entropy: int) -> int:
    """Returns the seed for torch."""
    seeds = np.random.SeedSequence(entropy).generate_state(3)
    random.seed(int(seeds[0]))
    np.random.seed(int(seeds[1]))
    return int(seeds[2])

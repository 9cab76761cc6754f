"""Which size, batch and length are proposed: by the images, and by memory and seconds that were measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import psutil
import torch

MULTIPLE = 32  # pixels: what the strides of most models divide
LARGEST, SMALLEST = 512, 32  # pixels that are proposed; more by --size
BATCHES = (16, 8, 4, 2)
LEAST_BATCH = 4  # images: a size is given up rather than this many
MEMORY_SHARE = {"cpu": 0.5, "cuda": 0.8}  # share of what is free
STEP_S = 2.0  # seconds of a step on a CPU, where time runs out before memory does
PASSES = 40  # passes over the training images
ITERS = {"cpu": (1_000, 4_000), "cuda": (1_000, 20_000)}
VALIDATIONS = 10
RARE = 0.03  # share of the pixels: a class below gets a weight
MOST_WEIGHT = 10.0
ELONGATED = 3.0  # long side over short side; of longer images the short side becomes smaller


@dataclass(frozen=True)
class Measured:
    """What a step of a model took."""

    size: int  # pixels a side of the crops
    batch: int
    held: int  # bytes that do not depend on the batch
    passing: int  # bytes of activations and gradients; 0: not known
    seconds: float

    def bytes_at(self, size: int, batch: int) -> float:
        """Estimated: activations grow with the pixels of a batch."""
        return self.held + self.passing * self._pixels(size, batch)

    def seconds_at(self, size: int, batch: int) -> float:
        """Estimated in the same way."""
        return self.seconds * self._pixels(size, batch)

    def _pixels(self, size: int, batch: int) -> float:
        return size**2 * batch / (self.size**2 * self.batch)


@dataclass(frozen=True)
class Machine:
    """What there is to train on."""

    device: str  # 'cpu' or 'cuda'
    free: int  # bytes of memory

    @property
    def may_use(self) -> float:
        return MEMORY_SHARE[self.device] * self.free


def this_machine() -> Machine:
    if torch.cuda.is_available():
        return Machine("cuda", torch.cuda.mem_get_info()[0])
    return Machine("cpu", psutil.virtual_memory().available)


def probe_size(shortest: int) -> int:
    """Pixels at which a step is measured, before a size is proposed."""
    return min(largest_size(shortest), 128)


def largest_size(shortest: int) -> int:
    """The largest multiple that images have pixels for."""
    return min(LARGEST, max(SMALLEST, shortest // MULTIPLE * MULTIPLE))


def propose_size(shortest: int, models: Sequence[Measured], machine: Machine, least: int = SMALLEST) -> tuple[int, str]:
    """Pixels of the shorter side, and why.

    Args:
        shortest: side of the median image.
        models: teacher and student, which do not train at the same time.
        machine: what trains them.
        least: pixels that the models need.
    """
    largest = max(largest_size(shortest), least)
    for size in range(largest, least - 1, -MULTIPLE):
        if fits(size, LEAST_BATCH, models, machine):
            break
    if size == least > SMALLEST:
        why = "the models run on no smaller images"
    elif size < largest:
        why = f"a batch of {LEAST_BATCH} at {size + MULTIPLE} would take more than {_limits(machine)}"
    elif largest < shortest // MULTIPLE * MULTIPLE:
        why = f"images have more, {shortest}; --size takes any"
    else:
        why = f"all that the images have, in multiples of {MULTIPLE}"
    return size, why


def fits(size: int, batch: int, models: Sequence[Measured], machine: Machine) -> bool:
    """Whether a step of each model does."""
    in_time = machine.device == "cuda" or max(model.seconds_at(size, batch) for model in models) <= STEP_S
    return in_time and max(model.bytes_at(size, batch) for model in models) <= machine.may_use


def propose_batch(size: int, images: int, models: Sequence[Measured], machine: Machine) -> tuple[int, str]:
    """Images a step, and why."""
    for batch in BATCHES:
        if batch <= max(images, BATCHES[-1]) and fits(size, batch, models, machine):
            break
    memory = max(model.bytes_at(size, batch) for model in models)
    known_memory = any(model.passing for model in models)
    takes = f"about {memory / 1e9:.2g} GB" if known_memory else "memory that this system does not measure"
    seconds = max(model.seconds_at(size, batch) for model in models)
    return batch, f"a step takes {takes} and {seconds:.2g} s; the limit is {_limits(machine)}"


def _limits(machine: Machine) -> str:
    limit = f"{machine.may_use / 1e9:.2g} GB ({100 * MEMORY_SHARE[machine.device]:g} % of what is free)"
    return f"{limit} and {STEP_S:g} s" if machine.device == "cpu" else limit


def propose_iters(images: int, batch: int, machine: Machine) -> int:
    """Training iterations: ``PASSES`` over the images, within what is usual."""
    low, high = ITERS[machine.device]
    return int(min(high, max(low, round(PASSES * images / batch, -2))))


def test_scale(sizes: Mapping[tuple[int, int], int], size: int) -> tuple[int, int]:
    """mmcv's ``scale`` for ``keep_ratio``, by which each image's shorter side becomes ``size``.

    Args:
        sizes: width and height -> images.
        size: pixels of the shorter side.
    """
    longest = max(max(width, height) / min(width, height) for width, height in sizes)
    long_side = round(size * min(longest, ELONGATED))
    lying = sum(count for (width, height), count in sizes.items() if width >= height)
    return (long_side, size) if lying * 2 >= sum(sizes.values()) else (size, long_side)


def class_weights(pixels: Sequence[int]) -> tuple[float, ...] | None:
    """A weight for each class where one is rare: the root of how much rarer it is than the most frequent one.

    The most frequent class and all that are not rare have 1. None where none is rare.

    >>> class_weights([96, 4]), class_weights([98, 2]), class_weights([9998, 2])
    (None, (1.0, 7.0), (1.0, 10.0))
    """
    counts = np.asarray(pixels, float)
    shares = counts / max(counts.sum(), 1)
    rare = (shares < rare_below(len(counts))) & (shares > 0)
    weights = np.where(rare, np.sqrt(shares.max() / np.where(rare, shares, 1)).clip(1, MOST_WEIGHT), 1.0).round(1)
    return tuple(float(weight) for weight in weights) if (weights > 1).any() else None


def rare_below(classes: int) -> float:
    """The share of the pixels below which a class is rare: ``RARE``, or half of an equal share where there are many."""
    return min(RARE, 0.5 / classes)

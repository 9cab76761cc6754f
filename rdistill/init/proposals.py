"""Proposes image size, batch size and length from the images and from a step's measured memory and seconds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import psutil
import torch

MULTIPLE = 32  # pixels; the strides of most models divide it
LARGEST, SMALLEST = 512, 32  # bounds of a proposed size, in pixels; --size takes larger ones
BATCHES = (16, 8, 4, 2)
MIN_BATCH = 4  # images; if not even this batch fits, a smaller size is proposed
MEMORY_SHARE = {"cpu": 0.5, "cuda": 0.8}  # share of the free memory that may be used
STEP_S = 2.0  # longest step on a CPU, in seconds
PASSES = 40  # passes over the training images
ITERS = {"cpu": (1_000, 4_000), "cuda": (1_000, 20_000)}
VALIDATIONS = 10
RARE = 0.03  # a class with a smaller share of the pixels gets a weight
MAX_WEIGHT = 10.0
ELONGATED = 3.0  # long side / short side; in longer images the short side becomes smaller than the size


@dataclass(frozen=True)
class StepCost:
    """Measured cost of a training step."""

    size: int  # height and width of the crops, in pixels
    batch: int
    fixed_bytes: int  # bytes that do not depend on the batch
    activation_bytes: int  # bytes of activations and gradients; 0 if not known
    seconds: float

    def bytes_at(self, size: int, batch: int) -> float:
        """Estimates the bytes of a step; activations grow with the pixels of a batch."""
        return self.fixed_bytes + self.activation_bytes * self._pixels(size, batch)

    def seconds_at(self, size: int, batch: int) -> float:
        """Estimates the seconds of a step, which grow with the pixels of a batch."""
        return self.seconds * self._pixels(size, batch)

    def _pixels(self, size: int, batch: int) -> float:
        return size**2 * batch / (self.size**2 * self.batch)


@dataclass(frozen=True)
class Machine:
    """The device to train on."""

    device: str  # 'cpu' or 'cuda'
    free: int  # free memory in bytes

    @property
    def may_use(self) -> float:
        return MEMORY_SHARE[self.device] * self.free


def this_machine() -> Machine:
    if torch.cuda.is_available():
        return Machine("cuda", torch.cuda.mem_get_info()[0])
    return Machine("cpu", psutil.virtual_memory().available)


def probe_size(shortest: int) -> int:
    """Returns the size in pixels at which a step is measured before a size is proposed."""
    return min(largest_size(shortest), 128)


def largest_size(shortest: int) -> int:
    """Returns the largest multiple of ``MULTIPLE`` up to the images' shorter side, within the bounds."""
    return min(LARGEST, max(SMALLEST, shortest // MULTIPLE * MULTIPLE))


def propose_size(
    shortest: int, models: Sequence[StepCost], machine: Machine, min_size: int = SMALLEST
) -> tuple[int, str]:
    """Proposes the pixels of the shorter side, with the reason.

    Args:
        shortest: shorter side of the median image, in pixels.
        models: teacher and student, which do not train at the same time.
        machine: the device that trains them.
        min_size: smallest size that the models accept, in pixels.
    """
    largest = max(largest_size(shortest), min_size)
    for size in range(largest, min_size - 1, -MULTIPLE):
        if fits(size, MIN_BATCH, models, machine):
            break
    if size == min_size > SMALLEST:
        reason = "the models do not run on smaller images"
    elif size < largest:
        reason = f"a batch of {MIN_BATCH} at {size + MULTIPLE} would take more than {_limits(machine)}"
    elif largest < shortest // MULTIPLE * MULTIPLE:
        reason = f"the images have more, {shortest}; --size takes larger sizes"
    else:
        reason = f"the full size of the images, as a multiple of {MULTIPLE}"
    return size, reason


def fits(size: int, batch: int, models: Sequence[StepCost], machine: Machine) -> bool:
    """Returns whether a step of each model stays within the limits of memory and time."""
    in_time = machine.device == "cuda" or max(model.seconds_at(size, batch) for model in models) <= STEP_S
    return in_time and max(model.bytes_at(size, batch) for model in models) <= machine.may_use


def propose_batch(size: int, images: int, models: Sequence[StepCost], machine: Machine) -> tuple[int, str]:
    """Proposes the batch size, with the reason."""
    for batch in BATCHES:
        if batch <= max(images, BATCHES[-1]) and fits(size, batch, models, machine):
            break
    memory = max(model.bytes_at(size, batch) for model in models)
    memory_known = any(model.activation_bytes for model in models)
    takes = (
        f"about {memory / 1e9:.2g} GB"
        if memory_known
        else "an unknown amount of memory (this system does not measure it)"
    )
    seconds = max(model.seconds_at(size, batch) for model in models)
    return batch, f"a step takes {takes} and {seconds:.2g} s; the limit is {_limits(machine)}"


def _limits(machine: Machine) -> str:
    limit = f"{machine.may_use / 1e9:.2g} GB ({100 * MEMORY_SHARE[machine.device]:g} % of what is free)"
    return f"{limit} and {STEP_S:g} s" if machine.device == "cpu" else limit


def propose_iters(images: int, batch: int, machine: Machine) -> int:
    """Proposes the number of iterations: ``PASSES`` passes over the images, within ``ITERS``."""
    low, high = ITERS[machine.device]
    return int(min(high, max(low, round(PASSES * images / batch, -2))))


def test_scale(sizes: Mapping[tuple[int, int], int], size: int) -> tuple[int, int]:
    """Returns mmcv's ``scale`` that, with ``keep_ratio``, makes each image's shorter side ``size`` pixels.

    Args:
        sizes: (width, height) -> number of images.
        size: pixels of the shorter side.
    """
    longest = max(max(width, height) / min(width, height) for width, height in sizes)
    long_side = round(size * min(longest, ELONGATED))
    landscape = sum(count for (width, height), count in sizes.items() if width >= height)
    return (long_side, size) if landscape * 2 >= sum(sizes.values()) else (size, long_side)


def class_weights(pixels: Sequence[int]) -> tuple[float, ...] | None:
    """Returns a weight for each class, or None if no class is rare.

    A rare class has the weight sqrt(pixels of the most frequent class / its pixels), at most ``MAX_WEIGHT``; all others
    have 1.

    >>> class_weights([96, 4]), class_weights([98, 2]), class_weights([9998, 2])
    (None, (1.0, 7.0), (1.0, 10.0))
    """
    counts = np.asarray(pixels, float)
    shares = counts / max(counts.sum(), 1)
    rare = (shares < rare_below(len(counts))) & (shares > 0)
    weights = np.where(rare, np.sqrt(shares.max() / np.where(rare, shares, 1)).clip(1, MAX_WEIGHT), 1.0).round(1)
    return tuple(float(weight) for weight in weights) if (weights > 1).any() else None


def rare_below(classes: int) -> float:
    """Returns the share of the pixels below which a class is rare: at most ``RARE``, and half of an equal share."""
    return min(RARE, 0.5 / classes)

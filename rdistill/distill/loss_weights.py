"""The weight of a loss that is given as a share: measured from gradients, in the first batches of training.

At the last tensors that a loss and the task's share (:func:`rdistill.distill.gradients.last_shared`), the length of the
loss's gradient, times the weight, is to be ``share`` times the length of the task loss's gradient. Both lengths are
means over the measured batches:

    weight = share * mean |gradient of the task loss| / mean |gradient of the loss before its weight|

Compare GradNorm (Chen et al., ICML 2018, arXiv 1711.02257), which trains weights at every step, and Dynamic Weight
Average (Liu et al., CVPR 2019, arXiv 1803.10704), which looks at the losses' values alone: docs/losses.md.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from rdistill.config.distill_spec import ShareSpec
from rdistill.schemas.run import LossWeightState, Measurement


class MeasuredLossWeight:
    """The weight of one loss, as far as it is measured.

    During the first measurement it is that of the batches so far, the batch on hand included; while it is measured
    again the one before stays until all batches are in. A measurement in which no batch counts is made again with the
    next batches.

    Args:
        name: of the loss.
        spec: its share.

    Attributes:
        weight: in force, before its schedule's factor; 0 before the first batch that counts.
        measured: each measurement that is complete.
    """

    def __init__(self, name: str, spec: ShareSpec) -> None:
        self.name, self.spec = name, spec
        self.weight = 0.0
        self.measured: list[Measurement] = []
        self._settled = False  # the first measurement is complete
        self._warned = False  # there was a line that it cannot be measured
        self._seen = 0  # batches of the measurement that is going on
        self._lengths: list[list[float]] = []  # the task's gradient's and this loss's, where both count

    def measures(self, iteration: int) -> bool:
        """Whether the batch of an iteration, counted from 0, is to be measured."""
        if not self._settled or self._seen:
            return True
        return self.spec.every is not None and iteration > 0 and iteration % self.spec.every == 0

    def of_one_batch(self, task: float, loss: float) -> float:
        """The weight that follows from one batch alone, which is not kept. The lengths are those of :meth:`add`."""
        return self._weight_of([[task, loss]] if self._counts(task, loss) else [])

    def add(self, iteration: int, task: float, loss: float) -> str | None:
        """Takes what was measured in an iteration; returns a line where there is something that a user should know.

        Args:
            iteration: counted from 0.
            task, loss: lengths of the two gradients. A batch in which one of them is 0 or not finite does not count.
        """
        self._seen += 1
        if self._counts(task, loss):
            self._lengths.append([task, loss])
        if not self._settled:
            self.weight = self._weight_of(self._lengths)
        if self._seen < self.spec.batches:
            return None
        lengths, self._lengths, self._seen = self._lengths, [], 0
        when = f"in iterations {iteration + 2 - self.spec.batches} to {iteration + 1}"
        if not lengths:
            side = "the loss itself" if 0 < task < math.inf else "the task's loss"
            warning = (
                f"distill.losses.{self.name}: its weight cannot be measured: {side} has no gradient above 0 at the "
                f"student {when}; it stays {self.weight:.4g}, and every {self.spec.batches} batches are tried again"
            )
            warned, self._warned = self._warned, True
            return None if warned else warning
        first, self._settled = not self._settled, True
        self.weight = self._weight_of(lengths)
        task, loss = _means(lengths)
        self.measured.append(
            {"iter": iteration + 1, "batches": len(lengths), "weight": self.weight, "task": task, "loss": loss}
        )
        share = f"{self.spec.value:g} of the task's gradient"
        return f"distill.losses.{self.name}: weight {self.weight:.4g}, {share}, measured {when}" if first else None

    def _counts(self, task: float, loss: float) -> bool:
        """Whether a weight follows from two lengths: both are above 0, and nothing overflows."""
        return 0 < task < math.inf and 0 < loss < math.inf and 0 < self.spec.value * task / loss < math.inf

    def _weight_of(self, lengths: Sequence[Sequence[float]]) -> float:
        """The weight that follows from lengths of batches that count; 0 from none."""
        if not lengths:
            return 0.0
        task, loss = _means(lengths)
        return self.spec.value * task / loss

    def state(self) -> LossWeightState:
        """For a checkpoint."""
        return {
            "weight": self.weight,
            "settled": self._settled,
            "seen": self._seen,
            "lengths": [list(pair) for pair in self._lengths],
            "measured": list(self.measured),
        }

    def load_state(self, state: LossWeightState) -> None:
        """Goes on where a checkpoint left off, to the last bit."""
        self.weight, self._settled, self._seen = state["weight"], state["settled"], state["seen"]
        self._lengths, self.measured = list(state["lengths"]), list(state["measured"])


def _means(lengths: Sequence[Sequence[float]]) -> tuple[float, float]:
    """Of the task's lengths, and of the loss's."""
    count = len(lengths)
    return math.fsum(pair[0] for pair in lengths) / count, math.fsum(pair[1] for pair in lengths) / count

"""The weight of a loss that is given as a share: it is measured from gradients in the first batches of training.

The weight is chosen so that the gradient of the weighted loss is ``share`` times as long as the gradient of the task
loss. Both gradients are taken at the last tensors that the two losses both depend on
(:func:`rdistill.distill.gradients.last_shared`), and their lengths are means over the measured batches:

    weight = share * mean |gradient of the task loss| / mean |gradient of the loss before its weight|

Related methods are GradNorm (Chen et al., ICML 2018, arXiv 1711.02257), which trains the weights at every step, and
Dynamic Weight Average (Liu et al., CVPR 2019, arXiv 1803.10704), which uses the values of the losses alone. See
docs/losses.md.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from rdistill.config.distill_spec import ShareSpec
from rdistill.schemas.run import LossWeightState, Measurement


class MeasuredLossWeight:
    """Measures the weight of one loss.

    During the first measurement the weight follows from the batches so far, the current one included. During a later
    measurement the previous weight stays until all batches are measured. A measurement without any batch that counts
    (see :meth:`add`) is repeated with the next batches.

    Args:
        name: the name of the loss, for messages.
        spec: the share, and how many batches to measure.

    Attributes:
        weight: the current weight, before its schedule's factor; 0 before the first batch that counts.
        measured: all complete measurements.
    """

    def __init__(self, name: str, spec: ShareSpec) -> None:
        self.name, self.spec = name, spec
        self.weight = 0.0
        self.measured: list[Measurement] = []
        self._settled = False  # the first measurement is complete
        self._warned = False  # the user got the message that the weight cannot be measured
        self._seen = 0  # batches of the current measurement
        self._lengths: list[list[float]] = []  # gradient lengths of the task loss and of this loss, for each batch

    def measures(self, iteration: int) -> bool:
        """Whether the batch of this iteration, counted from 0, must be measured."""
        if not self._settled or self._seen:
            return True
        return self.spec.every is not None and iteration > 0 and iteration % self.spec.every == 0

    def weight_of_one_batch(self, task: float, loss: float) -> float:
        """The weight from one batch alone, which is not kept. The arguments are the lengths as in :meth:`add`."""
        return self._weight_of([[task, loss]] if self._counts(task, loss) else [])

    def add(self, iteration: int, task: float, loss: float) -> str | None:
        """Adds the gradient lengths of one batch.

        Args:
            iteration: counted from 0.
            task, loss: lengths of the gradients of the task loss and of this loss. A batch in which one of them is 0 or
                not finite does not count.

        Returns:
            A message for the user, or None.
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
        """The weight from the lengths of all batches that count; 0 if there is none."""
        if not lengths:
            return 0.0
        task, loss = _means(lengths)
        return self.spec.value * task / loss

    def state(self) -> LossWeightState:
        """The state that a checkpoint keeps."""
        return {
            "weight": self.weight,
            "settled": self._settled,
            "seen": self._seen,
            "lengths": [list(pair) for pair in self._lengths],
            "measured": list(self.measured),
        }

    def load_state(self, state: LossWeightState) -> None:
        """Restores what :meth:`state` returned."""
        self.weight, self._settled, self._seen = state["weight"], state["settled"], state["seen"]
        self._lengths, self.measured = list(state["lengths"]), list(state["measured"])


def _means(lengths: Sequence[Sequence[float]]) -> tuple[float, float]:
    """The mean length for the task loss, and the mean length for the distillation loss."""
    count = len(lengths)
    return math.fsum(pair[0] for pair in lengths) / count, math.fsum(pair[1] for pair in lengths) / count

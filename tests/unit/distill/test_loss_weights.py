"""A weight that follows from a share: when it is measured, from what, and what a checkpoint keeps of it."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest

from rdistill.config.distill_spec import ShareSpec
from rdistill.distill.loss_weights import MeasuredLossWeight


def weight_of(**share: Any) -> MeasuredLossWeight:
    return MeasuredLossWeight("kd", ShareSpec(**{"value": 0.5, "batches": 2, **share}))


def run(weight: MeasuredLossWeight, lengths: list[tuple[float, float]], first: int = 0) -> list[str]:
    """One iteration after the other, each measured if it is its turn; returns the notes."""
    notes = []
    for iteration, (task, loss) in enumerate(lengths, start=first):
        if weight.measures(iteration) and (note := weight.add(iteration, task, loss)):
            notes.append(note)
    return notes


def test_the_first_batches_have_the_mean_so_far_and_then_it_stays() -> None:
    weight = weight_of()
    assert weight.weight == 0 and weight.measures(0)
    assert run(weight, [(2.0, 4.0)]) == [] and weight.weight == 0.25
    notes = run(weight, [(4.0, 8.0)], first=1)
    assert weight.weight == 0.5 * 3 / 6  # the quotient of the means, not the mean of the quotients
    assert notes == ["distill.losses.kd: weight 0.25, 0.5 of the task's gradient, measured in iterations 1 to 2"]
    assert weight.measured == [{"iter": 2, "batches": 2, "weight": 0.25, "task": 3.0, "loss": 6.0}]
    assert not any(weight.measures(iteration) for iteration in range(2, 1000))


def test_it_is_measured_again_and_the_old_one_stays_meanwhile() -> None:
    weight = weight_of(every=5)
    lengths = [(1.0, 1.0)] * 5 + [(1.0, 10.0)] * 2 + [(9.0, 1.0)] * 3
    assert run(weight, lengths[:6]) and weight.weight == 0.5  # half of the second measurement is in
    assert run(weight, lengths[6:10], first=6) == [] and weight.weight == 0.05
    assert [entry["iter"] for entry in weight.measured] == [2, 7] and weight.measures(10)


def test_every_batch_may_be_measured() -> None:
    weight = weight_of(batches=1, every=1)
    run(weight, [(1.0, 1.0), (1.0, 2.0), (1.0, 4.0)])
    assert [entry["weight"] for entry in weight.measured] == [0.5, 0.25, 0.125]


@pytest.mark.parametrize("nothing", [0.0, math.nan, math.inf])
@pytest.mark.parametrize(("side", "words"), [(0, "the task's loss has"), (1, "the loss itself has")])
def test_without_a_gradient_the_weight_is_zero_and_is_tried_again(nothing: float, side: int, words: str) -> None:
    weight = weight_of()
    batch = (nothing, 1.0) if side == 0 else (1.0, nothing)
    (note,) = run(weight, [batch] * 6)  # one line, however long it lasts
    assert note == (
        f"distill.losses.kd: its weight cannot be measured: {words} no gradient above 0 at the student in iterations "
        f"1 to 2; it stays 0, and every 2 batches are tried again"
    )
    assert weight.weight == 0 and weight.measured == []
    run(weight, [batch, (1.0, 2.0)], first=6)
    assert weight.weight == 0.25 and weight.measured[0]["batches"] == 1  # the batch that counts


def test_a_quotient_that_overflows_does_not_count() -> None:
    weight = weight_of(batches=1)
    assert "cannot be measured" in run(weight, [(1e300, 1e-300)])[0] and weight.weight == 0
    assert run(weight, [(1e-300, 1e300)]) == [] and weight.measured == []  # and one that is 0 for want of digits
    assert weight.weight_of_one_batch(1e300, 1e-300) == 0 and weight.weight_of_one_batch(1.0, 2.0) == 0.25


def test_a_later_measurement_without_a_gradient_keeps_the_weight() -> None:
    weight = weight_of(every=2)
    notes = run(weight, [(1.0, 1.0)] * 2 + [(1.0, 0.0)] * 2)
    assert weight.weight == 0.5 and "it stays 0.5" in notes[1]
    run(weight, [(1.0, 2.0)] * 2, first=4)
    assert weight.weight == 0.25


def test_the_state_before_the_first_batch() -> None:
    state = weight_of().state()
    assert state == {"weight": 0.0, "settled": False, "seen": 0, "lengths": [], "measured": []}


@pytest.mark.parametrize("cut", range(1, 9))
def test_a_checkpoint_goes_on_to_the_last_bit(cut: int) -> None:
    lengths = [(1 / (3 + step), 1 / (7 + step**2)) for step in range(9)]
    whole, first, second = (weight_of(batches=3, every=4) for _ in range(3))
    run(whole, lengths)
    run(first, lengths[:cut])
    second.load_state(json.loads(json.dumps(first.state())))
    run(second, lengths[cut:], first=cut)
    assert second.state() == whole.state() and len(whole.measured) == 2

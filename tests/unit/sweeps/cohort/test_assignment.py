"""Which cohort a trial goes to: where its students' next step, with it, takes least."""

from __future__ import annotations

from typing import Any

import pytest

from rdistill.sweeps.cohort.assignment import CohortAssigner, sharing_key


def trial(values: dict[str, Any], seed: int = 0) -> dict[str, Any]:
    return {"id": "t", "seed": seed, "values": values}


@pytest.mark.parametrize(
    ("values", "seed", "shares"),
    [
        ({"distill.losses.logits.weight": 3.0, "optim_wrapper.optimizer.lr": 0.1}, 0, True),
        ({"model.decode_head.channels": 8}, 0, True),
        ({}, 1, False),
        ({"train_dataloader.batch_size": 4}, 0, False),
        ({"+train_dataloader.dataset.pipeline.0.type": "X"}, 0, False),
        ({"distill.teachers.0.checkpoint": "b.pth"}, 0, False),
        ({"model.data_preprocessor.size": (64, 64)}, 0, False),
    ],
)
def test_what_trials_share(values: dict[str, Any], seed: int, shares: bool) -> None:
    assert (sharing_key(trial({})) == sharing_key(trial(values, seed))) is shares


def test_a_plus_and_the_order_of_keys_change_nothing() -> None:
    data = {"train_dataloader.batch_size": 4, "distill.teachers.0.weight": 2.0}
    other = {"distill.teachers.0.weight": 2.0, "+train_dataloader.batch_size": 4}
    assert sharing_key(trial(data)) == sharing_key(trial(other))


def assigned(assigner: CohortAssigner, keys: str) -> list[int]:
    """The cohorts of newcomers with these sharing keys, one after another."""
    return [assigner.assign(f"{number}{key}", key) for number, key in enumerate(keys)]


def test_a_newcomer_joins_those_that_share_its_teacher() -> None:
    """The third would fit both cohorts by their sizes alone; its key says where its teacher runs already."""
    assert assigned(CohortAssigner(2, 4), "ABB") == [0, 1, 1]
    assert assigned(CohortAssigner(2, 4), "ABA") == [0, 1, 0]


@pytest.mark.parametrize(("teacher_share", "expected"), [(0.9, [0, 1, 0, 0]), (0.1, [0, 1, 0, 1])])
def test_a_costly_teacher_is_shared_and_costly_students_are_spread(teacher_share: float, expected: list[int]) -> None:
    """By hand, for the last of A, B, A, A, in steps of one student alone.

    With teachers of 0.9: beside A and A 0.9 + 3 x 0.1 = 1.2, beside B 2 x 0.9 + 2 x 0.1 = 2.0. With teachers of 0.1:
    beside A and A 0.1 + 3 x 0.9 = 2.8, beside B 2 x 0.1 + 2 x 0.9 = 2.0.
    """
    assert assigned(CohortAssigner(2, 4, teacher_share), "ABAA") == expected


def test_a_full_cohort_takes_no_more_until_a_slot_is_free() -> None:
    assigner = CohortAssigner(2, 2, teacher_share=0.9)
    assert assigned(assigner, "ABA") == [0, 1, 0]
    assert assigner.assign("3A", "A") == 1  # where its teacher is, no slot is left
    assigner.release("0A")
    assigner.release("0A")  # a second time: it holds nothing
    assert assigner.assign("4B", "B") == 0  # the other is full
    assert assigner.assign("5A", "A") in (0, 1)  # Tune runs no more than there are slots, but a lost one is no error


def test_a_trial_keeps_its_place() -> None:
    assigner = CohortAssigner(2, 1)
    assert [assigner.assign("t1", "A"), assigner.assign("t2", "A"), assigner.assign("t1", "A")] == [0, 1, 0]

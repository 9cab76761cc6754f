"""How a confirmation goes on from look to look; whole ones are in tests/e2e/test_confirmation.py."""

from __future__ import annotations

import pytest

from rdistill.sweeps.confirmation import _next_seeds, describe_cost
from rdistill.sweeps.findings.confirm import Selection
from rdistill.sweeps.findings.equal_cost import EqualCost
from rdistill.sweeps.findings.looks import Look, LookHistory

SEEDS = list(range(1, 13))


@pytest.mark.parametrize(
    ("first", "looked", "processes", "seeds"),
    [
        (0, 0, 4, SEEDS),  # no looks: all of them
        (3, 0, 4, SEEDS[:3]),
        (3, 3, 1, SEEDS[:4]),  # one more at least
        (3, 3, 4, SEEDS[:5]),  # two questions take two runs of a seed: two seeds keep four processes busy
        (3, 4, 9, SEEDS[:8]),
        (3, 11, 9, SEEDS),  # no more than there are
    ],
)
def test_the_seeds_up_to_the_next_look(first: int, looked: int, processes: int, seeds: list[int]) -> None:
    selection = Selection("baseline", ["t0001", "t0002"], SEEDS, first=first)
    assert selection.questions == 2
    looks = LookHistory((Look(looked, {}, {}, False),) if looked else ())
    assert _next_seeds(selection, looks, processes) == seeds


def test_what_a_configuration_takes_in_a_line() -> None:
    cost = EqualCost(1369, {"real": 41.2, "alone": 60.0}, {"real": 30.1, "alone": 31.0}, 3)
    assert describe_cost("t0003", cost, "real") == (
        "t0003 takes 41.2 s a run, the student alone 30.1 s (real; alone: 60.0 s and 31.0 s): 1369 iterations of the "
        "student alone cost as much"
    )
    assert "60.0 s a run, the student alone 31.0 s (alone; real: 41.2 s" in describe_cost("t0003", cost, "alone")

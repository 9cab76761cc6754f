"""What is put together for ``headroom.json`` is what its type says."""

from __future__ import annotations

import pytest
from typed_files import unlike

from rdistill.schemas.headroom import ArmRecord, HeadroomAnswer, PlannedCost
from rdistill.sweeps.headroom.answer import answer
from rdistill.sweeps.headroom.arms import ARMS
from rdistill.sweeps.headroom.cost import Rates, planned_cost

SCORES = {arm: {0: 50.0 + index, 1: 50.4 + index} for index, arm in enumerate(ARMS)}


@pytest.mark.parametrize("stuck", [{}, {"alone": [0, 1]}])
def test_the_answer(stuck: dict[str, list[int]]) -> None:
    assert unlike(answer(SCORES, stuck, 60.0, 500), HeadroomAnswer) == []
    assert unlike(answer(SCORES, stuck, None, 500), HeadroomAnswer) == []


def test_the_planned_cost_from_the_rates_of_two_trainings() -> None:
    records: list[ArmRecord] = [
        {"arm": arm, "seed": 0, "status": "finished", "mIoU": 50.0, "cost": {"start": 1.0, "step": 0.1, "data": 0.01}}
        for arm in ("alone", "distilled")
    ]
    assert [unlike(record, ArmRecord) for record in records] == [[], []]
    cost = planned_cost(Rates.of(records), 100, 10, distilled=3, alone=1, of="this sweep")
    assert unlike(cost, PlannedCost) == []
    assert cost["seconds_alone"] == pytest.approx(1.0 + 100 * 0.11)

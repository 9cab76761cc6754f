"""rdistill's own schedulers: what they are built with."""

from __future__ import annotations

from typing import Any

import pytest
from ray.tune.schedulers import ASHAScheduler, FIFOScheduler

from rdistill.schedulers import SCHEDULERS


def test_what_they_are() -> None:
    own = {name: info for name, info in SCHEDULERS.registered().items() if SCHEDULERS.is_own(name)}
    assert {name: (info.stops, info.by_image) for name, info in own.items()} == {
        "fifo": (False, False), "asha": (True, False), "paired": (True, True),
    }  # fmt: skip
    assert type(SCHEDULERS["fifo"].build({}, iterations=9, val_interval=3)) is FIFOScheduler


@pytest.mark.parametrize(
    ("params", "grace", "factor"),
    [({}, 3, 3), ({"grace_period": None, "reduction_factor": 2.5}, 3, 2.5), ({"grace_period": 50}, 9, 3)],
)
def test_asha(params: dict[str, Any], grace: int, factor: float) -> None:
    """Unless it is given, trials may be stopped from their first validation on; never beyond their end."""
    asha = SCHEDULERS["asha"].build(params, iterations=9, val_interval=3)
    assert isinstance(asha, ASHAScheduler)
    assert (asha._time_attr, asha._max_t, asha._reduction_factor) == ("iter", 9, factor)
    assert min(rung for rung, _ in asha._brackets[0]._rungs) == grace

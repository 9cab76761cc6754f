"""What Tune's callback passes on to those who listen."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from ray import cloudpickle
from ray.exceptions import OutOfMemoryError

from rdistill.sweeps.monitor.events import TrialInfo, TuneEvents, listening

CONFIG = {"id": "t0001", "phase": "search", "values": {"lr": 0.1}, "seed": 3, "of": ""}
SEEN = TrialInfo("t0001", "search", {"lr": 0.1}, 3)


class Heard:
    """A listener that keeps what it receives."""

    def __init__(self) -> None:
        self.events: list[tuple[Any, ...]] = []

    def __getattr__(self, name: str) -> Any:
        return lambda *details: self.events.append((name, *details))


@pytest.fixture
def trial(tmp_path: Path) -> Any:
    return SimpleNamespace(config=dict(CONFIG), last_result=None, pickled_error_file=str(tmp_path / "error.pkl"))


def test_every_listener_gets_each_event_while_it_listens(trial: Any) -> None:
    first, second, tune = Heard(), Heard(), TuneEvents()
    with listening(first, second):  # type: ignore[arg-type]
        tune.on_trial_start(1, [trial], trial)
        tune.on_trial_result(1, [trial], trial, {"iter": 2, "mIoU": 50.0})
        tune.on_trial_complete(1, [trial], trial)
        trial.config["iterations"], trial.last_result = 40, {"iter": 4}
        tune.on_trial_error(1, [trial], trial)
    tune.on_trial_start(2, [trial], trial)
    assert (
        first.events
        == second.events
        == [
            ("trial_started", SEEN),
            ("trial_validated", SEEN, {"iter": 2, "mIoU": 50.0}),
            ("trial_ended", SEEN, {}, False),
            ("trial_ended", TrialInfo("t0001", "search", {"lr": 0.1}, 3, iterations=40), {"iter": 4}, True),
        ]
    )


def test_a_trial_is_lost_where_its_machine_failed_it_and_not_where_it_failed_of_its_own(trial: Any) -> None:
    heard, tune = Heard(), TuneEvents()
    with listening(heard):  # type: ignore[arg-type]
        tune.on_trial_recover(1, [trial], trial)  # Tune has no error of it yet
        for error in (ValueError("its own"), OutOfMemoryError("killed"), ConnectionResetError("by peer")):
            Path(trial.pickled_error_file).write_bytes(cloudpickle.dumps(error))
            tune.on_trial_recover(1, [trial], trial)
    assert [(name, seen) for name, seen, _ in heard.events] == [("trial_lost", SEEN)] * 2
    assert heard.events[1][2] == "ConnectionResetError: by peer"


@pytest.mark.parametrize(
    ("seen", "alone"),
    [
        (TrialInfo("baseline", "baseline", {}), True),
        (TrialInfo("b0002-s1", "confirm", {}, of="b0002"), True),
        (TrialInfo("t0001-s1", "confirm", {}, of="t0001"), False),
        (TrialInfo("better", "search", {}), False),
    ],
)
def test_which_train_the_student_alone(seen: TrialInfo, alone: bool) -> None:
    assert seen.is_baseline is alone

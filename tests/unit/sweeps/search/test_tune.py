"""What is around Tune's runs: Ctrl-C, trials that could not end their records; Tune itself is in tests/e2e."""

from __future__ import annotations

import signal
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from rdistill.sweeps.search import tune
from rdistill.sweeps.search.tune import (
    GROUP_DRIVER_RESOURCES,
    PROXY_RESOURCES,
    Team,
    _ctrl_c_caught_by_tune,
    _finish_records,
)
from rdistill.sweeps.study.records import TRIALS, TrialRecord, load_record
from rdistill.sweeps.study.spec import SweepSpec
from rdistill.training.ray_train import Resources

HISTORY: Any = [{"iter": 2, "seconds": 1.0, "mIoU": 60.0}]


class TuneTrial:
    """As much of one of Tune's trials as is looked at after a phase."""

    def __init__(self, name: str, *, error: Exception | None = None, finished: bool = True) -> None:
        self.config, self.error, self.finished = {"id": name}, error, finished
        self.trial_id = "Tune's own"

    def is_finished(self) -> bool:
        return self.finished

    def get_pickled_error(self) -> Exception | None:
        return self.error

    def get_error(self) -> None:
        return None


@pytest.mark.parametrize("complete", [True, False])
def test_records_that_trials_could_not_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, complete: bool) -> None:
    """Of a phase that was cut off, those without an error go on with the next start."""
    for name, status in (("stopped", "running"), ("died", "running"), ("amid", "running"), ("done", "finished")):
        TrialRecord(name, {}, 0, status=status, history=HISTORY).save(tmp_path / TRIALS / name)
    trials = [
        TuneTrial("stopped"), TuneTrial("died", error=RuntimeError("a\nkilled")), TuneTrial("amid", finished=False),
        TuneTrial("done", error=RuntimeError("late")), TuneTrial("no-record"),
    ]  # fmt: skip
    monkeypatch.setattr(tune, "trials_of", lambda results: results)
    _finish_records(tmp_path, trials, complete)  # type: ignore[arg-type]
    records = {name: load_record(tmp_path / TRIALS / name) for name in ("stopped", "died", "amid", "done")}
    ends = {name: (record.status, record.reason) for name, record in records.items() if record is not None}
    assert ends == {
        "stopped": ("stopped" if complete else "running", ""), "died": ("failed", "RuntimeError: killed"),
        "amid": ("running", ""), "done": ("finished", ""),
    }  # fmt: skip


def test_ctrl_c_has_ended_tune_where_tune_gave_the_signal_back() -> None:
    before = signal.getsignal(signal.SIGINT)
    with _ctrl_c_caught_by_tune() as was_pressed:
        found = signal.signal(signal.SIGINT, signal.SIG_IGN)  # Tune does so for as long as it runs
        assert not was_pressed()
        signal.signal(signal.SIGINT, found)
        assert was_pressed()
        with pytest.raises(KeyboardInterrupt):  # a second time: it does not wait for Tune
            signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is before


def test_in_a_thread_tune_catches_no_signal() -> None:
    def pressed() -> bool:
        with _ctrl_c_caught_by_tune() as was_pressed:
            return was_pressed()

    before = signal.getsignal(signal.SIGINT)
    with ThreadPoolExecutor() as pool:
        assert pool.submit(pressed).result() is False
    assert signal.getsignal(signal.SIGINT) is before


def team(resources: Resources, **sections: Any) -> Team:
    content = {"config": "a.py", "space": {"lr": {"type": "uniform", "low": 0, "high": 1}}, "search": {"num_trials": 9}}
    study = SimpleNamespace(spec=SweepSpec.model_validate({**content, **sections}))
    return Team(SimpleNamespace(), study, resources, 4, print)  # type: ignore[arg-type]


@pytest.mark.parametrize(("most", "trials", "at_once"), [(None, 9, 4), (None, 3, 3), (2, 9, 2)])
def test_without_cohorts_as_many_trials_as_there_is_room_for(most: int | None, trials: int, at_once: int) -> None:
    alone = team(Resources(), cohort={"size": "off"}, trial={"max_concurrent": most})
    assert alone._start(trials) == (None, at_once) and alone.cohorts == ()


def test_what_a_trial_takes_of_the_cluster() -> None:
    """In a cohort next to nothing: the CPUs are the cohort's, as those of a group are the group's."""
    fleet: Any = SimpleNamespace(cohorts=["one"], assigner="assigner")
    proxied = team(Resources(gpus_per_worker=0))._trainable(fleet)
    assert proxied._resources.bundles == [PROXY_RESOURCES | {"memory": float(PROXY_RESOURCES["memory"])}]
    assert team(Resources(1, 2.0, 0))._trainable(None)._resources.required_resources == {"CPU": 2.0}
    of_group = team(Resources(3, 2.0, 0))._trainable(None)._resources.required_resources
    assert of_group == {name: float(amount) for name, amount in GROUP_DRIVER_RESOURCES.items()}

"""What the first rank makes of newcomers; whole groups are in tests/e2e/test_workers.py."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from rdistill.sweeps.cohort import rank
from rdistill.sweeps.cohort.membership import JOIN, STOP
from rdistill.sweeps.cohort.proxy import FAILED, FINISHED, REPORTED
from rdistill.sweeps.study.records import TRIALS, TrialRecord

HISTORY: Any = [{"iter": 2, "seconds": 1.0, "mIoU": 60.0}, {"iter": 4, "seconds": 2.0, "mIoU": 55.0}]


def trial(trial_id: str, **values: Any) -> Any:
    return {"id": trial_id, "phase": "search", "of": "", "seed": 0, "values": values}


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What the group's actor is told, as (trial id, event)."""
    monkeypatch.setattr(rank.ray, "get", lambda reference: reference)
    return []


def mailbox(told: list[Any]) -> Any:
    return SimpleNamespace(pass_on=SimpleNamespace(remote=lambda trial_id, event: told.append((trial_id, event))))


def test_those_that_have_ended_are_not_trained_again(tmp_path: Path, told: list[Any]) -> None:
    records = [
        TrialRecord("done", {}, 0, status="finished", history=HISTORY),
        TrialRecord("wrong", {}, 0, status="failed", cause="own", reason="UserError: a mistake"),
        TrialRecord("unlucky", {}, 0, status="failed", cause="machine", reason="killed"),
        TrialRecord("amid", {}, 0, history=HISTORY),
    ]
    for record in records:
        record.save(tmp_path / TRIALS / record.id)
    news = [*((JOIN, trial(record.id)) for record in records), (STOP, "other"), (JOIN, trial("new"))]
    left = rank._prepare_changes(SimpleNamespace(work_dir=str(tmp_path)), mailbox(told), news)  # type: ignore[arg-type]
    assert left == [(JOIN, trial("unlucky")), (JOIN, trial("amid")), (STOP, "other"), (JOIN, trial("new"))]
    assert told == [
        ("done", (REPORTED, {"iter": 4, "mIoU": 55.0, "best_mIoU": 60.0})),
        ("done", (FINISHED, None)),
        ("wrong", (FAILED, "UserError: a mistake")),
    ]


def test_what_another_trial_of_the_name_left_is_removed(tmp_path: Path, told: list[Any]) -> None:
    folder = tmp_path / TRIALS / "t1"
    TrialRecord("t1", {"lr": 0.1}, 0, status="finished", history=HISTORY).save(folder)
    (folder / "last.pth").write_bytes(b"of the other")
    study: Any = SimpleNamespace(work_dir=str(tmp_path))
    assert rank._prepare_changes(study, mailbox(told), [(JOIN, trial("t1", lr=0.2))]) == [(JOIN, trial("t1", lr=0.2))]
    assert told == [] and not (folder / "last.pth").exists()


def test_the_end_is_passed_on(tmp_path: Path, told: list[Any]) -> None:
    assert rank._prepare_changes(SimpleNamespace(work_dir=str(tmp_path)), mailbox(told), None) is None  # type: ignore[arg-type]

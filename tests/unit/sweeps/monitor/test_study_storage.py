"""A search in a storage of Optuna's: its trials, their scores on the way, and what the report says of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution
from optuna.trial import TrialState

from rdistill.core.errors import UserError
from rdistill.sweeps.monitor.events import TrialInfo
from rdistill.sweeps.monitor.study_storage import StudyStorage, require_storage
from rdistill.sweeps.study.records import BASELINE, TRIALS, TrialRecord
from rdistill.sweeps.study.spec import SweepSpec

SPACE: dict[str, dict[str, Any]] = {
    "w": {"type": "uniform", "low": 0.0, "high": 9.0},
    "k": {"type": "choice", "values": [None, [1, 2]]},
}
DISTRIBUTIONS = {"w": FloatDistribution(0.0, 9.0), "k": CategoricalDistribution(["null", "[1, 2]"])}


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}/study.db"


def kept(url: str, work_dir: Path, *more: list[int]) -> StudyStorage:
    """``more``: values that a choice has got since the sweep was begun."""
    values = [*SPACE["k"]["values"], *more]
    space = {"w": SPACE["w"], "k": {"type": "choice", "values": values}}
    spec = SweepSpec.model_validate({"config": "a.py", "space": space, "search": {"num_trials": 3}})
    choices = CategoricalDistribution([json.dumps(value) for value in values])
    return StudyStorage(url, "a", spec, {**DISTRIBUTIONS, "k": choices}, work_dir)


def seen(name: str, phase: str = "search") -> TrialInfo:
    return TrialInfo(name, phase, {"w": 2.0, "k": [1, 2]} if phase == "search" else {})


def saved(work_dir: Path, name: str, score: float, status: str = "finished") -> TrialRecord:
    record = TrialRecord(name, {"w": 2.0, "k": [1, 2]}, 0, status=status)
    record.history = [{"iter": 4, "seconds": 1.5, "mIoU": score, "IoU": {"disc": 30.0, "void": None}}]
    record.save(work_dir / TRIALS / name)
    return record


def test_a_trial_with_its_validations_and_attributes(url: str, tmp_path: Path) -> None:
    saved(tmp_path, BASELINE, 40.0)
    storage, trial, record = kept(url, tmp_path), seen("t0001"), saved(tmp_path, "t0001", 50.0)
    storage.open_run(seen(BASELINE, BASELINE))
    storage.open_run(trial)
    storage.log_validation(trial, {"iter": 2, "mIoU": 45.0, "best_mIoU": 45.0}, record, [])
    storage.log_validation(trial, {"iter": 4, "mIoU": 50.0, "best_mIoU": 50.0}, record, [])
    storage.close_run(trial, "finished", record)
    (frozen,) = optuna.load_study(study_name="a", storage=url).trials
    assert (frozen.state, frozen.value, frozen.params) == (TrialState.COMPLETE, 50.0, {"w": 2.0, "k": "[1, 2]"})
    assert frozen.intermediate_values == {2: 45.0, 4: 50.0}
    assert frozen.user_attrs == {
        "id": "t0001", "seed": 0, "status": "finished", "mIoU": 50.0, "gain": 10.0, "IoU disc": 30.0, "best_iter": 4,
        "iterations": 4, "seconds": 1.5,
    }  # fmt: skip


def test_a_failed_trial_and_one_that_a_resume_opens_again(url: str, tmp_path: Path) -> None:
    before, failed = kept(url, tmp_path), saved(tmp_path, "t0001", 50.0, "failed")
    before.open_run(seen("t0001"))
    before.close_run(seen("t0001"), "failed", failed)
    before.open_run(seen("t0002"))  # and then the driver died
    after = kept(url, tmp_path)
    after.open_run(seen("t0002"))
    after.close_run(seen("t0002"), "finished", saved(tmp_path, "t0002", 60.0))
    again = kept(url, tmp_path)
    again.open_run(seen("t0002"))  # finished already: Tune reports it once more
    trials = optuna.load_study(study_name="a", storage=url).trials
    assert [(trial.user_attrs["id"], trial.state.name) for trial in trials] == [
        ("t0001", "FAIL"), ("t0002", "FAIL"), ("t0002", "COMPLETE"),
    ]  # fmt: skip


def test_what_a_killed_sweep_could_not_say_is_made_up_for(url: str, tmp_path: Path) -> None:
    """One trial had finished and one was amid its training, and the storage of one did not answer."""
    before = kept(url, tmp_path)
    for name in ("t0001", "t0002"):
        before.open_run(seen(name))
    saved(tmp_path, "t0001", 50.0)
    saved(tmp_path, "t0002", 55.0, "running")
    saved(tmp_path, "t0003", 60.0, "stopped")
    saved(tmp_path, BASELINE, 40.0)
    kept(url, tmp_path)
    trials = optuna.load_study(study_name="a", storage=url).trials
    assert [(trial.user_attrs["id"], trial.state.name, trial.value) for trial in trials] == [
        ("t0001", "FAIL", None), ("t0002", "FAIL", None), ("t0001", "COMPLETE", 50.0), ("t0003", "COMPLETE", 60.0),
    ]  # fmt: skip
    made_up = trials[2]
    assert made_up.params == {"w": 2.0, "k": "[1, 2]"} and made_up.intermediate_values == {4: 50.0}
    assert (made_up.user_attrs["status"], made_up.user_attrs["gain"], made_up.user_attrs["seed"]) == (
        "finished",
        10.0,
        0,
    )
    kept(url, tmp_path)  # nothing twice
    assert len(optuna.load_study(study_name="a", storage=url).trials) == 4


def test_a_choice_that_has_grown_has_a_study_of_its_own(url: str, tmp_path: Path) -> None:
    """Optuna's studies let no choice grow; what was trained is in the new one too."""
    before = kept(url, tmp_path)
    before.open_run(seen("t0001"))
    before.close_run(seen("t0001"), "finished", saved(tmp_path, "t0001", 50.0))
    for _ in range(2):  # resumed once more
        after = kept(url, tmp_path, [3, 4])
    grown = TrialInfo("t0002", "search", {"w": 5.0, "k": [3, 4]})
    after.open_run(grown)
    after.close_run(grown, "finished", saved(tmp_path, "t0002", 60.0))
    first, second = (optuna.load_study(study_name=name, storage=url).trials for name in ("a", "a-2"))
    assert [trial.user_attrs["id"] for trial in first] == ["t0001"]
    assert [(trial.user_attrs["id"], trial.params["k"], trial.value) for trial in second] == [
        ("t0001", "[1, 2]", 50.0), ("t0002", "[3, 4]", 60.0),
    ]  # fmt: skip
    assert optuna.get_all_study_names(url) == ["a", "a-2"]


def test_a_storage_that_does_not_answer_or_holds_another_study(url: str, tmp_path: Path) -> None:
    require_storage(url, "a", may_exist=False)
    kept(url, tmp_path)
    require_storage(url, "a", may_exist=True)
    with pytest.raises(UserError, match="holds a study 'a' already; use another storage, or another --work-dir"):
        require_storage(url, "a", may_exist=False)
    for bad in (f"sqlite:///{tmp_path}/nowhere/study.db", "nothing://", "mysql://me:secret@127.0.0.1:1/x"):
        with pytest.raises(UserError, match=r"search.storage: .* does not answer: ") as error:
            require_storage(bad, "a", may_exist=False)
        assert "secret" not in str(error.value) and len(error.value.problems) == 1

"""Which failures are worth another attempt."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest
from ray.exceptions import ActorDiedError, OutOfMemoryError, WorkerCrashedError
from ray.train import WorkerGroupError

from rdistill.core.errors import UserError
from rdistill.core.storage import StorageError
from rdistill.sweeps.study.records import CONFIRMED, SEARCHED, STUDY, TRIALS, TrialRecord, load_record
from rdistill.sweeps.trial.faults import (
    MACHINE,
    OWN,
    STORAGE,
    GivenUpError,
    StopOnLostStorage,
    cause_of,
    raise_if_given_up,
    require_kept,
    retry_failed_trials,
    storage_errors_explained,
)
from rdistill.training.hooks import DivergedError


@pytest.mark.parametrize(
    ("error", "cause"),
    [
        (ActorDiedError(), MACHINE),
        (WorkerCrashedError(), MACHINE),
        (OutOfMemoryError("the node's memory"), MACHINE),
        (OSError(errno.ESTALE, "stale"), MACHINE),
        (ConnectionResetError(errno.ECONNRESET, "reset"), MACHINE),
        (RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed."), MACHINE),
        (RuntimeError("[gloo/transport/tcp/pair.cc:144] Write error [127.0.0.1]:30627: Broken pipe"), MACHINE),
        (WorkerGroupError("text", {0: ActorDiedError()}), MACHINE),
        (OSError(errno.ENOSPC, "No space left on device"), STORAGE),
        (StorageError("s3://a: does not answer"), STORAGE),
        (DivergedError("iteration 2"), OWN),
        (UserError("a.py: wrong"), OWN),
        (ValueError("a bug in one loss"), OWN),
        (FileNotFoundError(errno.ENOENT, "no such image"), OWN),
    ],
    ids=lambda value: value if isinstance(value, str) else type(value).__name__,
)
def test_cause(error: BaseException, cause: str, tmp_path: Path) -> None:
    assert cause_of(error, tmp_path) == cause


def test_a_file_that_torch_could_not_write_into_a_folder_that_is_gone(tmp_path: Path) -> None:
    """Whether the disk is full is then read at the nearest folder that is there."""
    not_written = RuntimeError("[enforce fail at inline_container.cc:664] . unexpected pos 64 vs 0")
    assert cause_of(not_written, tmp_path / "trials" / "t0001") == OWN


def test_a_removed_work_dir_ends_a_sweep(tmp_path: Path) -> None:
    """Whatever the error is by which a part of the sweep notices it, and without an error too."""
    (tmp_path / STUDY).touch()
    require_kept(tmp_path)
    with storage_errors_explained(tmp_path):
        pass
    (tmp_path / STUDY).unlink()
    gone = FileNotFoundError(errno.ENOENT, "logs/driver.log")
    for error in (None, gone, RuntimeError("of Tune"), StorageError("full")):
        with pytest.raises(StorageError, match=": was removed or moved ") as caught, storage_errors_explained(tmp_path):
            if error is not None:
                raise error
        assert str(caught.value).startswith(f"{tmp_path}: ") and "--resume" not in str(caught.value)
    with pytest.raises(StorageError, match="was removed"):
        StopOnLostStorage(str(tmp_path)).on_trial_result(0, [], None, {})


def test_only_its_own_failure_is_given_up() -> None:
    with pytest.raises(GivenUpError, match="iteration 2"):
        raise_if_given_up(TrialRecord("t0001", {}, 0, status="failed", reason="iteration 2", cause=OWN))
    raise_if_given_up(TrialRecord("t0001", {}, 0, status="failed", cause=MACHINE))
    raise_if_given_up(TrialRecord("t0001", {}, 0))


def test_a_resume_forgives_the_trials_it_will_run(tmp_path: Path) -> None:
    for name, phase in (("t0001", SEARCHED), ("t0001-s1", CONFIRMED)):
        TrialRecord(name, {}, 0, phase=phase, status="failed", cause=OWN).save(tmp_path / TRIALS / name)
    retry_failed_trials(tmp_path, confirmed=False)
    records = [load_record(tmp_path / TRIALS / name) for name in ("t0001", "t0001-s1")]
    assert [record.status for record in records if record] == ["running", "failed"]

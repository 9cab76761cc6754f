"""Why a trial failed: the machine, which is worth another attempt, or the trial's own values, which are not.

Tune starts a failed trial again a few times, whatever it failed of. The trial then looks at its record: where the cause
is its own it fails again at once, with the same reason; else it goes on from its last checkpoint.
"""

from __future__ import annotations

import errno
import shutil
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

from ray import cloudpickle
from ray import exceptions as ray_errors
from ray.tune import Callback

from rdistill._compat import texts
from rdistill.core.errors import causes_of, one_line
from rdistill.core.storage import StorageError
from rdistill.sweeps.study.records import TRIALS, TrialRecord, load_record, load_records
from rdistill.training.ray_train import peer_lost

RETRIES = 2  # further attempts of a trial where the machine was the cause
MACHINE, OWN, STORAGE = "machine", "own", "storage"  # causes of a failure
FULL = (errno.ENOSPC, errno.EDQUOT)
PASSING = (
    errno.EIO, errno.ESTALE, errno.ETIMEDOUT, errno.ECONNRESET, errno.ECONNREFUSED, errno.ECONNABORTED, errno.EPIPE,
    errno.ENETUNREACH, errno.EHOSTUNREACH, errno.EAGAIN, errno.EBUSY, errno.EMFILE, errno.ENFILE,
)  # fmt: skip
LITTLE = 2**20  # free bytes of a disk that is as good as full
LOST = (
    ray_errors.RayActorError, ray_errors.WorkerCrashedError, ray_errors.OutOfMemoryError, ray_errors.NodeDiedError,
    ray_errors.LocalRayletDiedError, ray_errors.ObjectLostError, ray_errors.OwnerDiedError,
    ray_errors.RuntimeEnvSetupError, TimeoutError,
)  # fmt: skip


class GivenUpError(RuntimeError):
    """The trial failed of its own before: it is not trained again."""


def cause_of(error: BaseException, folder: Path) -> str:
    """``MACHINE``, ``STORAGE`` (it is full, or does not answer: no trial can go on) or ``OWN``.

    Args:
        error: that a trial ended with.
        folder: where it was writing.
    """
    chain = causes_of(error)
    if any(_is_storages(link, folder) for link in chain):
        return STORAGE
    return MACHINE if any(_is_machines(link) for link in chain) else OWN


def _is_storages(error: BaseException, folder: Path) -> bool:
    if isinstance(error, StorageError):  # a hiccup of a disk or a network file system passes
        return not (isinstance(error.__cause__, OSError) and error.__cause__.errno in PASSING)
    if isinstance(error, OSError) and error.errno in FULL:
        return True
    # torch.save does not say why it could not write.
    return texts.NOT_WRITTEN.is_in(error) and (texts.DISK_FULL.is_in(error) or shutil.disk_usage(folder).free < LITTLE)


def _is_machines(error: BaseException) -> bool:
    if isinstance(error, OSError) and error.errno is not None:
        return error.errno in PASSING
    if isinstance(error, (*LOST, ConnectionError)) or peer_lost(error):
        return True
    return texts.LOADER_DIED.is_in(error) or texts.CONNECTION_LOST.is_in(error)


def last_error(trial: Any) -> BaseException | None:
    """What one of Tune's trials failed of just now: Tune has it on this machine, and in the storage later only."""
    file = trial.pickled_error_file
    if file is None or not Path(file).is_file():
        return None
    with open(file, "rb") as opened:
        return cast(BaseException, cloudpickle.load(opened))


def give_up_again(record: TrialRecord) -> None:
    """Raises GivenUpError where an earlier attempt of this sweep's failed of what no other attempt would change."""
    if record.status == "failed" and record.cause in (OWN, STORAGE):
        raise GivenUpError(record.reason)


def forgive(work_dir: Path, *, confirmed: bool, trials: Collection[str] | None = None) -> None:
    """Gives every failed trial another attempt, from its last checkpoint: a resume may come with mended code.

    Only trials of the confirmation, or only those of the search: the other is over, or not there yet. ``trials``: only
    these, by id.
    """
    for record in load_records(work_dir):
        if trials is not None and record.id not in trials:
            continue
        if record.status == "failed" and record.searched != confirmed:
            record.status, record.cause = "running", ""
            record.save(work_dir / TRIALS / record.id)


class StopOnFullStorage(Callback):
    """Ends the sweep as soon as a trial could not write: no other could either. Tune saves it, so it is plain data."""

    def __init__(self, work_dir: str) -> None:
        self.work_dir = work_dir

    def on_trial_recover(self, iteration: int, trials: list[Any], trial: Any, **_: Any) -> None:
        self._look_at(trial)

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **_: Any) -> None:
        self._look_at(trial)

    def _look_at(self, trial: Any) -> None:
        folder = Path(self.work_dir, TRIALS, str(trial.config.get("id")))
        record, error = load_record(folder), last_error(trial)
        if record is not None and record.status == "failed" and record.cause == STORAGE:
            raise StorageError(record.reason)
        if error is not None and cause_of(error, Path(self.work_dir)) == STORAGE:  # not even the record was written
            raise StorageError(str(error).strip().splitlines()[-1])


@contextmanager
def storage_watched(work_dir: Path) -> Iterator[None]:
    """Turns what Tune fails of when the storage is full into a line that says so.

    Raises:
        StorageError: a trial, or Tune itself, could not write.
    """
    try:
        yield
    except StorageError as error:
        raise StorageError(_ask_for_room(error, work_dir)) from None
    except Exception as error:
        if cause_of(error, work_dir) != STORAGE:
            raise
        raise StorageError(_ask_for_room(error, work_dir)) from None


def _ask_for_room(error: BaseException, work_dir: Path) -> str:
    message = one_line(error)
    if "--resume" in message:
        return message
    return f"{work_dir}: cannot be written to ({message[:200]}); make room and continue with --resume: nothing is lost"

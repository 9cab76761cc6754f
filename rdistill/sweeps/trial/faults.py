"""The causes of failed trials: the machine, where another attempt may help, or the trial's own values, where none does.

Ray Tune restarts a failed trial a few times, whatever the cause. The restarted trial reads its record: if its own
values were the cause, it fails again at once with the same reason; otherwise it goes on from its last checkpoint.
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
from rdistill.core.failures import removed
from rdistill.core.files import nearest_existing
from rdistill.core.storage import StorageError
from rdistill.sweeps.study.records import STUDY, TRIALS, TrialRecord, load_record, load_records
from rdistill.training.ray_train import peer_lost

RETRIES = 2  # further attempts of a trial after the machine caused a failure
MACHINE, OWN, STORAGE = "machine", "own", "storage"  # causes of a failure; see `cause_of`
DISK_FULL_ERRNOS = (errno.ENOSPC, errno.EDQUOT)
TRANSIENT_ERRNOS = (
    errno.EIO, errno.ESTALE, errno.ETIMEDOUT, errno.ECONNRESET, errno.ECONNREFUSED, errno.ECONNABORTED, errno.EPIPE,
    errno.ENETUNREACH, errno.EHOSTUNREACH, errno.EAGAIN, errno.EBUSY, errno.EMFILE, errno.ENFILE,
)  # fmt: skip
MIN_FREE_BYTES = 2**20  # a disk with fewer free bytes counts as full
LOST_PROCESS_ERRORS = (
    ray_errors.RayActorError, ray_errors.WorkerCrashedError, ray_errors.OutOfMemoryError, ray_errors.NodeDiedError,
    ray_errors.LocalRayletDiedError, ray_errors.ObjectLostError, ray_errors.OwnerDiedError,
    ray_errors.RuntimeEnvSetupError, TimeoutError,
)  # fmt: skip


class GivenUpError(RuntimeError):
    """An earlier attempt failed because of the trial's own values: it is not trained again."""


def cause_of(error: BaseException, folder: Path) -> str:
    """The cause of a trial's failure.

    Args:
        error: the error that ended the trial.
        folder: the folder that the trial wrote to.

    Returns:
        ``MACHINE``, ``STORAGE`` (the storage is full or does not answer, so that no trial can go on) or ``OWN``.
    """
    chain = causes_of(error)
    if any(_is_storage_error(link, folder) for link in chain):
        return STORAGE
    return MACHINE if any(_is_machine_error(link) for link in chain) else OWN


def _is_storage_error(error: BaseException, folder: Path) -> bool:
    if isinstance(error, StorageError):  # but a transient error of a disk or a network file system is the machine's
        return not (isinstance(error.__cause__, OSError) and error.__cause__.errno in TRANSIENT_ERRNOS)
    if isinstance(error, OSError) and error.errno in DISK_FULL_ERRNOS:
        return True
    # An error of torch.save does not say why the file could not be written.
    return texts.NOT_WRITTEN.is_in(error) and (
        texts.DISK_FULL.is_in(error) or shutil.disk_usage(nearest_existing(folder)).free < MIN_FREE_BYTES
    )


def _is_machine_error(error: BaseException) -> bool:
    if isinstance(error, OSError) and error.errno is not None:
        return error.errno in TRANSIENT_ERRNOS
    if isinstance(error, (*LOST_PROCESS_ERRORS, ConnectionError)) or peer_lost(error):
        return True
    return texts.LOADER_DIED.is_in(error) or texts.CONNECTION_LOST.is_in(error)


def last_error(trial: Any) -> BaseException | None:
    """The error that one of Tune's trials has just failed with.

    It is read from Tune's file on this machine, since Tune copies that file to the storage only later.
    """
    file = trial.pickled_error_file
    if file is None or not Path(file).is_file():
        return None
    with open(file, "rb") as opened:
        return cast(BaseException, cloudpickle.load(opened))


def raise_if_given_up(record: TrialRecord) -> None:
    """Raises GivenUpError if an earlier attempt in this sweep failed from a cause that no other attempt can change."""
    if record.status == "failed" and record.cause in (OWN, STORAGE):
        raise GivenUpError(record.reason)


def retry_failed_trials(work_dir: Path, *, confirmed: bool, trials: Collection[str] | None = None) -> None:
    """Lets failed trials train again from their last checkpoints: the user may have mended the code before a resume.

    Args:
        work_dir: the sweep's work dir.
        confirmed: whether to retry trials of the confirmation, or else those of the search. The other phase is over or
            has not started yet.
        trials: ids of the only trials to retry; None for all.
    """
    for record in load_records(work_dir):
        if trials is not None and record.id not in trials:
            continue
        if record.status == "failed" and record.searched != confirmed:
            record.status, record.cause = "running", ""
            record.save(work_dir / TRIALS / record.id)


class StopOnLostStorage(Callback):
    """Ends the sweep as soon as one trial could not write, or the work dir is gone, since then no other trial can.

    Tune pickles its callbacks, so this one holds plain data alone.
    """

    def __init__(self, work_dir: str) -> None:
        self.work_dir = work_dir

    def on_trial_result(self, iteration: int, trials: list[Any], trial: Any, result: Any, **_: Any) -> None:
        require_kept(Path(self.work_dir))

    def on_trial_recover(self, iteration: int, trials: list[Any], trial: Any, **_: Any) -> None:
        self._check_storage(trial)

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **_: Any) -> None:
        self._check_storage(trial)

    def _check_storage(self, trial: Any) -> None:
        folder = Path(self.work_dir, TRIALS, str(trial.config.get("id")))
        record, error = load_record(folder), last_error(trial)
        if record is not None and record.status == "failed" and record.cause == STORAGE:
            raise StorageError(record.reason)
        # A trial that could not even write its record is known by Tune's own copy of the error.
        if error is not None and cause_of(error, Path(self.work_dir)) == STORAGE:
            raise StorageError(str(error).strip().splitlines()[-1])


@contextmanager
def storage_errors_explained(work_dir: Path) -> Iterator[None]:
    """Replaces Tune's errors about a full storage by a StorageError with one line for the user.

    Raises:
        StorageError: a trial, or Tune itself, could not write; or the work dir was removed.
    """
    try:
        yield
    except Exception as error:
        require_kept(work_dir)
        if not isinstance(error, StorageError) and cause_of(error, work_dir) != STORAGE:
            raise
        raise StorageError(_storage_message(error, work_dir)) from None
    require_kept(work_dir)


def require_kept(work_dir: Path) -> None:
    """Raises StorageError if a sweep's work dir was removed while the sweep ran.

    The folder itself may be there again: Ray, and trials that still train, make those of their files.
    """
    if not (work_dir / STUDY).is_file():
        raise removed(work_dir)


def _storage_message(error: BaseException, work_dir: Path) -> str:
    message = one_line(error)
    if "--resume" in message:
        return message
    return f"{work_dir}: cannot be written to ({message[:200]}); make room and continue with --resume: nothing is lost"

"""Sends the log messages of Ray, mmengine and other libraries to files in the work dir."""

from __future__ import annotations

import logging
import os
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

LOGS = "logs"
DRIVER_LOG = "driver.log"
NOISY = ("ray", "ray.tune", "ray.train", "ray.data", "optuna", "wandb", "mlflow", "alembic", "py.warnings")
MAX_BYTES = 4 * 2**20  # only this many bytes at the end of a worker's output are kept


@contextmanager
def driver_log(work_dir: Path) -> Iterator[Path]:
    """Sends the libraries' log messages and Python's warnings of this process to ``logs/driver.log``.

    Yields the ``logs`` folder, to which :func:`keep_worker_logs` adds files.
    """
    folder = work_dir / LOGS
    folder.mkdir(parents=True, exist_ok=True)
    handler = logging.FileHandler(folder / DRIVER_LOG, delay=True)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    before = []
    for name in NOISY:
        logger = logging.getLogger(name)
        before.append((logger, logger.handlers, logger.propagate, logger.level))
        logger.handlers, logger.propagate = [handler], False
        logger.setLevel(max(logger.level, logging.INFO))
    logging.captureWarnings(True)
    try:
        yield folder
    finally:
        logging.captureWarnings(False)
        for logger, handlers, propagate, level in before:
            logger.handlers, logger.propagate = handlers, propagate
            logger.setLevel(level)
        handler.close()


def keep_worker_logs(ray_folder: Path, work_dir: Path) -> None:
    """Copies the output of the workers of Ray's newest session to the work dir's ``logs`` folder, if that exists.

    Links are not followed, because they could lead to private files.
    """
    target = work_dir / LOGS
    sessions = sorted(entry for entry in _real_folders(ray_folder) if entry.name.startswith("session_2"))
    logs = next((entry for entry in _real_folders(sessions[-1]) if entry.name == "logs"), None) if sessions else None
    if logs is None or not target.is_dir():
        return
    for pattern in ("worker-*.out", "worker-*.err", "raylet.err", "gcs_server.err"):
        for file in logs.glob(pattern):
            with suppress(OSError):  # it is a link, or was removed meanwhile
                _copy_end(file, target / file.name)


def _real_folders(folder: Path) -> list[Path]:
    """The folders in a folder, without links."""
    if not folder.is_dir():
        return []
    return [Path(entry.path) for entry in os.scandir(folder) if entry.is_dir(follow_symlinks=False)]


def _copy_end(file: Path, target: Path) -> None:
    """Copies the last bytes of a regular file of this user; a link at ``target`` is replaced.

    Raises:
        OSError: ``file`` is a link, is no regular file, or cannot be read.
    """
    with open(os.open(file, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK), "rb") as source:
        status = os.fstat(source.fileno())
        own_file = stat.S_ISREG(status.st_mode) and status.st_uid == os.getuid() and status.st_nlink == 1
        if not own_file or not status.st_size:
            return
        target.unlink(missing_ok=True)
        with open(target, "xb") as copy:
            source.seek(max(0, status.st_size - MAX_BYTES))
            shutil.copyfileobj(source, copy)

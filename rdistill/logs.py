"""Where the noise goes: what Ray, mmengine and the like have to say, in files under the work dir."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

LOGS = "logs"
DRIVER_LOG = "driver.log"
NOISY = ("ray", "ray.tune", "ray.train", "ray.data", "optuna", "wandb", "mlflow", "alembic", "py.warnings")
MOST_BYTES = 4 * 2**20  # of one worker's output that is kept: the end of it


@contextmanager
def driver_log(work_dir: Path) -> Iterator[Path]:
    """Sends the libraries' messages, and Python's warnings, of this process to ``logs/driver.log``.

    Yields the folder, to which :func:`keep_worker_logs` adds.
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


def keep_worker_logs(session: Path, work_dir: Path) -> None:
    """Copies what the workers of a Ray session wrote, as far as there is a ``logs`` folder to take it."""
    target = work_dir / LOGS
    if not target.is_dir():
        return
    for pattern in ("worker-*.out", "worker-*.err", "raylet.err", "gcs_server.err"):
        for file in session.glob(f"logs/{pattern}"):
            if size := file.stat().st_size:
                with open(file, "rb") as source, open(target / file.name, "wb") as copy:
                    source.seek(max(0, size - MOST_BYTES))
                    shutil.copyfileobj(source, copy)

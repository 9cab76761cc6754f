"""What ends a run although nobody made a mistake: a full disk, too little memory. One line each, exit status 1."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from rdistill._compat import texts
from rdistill.core.errors import RunError
from rdistill.core.storage import StorageError

# Where a file cannot be written or read for a reason that lies outside of the run.
STORAGE = {
    errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO, errno.ESTALE, errno.EFBIG, errno.EACCES, errno.EPERM,
    errno.ENOTCONN, errno.ETIMEDOUT, errno.EHOSTDOWN, errno.ENODEV,
}  # fmt: skip


class OutOfMemoryError(RunError):
    """A step does not fit into the memory."""


@contextmanager
def explained(work_dir: Path, batch_size: int) -> Iterator[None]:
    """Turns what the machine cannot do into errors that say what to do.

    Args:
        work_dir: of the run.
        batch_size: of one worker.
    """
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise OutOfMemoryError(_memory("GPU memory", batch_size, error)) from error
    except MemoryError as error:
        raise OutOfMemoryError(_memory("memory", batch_size, error)) from error
    except OSError as error:
        if error.errno not in STORAGE:
            raise
        where = error.filename or work_dir
        raise StorageError(f"{where}: {error.strerror}; {last_good(work_dir)}") from error
    except RuntimeError as error:
        if not texts.CPU_MEMORY.is_in(error):
            raise
        raise OutOfMemoryError(_memory("memory", batch_size, error)) from error


def last_good(work_dir: Path) -> str:
    """Where the last good checkpoint is, and what to do with it."""
    checkpoints = [work_dir / name for name in ("last.pth", "last.pth.previous") if (work_dir / name).is_file()]
    if not checkpoints:
        return "there is no checkpoint yet"
    return f"the last good checkpoint is {checkpoints[0]}; make that right and continue with --resume"


def _memory(what: str, batch_size: int, error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return (
        f"out of {what} with {batch_size} images a worker; lower --batch-size or --size, spread it over more "
        f"--workers, or try --amp or --set \"+activation_checkpointing=['backbone']\""
        + (f" ({lines[0][:160]})" if lines else "")
    )

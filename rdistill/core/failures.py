"""Failures of the machine that end a run, such as a full disk or too little memory: one line each, exit status 1."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rdistill._compat import texts
from rdistill.core.errors import RunError
from rdistill.core.storage import StorageError

# Error numbers which say that a file cannot be read or written for a reason outside of the run.
STORAGE_ERRNOS = {
    errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO, errno.ESTALE, errno.EFBIG, errno.EACCES, errno.EPERM,
    errno.ENOTCONN, errno.ETIMEDOUT, errno.EHOSTDOWN, errno.ENODEV,
}  # fmt: skip


class OutOfMemoryError(RunError):
    """A step does not fit into the memory."""


@contextmanager
def readable_errors(work_dir: Path, batch_size: int) -> Iterator[None]:
    """Within the context, errors of the disk and of the memory become errors that tell the user what to do.

    Args:
        work_dir: the run's work dir.
        batch_size: images of one worker in a step.
    """
    import torch

    try:
        yield
    except torch.OutOfMemoryError as error:
        raise OutOfMemoryError(_memory("GPU memory", batch_size, error)) from error
    except MemoryError as error:
        raise OutOfMemoryError(_memory("memory", batch_size, error)) from error
    except OSError as error:
        if error.errno == errno.ENOENT and not work_dir.is_dir():
            raise removed(work_dir) from error
        if error.errno not in STORAGE_ERRNOS:
            raise
        where = error.filename or work_dir
        raise StorageError(f"{where}: {error.strerror}; {last_good(work_dir)}") from error
    except RuntimeError as error:
        if not texts.CPU_MEMORY.is_in(error):
            raise
        raise OutOfMemoryError(_memory("memory", batch_size, error)) from error


def removed(work_dir: Path) -> StorageError:
    """The error of a run or a sweep whose work dir somebody has removed or moved while it was written to."""
    return StorageError(
        f"{work_dir}: was removed or moved while rdistill wrote to it; remove what is left of it, and start again"
    )


def last_good(work_dir: Path) -> str:
    """Text for the user that says where the last good checkpoint is and how to continue from it."""
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

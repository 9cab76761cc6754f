"""Atomic file writes, which a kill, a full disk or a power cut cannot leave half done; standard JSON; private folders;
and locks, so that only one process works in a folder."""

from __future__ import annotations

import errno
import json
import math
import os
import stat
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from rdistill.core.errors import UserError, user_path

LOCK = ".lock"  # a file in a work dir, locked by the process that works in it
DAMAGED = ".damaged"  # suffix of a file that could not be read and was renamed
_NO_SYNC = (errno.EINVAL, errno.ENOTSUP, errno.EACCES, errno.EPERM)  # errors of file systems that cannot sync a folder
_NO_LOCKS = (errno.ENOSYS, errno.ENOTSUP, errno.ENOLCK, errno.EINVAL)  # errors of file systems without locks
_MAX_NAME_BYTES = 200  # a temporary name repeats at most 200 bytes of the file's name; a name has at most 255


class DamagedFileError(UserError):
    """A file that rdistill wrote cannot be read any more."""


@contextmanager
def written_whole(path: Path, *, previous: Path | None = None) -> Iterator[Path]:
    """Writes a file atomically: yields a temporary path, and renames it to ``path`` after it is completely on the disk.

    If the process or the context ends before that, the old file stays. The folder is made if it is missing.

    Args:
        path: the path of the file; it may exist.
        previous: a path under which the old file is kept; None replaces it.

    Raises:
        OSError: the file cannot be written; the temporary file is removed.
    """
    if path.is_dir():
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    path.parent.mkdir(parents=True, exist_ok=True)
    name = os.fsdecode(os.fsencode(path.name)[:_MAX_NAME_BYTES])
    partial = path.with_name(f".{name}.partial")
    try:
        yield partial
        with open(partial, "rb") as file:
            os.fsync(file.fileno())
        if previous is not None and path.is_file():
            os.replace(path, previous)
        os.replace(partial, path)
        _sync_folder(path.parent)
    finally:
        partial.unlink(missing_ok=True)


def write_whole(path: Path, content: str | bytes) -> None:
    """Writes a file atomically, see :func:`written_whole`.

    Text is written as UTF-8. Characters that UTF-8 cannot encode, such as those of a file name in another encoding,
    become escapes such as ``\\udcff``.
    """
    with written_whole(path) as partial:
        partial.write_bytes(content if isinstance(content, bytes) else content.encode("utf-8", "backslashreplace"))


def _sync_folder(folder: Path) -> None:
    """Flushes a folder to the disk: otherwise a renamed file may have its old name again after a power cut."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in _NO_SYNC:
            raise
    finally:
        os.close(handle)


def to_json(value: Any, *, indent: int | None = None, default: Callable[[Any], Any] | None = None) -> str:
    """A value as standard JSON: NaN and infinities, which JSON does not have, become null."""
    return json.dumps(_finite(value), indent=indent, default=default, allow_nan=False)


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: _finite(item) for key, item in value.items()}
    return [_finite(item) for item in value] if isinstance(value, (list, tuple)) else value


def write_json(path: Path, value: Any) -> None:
    """Writes a JSON file atomically."""
    write_whole(path, to_json(value, indent=2) + "\n")


def read_json(file: Path, fix: str = "copy it from where it is whole") -> Any:
    """Reads a JSON file that rdistill wrote.

    Args:
        file: a file that holds one JSON object.
        fix: tells the user what to do if the file is damaged.

    Raises:
        DamagedFileError: the file is empty, cut off, or not a JSON object; one line that names it.
        OSError: the file cannot be read at all.
    """
    content = file.read_bytes()
    try:
        value = json.loads(content)
    except (ValueError, RecursionError) as error:
        reason = "it is empty" if not content.strip() else f"it is no JSON, or cut off after {len(content)} bytes"
        reason += f": {error}" if content.strip() and not isinstance(error, UnicodeDecodeError) else ""
        raise DamagedFileError(f"{file}: is damaged ({reason}); {fix}") from None
    if not isinstance(value, dict):
        raise DamagedFileError(f"{file}: is damaged (holds a {type(value).__name__} instead of an object); {fix}")
    return value


def set_aside_if_damaged(file: Path, consequence: str, notify: Callable[[str], None]) -> bool:
    """Renames a JSON file that is damaged, so that it will be made again.

    Args:
        file: the file; it need not exist.
        consequence: what happens now, for the message, such as ``it is measured again``.
        notify: is called with a line about it.

    Returns:
        Whether the file was damaged.
    """
    if not file.is_file():
        return False
    try:
        read_json(file)
    except DamagedFileError as error:
        kept = file.with_name(file.name + DAMAGED)
        os.replace(file, kept)
        notify(f"{str(error).rpartition('; ')[0]}: {consequence}; the damaged file is kept as {kept.name}")
        return True
    return False


def read_text(file: Path) -> str:
    """Reads a text file.

    Raises:
        UserError: the file is not UTF-8 text; one line that names it.
        OSError: the file cannot be read at all.
    """
    content = file.read_bytes()
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as error:
        byte = content[error.start]
        raise UserError(f"{file}: is no UTF-8 text: byte 0x{byte:02x} at position {error.start}; save it so") from None


def nearest_existing(path: Path) -> Path:
    """Returns the path, absolute, if it exists, or else the first of its parents that does."""
    return next(folder for folder in (path.absolute(), *path.absolute().parents) if folder.exists())


def own_folder(folder: Path) -> bool:
    """Makes a folder that no other user of the machine can read.

    A link, a file, or the folder of another user is not changed.

    Returns:
        Whether the folder is now private to this user.
    """
    with suppress(FileExistsError):
        folder.mkdir(mode=0o700, parents=True)
    status = os.lstat(folder)
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.getuid():
        return False
    if stat.S_IMODE(status.st_mode) != 0o700:
        os.chmod(folder, 0o700)
    return True


@contextmanager
def lock_folder(folder: Path, by: str) -> Iterator[None]:
    """Within the context, locks a folder for this process, by the file ``.lock`` in it.

    The operating system holds the lock, also over NFS, so a killed process leaves no lock behind. On a file system
    without locks nothing is locked.

    Args:
        folder: the folder; it is made if it is missing.
        by: what works in the folder, for the message, such as "run".

    Raises:
        UserError: another process has locked the folder.
    """
    lock = FileLock(folder / LOCK, blocking=False, fallback_to_soft=False)
    with user_path(folder, "use another --work-dir"):
        folder.mkdir(parents=True, exist_ok=True)
        try:
            _acquire(lock)
        except Timeout:
            text = f"{folder}: another {by} is at work in it; wait for it, or use another --work-dir"
            raise UserError(text) from None
    try:
        yield
    finally:
        # If the folder holds nothing but rdistill's hidden files, a user's mistake must leave no lock file behind.
        if lock.is_locked and all(file.name.startswith(".") for file in folder.iterdir()):
            (folder / LOCK).unlink(missing_ok=True)
        lock.release()


@contextmanager
def lock_file(file: Path) -> Iterator[None]:
    """Within the context, locks a file for this process; waits until other processes have released it.

    Args:
        file: the file to lock. The lock is the file ``.NAME.lock`` beside it, which stays. On a file system without
            locks nothing is locked.
    """
    lock = FileLock(file.with_name(f".{file.name}.lock"), fallback_to_soft=False)
    _acquire(lock)
    try:
        yield
    finally:
        lock.release()


def _acquire(lock: FileLock) -> None:
    try:
        lock.acquire()
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise


def in_threads(work: Callable[[Any], Any], items: Iterable[Any]) -> list[Any]:
    """Applies a function to items in threads, in order; reading files and decoding images release Python's lock."""
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(max_workers=min(8, 2 * (os.cpu_count() or 1))) as pool:
        return list(pool.map(work, items))

"""Files that a kill, a full disk or a power cut leaves as they were, or whole; JSON that every reader takes; folders of
our own, and folders that one process at a time works in."""

from __future__ import annotations

import errno
import json
import math
import os
import stat
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from rdistill.core.errors import UserError, user_path

LOCK = ".lock"  # a file in a work dir, locked by the process that works in it
DAMAGED = ".damaged"  # what the name of a file that could not be read ends in, once it has been set aside
_NO_SYNC = (errno.EINVAL, errno.ENOTSUP, errno.EACCES, errno.EPERM)  # file systems that cannot flush a folder
_NO_LOCKS = (errno.ENOSYS, errno.ENOTSUP, errno.ENOLCK, errno.EINVAL)
_LONGEST_NAME = 200  # bytes of a name that the temporary one repeats: 255 are the most


class DamagedFileError(UserError):
    """A file that rdistill once wrote cannot be read any more."""


@contextmanager
def written_whole(path: Path, *, previous: Path | None = None) -> Iterator[Path]:
    """Gives a name to write a file under, and puts it in its place once it is on the disk to its last byte.

    Whatever ends the process or the context before that leaves the file as it was. The folder is made where it is
    missing.

    Args:
        path: of the file; may exist.
        previous: a name that the file, as it was, is kept under.

    Raises:
        OSError: it cannot be written; nothing is left of the attempt.
    """
    if path.is_dir():
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    path.parent.mkdir(parents=True, exist_ok=True)
    name = os.fsdecode(os.fsencode(path.name)[:_LONGEST_NAME])
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
    """Writes a file whole or not at all; see :func:`written_whole`.

    Text is UTF-8; what that has no bytes for, such as a part of a file name in another encoding, becomes ``\\udcff``.
    """
    with written_whole(path) as partial:
        partial.write_bytes(content if isinstance(content, bytes) else content.encode("utf-8", "backslashreplace"))


def _sync_folder(folder: Path) -> None:
    """Without it a power cut may still bring the old name back."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in _NO_SYNC:
            raise
    finally:
        os.close(handle)


def to_json(value: Any, *, indent: int | None = None, default: Callable[[Any], Any] | None = None) -> str:
    """JSON as the standard has it: NaN and the infinities, which it lacks, become null."""
    return json.dumps(_finite(value), indent=indent, default=default, allow_nan=False)


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: _finite(item) for key, item in value.items()}
    return [_finite(item) for item in value] if isinstance(value, (list, tuple)) else value


def write_json(path: Path, value: Any) -> None:
    """Writes a file of JSON, whole or not at all."""
    write_whole(path, to_json(value, indent=2) + "\n")


def read_json(file: Path, fix: str = "copy it from where it is whole") -> Any:
    """What a file of ours holds.

    Args:
        file: holds one JSON object.
        fix: what to do where it is damaged.

    Raises:
        DamagedFileError: it is empty, cut off, or anything else than JSON: one line that names it.
        OSError: it cannot be read at all.
    """
    content = file.read_bytes()
    try:
        value = json.loads(content)
    except (ValueError, RecursionError) as error:
        what = "it is empty" if not content.strip() else f"it is no JSON, or cut off after {len(content)} bytes"
        what += f": {error}" if content.strip() and not isinstance(error, UnicodeDecodeError) else ""
        raise DamagedFileError(f"{file}: is damaged ({what}); {fix}") from None
    if not isinstance(value, dict):
        raise DamagedFileError(f"{file}: is damaged (holds a {type(value).__name__} instead of an object); {fix}")
    return value


def set_aside_if_damaged(file: Path, again: str, say: Callable[[str], None]) -> bool:
    """Takes a damaged file of JSON out of the way, so that it is made again; returns whether it was.

    Args:
        file: need not exist.
        again: what becomes of it, such as ``it is measured again``.
        say: is given a line about it.
    """
    if not file.is_file():
        return False
    try:
        read_json(file)
    except DamagedFileError as error:
        kept = file.with_name(file.name + DAMAGED)
        os.replace(file, kept)
        say(f"{str(error).rpartition('; ')[0]}: {again}; the damaged file is kept as {kept.name}")
        return True
    return False


def read_text(file: Path) -> str:
    """The text of a file.

    Raises:
        UserError: it is no text; one line that names it.
        OSError: it cannot be read at all.
    """
    content = file.read_bytes()
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as error:
        byte = content[error.start]
        raise UserError(f"{file}: is no UTF-8 text: byte 0x{byte:02x} at position {error.start}; save it so") from None


def own_folder(folder: Path) -> bool:
    """Makes a folder that no other user of the machine can look into; returns whether it is one now.

    A link, a file, or a folder of another user's is left alone.
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
    """Keeps a folder to this process, as long as the context lasts or the process lives, by a lock on ``.lock``.

    The lock is the system's own, also over NFS: a process that is killed leaves none behind. A file system that has no
    locks is used without.

    Args:
        folder: is made where it is missing.
        by: what works in it, for the message.

    Raises:
        UserError: another process holds it.
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
        # Nothing was written but what rdistill keeps for itself and clears at its end: a mistake leaves nothing behind.
        if lock.is_locked and all(file.name.startswith(".") for file in folder.iterdir()):
            (folder / LOCK).unlink(missing_ok=True)
        lock.release()


@contextmanager
def lock_file(file: Path) -> Iterator[None]:
    """Waits until no other process is within the same context, and keeps the others out.

    Args:
        file: whose lock it is: ``.NAME.lock`` beside it, which stays. A file system that has no locks is used without.
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


def in_bytes(count: float) -> str:
    """``123456789`` -> ``123 MB``."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 999.5:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.3g} TB"

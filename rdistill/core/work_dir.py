"""Whether a work dir can be written to, found out before time is spent. Leaves nothing there."""

from __future__ import annotations

import os
import re
import tempfile
from contextlib import suppress
from pathlib import Path
from urllib.parse import unquote, urlsplit

from rdistill.core.errors import UserError
from rdistill.core.storage import filesystem, is_uri

ALMOST_A_URI = re.compile(r"(s3|gs|gcs|abfs|abfss|az|hdfs|file|https?|ssh|sftp|memory):/?(?!/)")


def require_work_dir(where: str | Path, flag: str = "--work-dir") -> None:
    """Makes sure that a work dir can be made and written to.

    Args:
        where: a folder, or a URI; of the latter only whether somebody knows its kind of storage.
        flag: what the user named it by, for errors.

    Raises:
        UserError: it is a file, below a file, not writable, too long, or of an unknown storage.
        StorageError: a storage that is known does not answer.
    """
    text = str(where)
    if not text.strip():
        raise UserError(f"{flag}: is empty; name a folder")
    if is_uri(text):
        if urlsplit(text).scheme == "file":
            text = unquote(urlsplit(text).path)
        else:
            filesystem(text)
            return
    elif ALMOST_A_URI.match(text):
        raise UserError(f"{flag} {text}: a URI has two slashes, such as s3://bucket/run; a folder would be ./{text}")
    try:
        _try_folder(Path(text).absolute(), f"{flag} {where}")
    except UserError:  # a ValueError too
        raise
    except (OSError, ValueError) as error:  # ValueError: a NUL byte
        why = getattr(error, "strerror", None) or str(error)
        raise UserError(f"{flag} {where}: cannot be written to: {why}; choose another") from None


def _try_folder(folder: Path, name: str) -> None:
    with suppress(FileNotFoundError, NotADirectoryError):
        os.lstat(folder)  # raises an error that says so where a part of the path is too long
    nearest = next(path for path in (folder, *folder.parents) if os.path.lexists(path))
    if not nearest.is_dir():
        what = "is" if nearest == folder else f"lies below {nearest}, which is"
        kind = "a link to nowhere" if nearest.is_symlink() and not nearest.exists() else "a file"
        raise UserError(f"{name}: {what} {kind}; name a folder")
    # The superuser may write anywhere but on some file systems: only an attempt shows it.
    tempfile.TemporaryDirectory(prefix=".rdistill-", dir=nearest).cleanup()

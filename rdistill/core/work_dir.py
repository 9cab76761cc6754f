"""Checks, before the training, that a work dir can be written to. The check leaves no files behind."""

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
        where: a folder or a URI; for a URI, only its kind of storage is checked.
        flag: the command-line option that named the work dir, for messages.

    Raises:
        UserError: it is a file, lies below a file, is not writable, is too long, or its storage is not supported.
        StorageError: the storage cannot be reached.
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
        os.lstat(folder)  # raises an OSError if a part of the path is too long
    nearest = next(path for path in (folder, *folder.parents) if os.path.lexists(path))
    if not nearest.is_dir():
        verb = "is" if nearest == folder else f"lies below {nearest}, which is"
        kind = "a link to nowhere" if nearest.is_symlink() and not nearest.exists() else "a file"
        raise UserError(f"{name}: {verb} {kind}; name a folder")
    # Permissions do not tell: root may write to any folder, except on some file systems. So try it.
    tempfile.TemporaryDirectory(prefix=".rdistill-", dir=nearest).cleanup()

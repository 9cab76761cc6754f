"""The files of a store of views: in a folder, or at a URI of any storage that pyarrow or fsspec supports.

A store has one folder for each teacher. In it, ``about.json`` describes the teacher, and there is one file for each
stored output: a checksum, followed by the content. Files are written atomically.
"""

from __future__ import annotations

import hashlib
import io
import itertools
import json
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Protocol

from rdistill.core.errors import UserError, message_line
from rdistill.core.files import to_json
from rdistill.core.storage import StorageError, errors_of_storage, filesystem, is_uri, put_whole
from rdistill.schemas.store import StoreAbout

if TYPE_CHECKING:
    from pyarrow import fs as arrow

DIGEST = 16  # bytes of a checksum
ABOUT = "about.json"  # the file in a teacher's folder that describes the teacher
PARTIAL = ".partial"  # suffix of a file while it is being written


@dataclass(frozen=True)
class StoredFile:
    """A file of a store."""

    name: str  # path within the store, such as TEACHER/ab/abcdef
    size: int  # bytes
    written: float  # time of writing, in seconds since 1970; the current time if the storage does not know it


class StoreFiles(Protocol):
    """The files of a store at one place; names are paths within the store."""

    where: str  # the folder or URI, as the user wrote it

    def read(self, name: str) -> bytes | None:
        """The content of a file; None if it does not exist. Raises OSError if the storage cannot be reached."""

    def write(self, name: str, content: bytes) -> None:
        """Writes a file atomically. Raises OSError."""

    def remove(self, name: str) -> None:
        """Removes a file, if it exists."""

    def remove_folder(self, name: str) -> None:
        """Removes a folder and its content."""

    def folders(self) -> list[str]:
        """The names of the folders at the top level; an empty list if the store does not exist."""

    def listed(self, folder: str) -> Iterator[StoredFile]:
        """All files below a folder."""


class LocalFiles:
    """The files of a store in a local folder, which is created at the first write."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.where = folder, str(folder)
        self._number = itertools.count()

    def read(self, name: str) -> bytes | None:
        try:
            with open(f"{self.where}/{name}", "rb", buffering=0) as file:  # a path object takes as long as the reading
                return file.read()
        except (FileNotFoundError, NotADirectoryError):
            return None

    def write(self, name: str, content: bytes) -> None:
        file = self.folder / name
        partial = file.with_name(f".{file.name}-{os.getpid()}-{next(self._number)}{PARTIAL}")
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            partial.write_bytes(content)
            os.replace(partial, file)
        except OSError:
            with suppress(OSError):
                partial.unlink(missing_ok=True)
            raise

    def remove(self, name: str) -> None:
        (self.folder / name).unlink(missing_ok=True)

    def remove_folder(self, name: str) -> None:
        import shutil

        shutil.rmtree(self.folder / name)

    def folders(self) -> list[str]:
        return sorted(path.name for path in self.folder.iterdir() if path.is_dir()) if self.folder.is_dir() else []

    def listed(self, folder: str) -> Iterator[StoredFile]:
        for path in sorted((self.folder / folder).rglob("*")):
            with suppress(FileNotFoundError):  # another process writes and removes
                if path.is_file():
                    stat = path.stat()
                    yield StoredFile(path.relative_to(self.folder).as_posix(), stat.st_size, stat.st_mtime)


class RemoteFiles:
    """The files of a store at a URI.

    Raises:
        UserError: neither pyarrow nor fsspec supports this kind of URI.
    """

    def __init__(self, uri: str) -> None:
        self.where = uri.rstrip("/")
        self._system, self._root = filesystem(self.where, "distill.store.dir")
        self._number = itertools.count()

    def __reduce__(self) -> tuple[type[RemoteFiles], tuple[str]]:
        return RemoteFiles, (self.where,)  # a connection cannot be pickled: the other process opens its own

    def read(self, name: str) -> bytes | None:
        try:
            with errors_of_storage(), self._system.open_input_stream(f"{self._root}/{name}") as stream:
                return stream.read()  # type: ignore[no-any-return]
        except FileNotFoundError:
            return None

    def write(self, name: str, content: bytes) -> None:
        by = f"-{os.uname().nodename}-{os.getpid()}-{next(self._number)}"
        with errors_of_storage():
            put_whole(self._system, f"{self._root}/{name}", io.BytesIO(content), by)

    def remove(self, name: str) -> None:
        with suppress(FileNotFoundError), errors_of_storage():
            self._system.delete_file(f"{self._root}/{name}")

    def remove_folder(self, name: str) -> None:
        with errors_of_storage():
            self._system.delete_dir(f"{self._root}/{name}")

    def folders(self) -> list[str]:
        from pyarrow import fs as arrow

        infos = self._infos(self._root, recursive=False)
        return sorted(PurePosixPath(info.path).name for info in infos if info.type == arrow.FileType.Directory)

    def listed(self, folder: str) -> Iterator[StoredFile]:
        from pyarrow import fs as arrow

        infos = self._infos(f"{self._root}/{folder}", recursive=True)
        for info in sorted(infos, key=lambda info: str(info.path)):
            if info.type == arrow.FileType.File:
                name = PurePosixPath(info.path).relative_to(PurePosixPath(self._root)).as_posix()
                written = time.time() if info.mtime_ns is None else info.mtime_ns / 1e9
                yield StoredFile(name, info.size, written)

    def _infos(self, path: str, *, recursive: bool) -> Sequence[arrow.FileInfo]:
        from pyarrow import fs as arrow

        selector = arrow.FileSelector(path, recursive=recursive, allow_not_found=True)
        with errors_of_storage():
            return self._system.get_file_info(selector)  # type: ignore[no-any-return]


def store_files(where: str | Path) -> StoreFiles:
    """The files of the store at a folder or URI. Raises UserError for a kind of URI that is not supported."""
    return RemoteFiles(str(where)) if is_uri(where) else LocalFiles(Path(where).absolute())


def why_it_failed(where: str, error: OSError | StorageError) -> str:
    """Why the store at ``where`` cannot be used, without the URI, with which an error of the storage begins."""
    return message_line(error).removeprefix(f"{where}: ")


def sealed(content: bytes) -> bytes:
    """The bytes of an entry's file: the checksum, followed by the content."""
    return checksum(content) + content


def is_whole(file: bytes) -> bool:
    """Whether the checksum of an entry's file fits its content, see :func:`sealed`."""
    return checksum(file[DIGEST:]) == file[:DIGEST]


def checksum(content: bytes) -> bytes:
    """A 128-bit checksum of the content."""
    return hashlib.blake2b(content, digest_size=DIGEST).digest()


def write_about(files: StoreFiles, teacher: str, about: StoreAbout) -> None:
    """Writes the description of a teacher to its folder, with the current time as the last use. Raises OSError."""
    files.write(f"{teacher}/{ABOUT}", (to_json({**about, "used": time.time()}, indent=2) + "\n").encode())


def read_about(files: StoreFiles, teacher: str) -> StoreAbout | None:
    """The description that :func:`write_about` wrote; None if it does not exist or cannot be read."""
    content = files.read(f"{teacher}/{ABOUT}")
    if content is None:
        return None
    try:
        about: StoreAbout = json.loads(content)
    except ValueError:
        return None
    return about if isinstance(about, dict) and about.get("teacher") is not None else None


def teachers_in(files: StoreFiles) -> dict[str, StoreAbout]:
    """Name of a folder -> description of its teacher, for all teachers in a store."""
    abouts = {name: read_about(files, name) for name in files.folders()}
    return {name: about for name, about in abouts.items() if about is not None}


def require_store(files: StoreFiles) -> dict[str, StoreAbout]:
    """Like :func:`teachers_in`, but raises UserError if there is no store."""
    teachers = teachers_in(files)
    if not teachers:
        raise UserError(
            f"{files.where}: holds no store of views; name the folder that distill.store.dir names, or fill it with "
            f"`rdistill store build CONFIG`"
        )
    return teachers

"""Work dirs in a folder, or at a URI of any storage that pyarrow or fsspec supports (``s3://bucket/sweep``).

Everything is written to a local folder first, atomically; changed files are then sent to the URI. So the training does
not wait for a slow storage at every write, and a run can be resumed from the URI on any machine.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, BinaryIO

from rdistill.core.errors import RunError, UserError, message_line
from rdistill.core.files import written_whole
from rdistill.schemas.mappings import Arguments

if TYPE_CHECKING:  # the command line needs `is_uri` alone, and does not wait for them
    from pyarrow import fs as arrow

OBJECT_STORES = ("s3", "gcs", "abfs")  # writes to these are atomic
SENT_LAST = ("metrics.json",)  # this file says that a run is finished, so it follows all others
# Suffixes that are sent first: a record may be newer than its checkpoint (that part is trained again), but never older.
SENT_FIRST = (".json",)
FETCH_ATTEMPTS = 5  # attempts to fetch a file that is replaced meanwhile
NOT_SENT = (".tmp", "ray", "tune", "tune-confirm", "ray_train")  # Ray's own folders: Ray writes to the URI itself


class StorageError(RunError):
    """The storage cannot be written to, or a file cannot be read. Files written before stay as they are."""


def is_uri(where: str | Path) -> bool:
    return "://" in str(where)


def join(where: str | Path, *parts: str) -> str | Path:
    """The path or URI of a folder within a folder or URI."""
    return "/".join((str(where).rstrip("/"), *parts)) if is_uri(where) else Path(where, *parts)


def filesystem(uri: str, what: str = "--work-dir") -> tuple[arrow.FileSystem, str]:
    """The file system of a URI, and the path within it. Credentials come from the environment.

    Args:
        uri: the URI of a folder.
        what: the option or key that holds the URI, for messages.

    Raises:
        UserError: neither pyarrow nor fsspec supports this kind of URI.
        StorageError: the storage cannot be reached.
    """
    import fsspec
    import pyarrow
    from pyarrow import fs as arrow

    try:
        return arrow.FileSystem.from_uri(uri)
    except (pyarrow.ArrowInvalid, NotImplementedError):
        pass
    except OSError as error:
        raise StorageError(f"{uri}: {message_line(error)}") from None
    try:
        file_system, path = fsspec.core.url_to_fs(uri)
    except (ValueError, ImportError) as error:
        raise UserError(f"{what} {uri}: neither pyarrow nor fsspec knows this storage: {message_line(error)}") from None
    return arrow.PyFileSystem(arrow.FSSpecHandler(file_system)), path


def put_whole(file_system: arrow.FileSystem, target: str, source: BinaryIO, by: str = "") -> None:
    """Writes a file to a storage atomically; its folder is made if it is missing.

    Args:
        file_system: the storage.
        target: the path of the file; it may exist.
        source: the content; it is read to its end.
        by: a text that identifies the writer, if several processes may write the same file at a time.
    """
    atomic = file_system.type_name in OBJECT_STORES
    path = PurePosixPath(target)
    written = target if atomic else str(path.with_name(f".{path.name}{by}.partial"))
    if not atomic:
        file_system.create_dir(str(path.parent), recursive=True)
    with file_system.open_output_stream(written) as out:
        shutil.copyfileobj(source, out, 2**20)
    if not atomic:
        file_system.move(written, target)


def ray_storage(where: str | Path) -> Arguments:
    """The arguments ``storage_path`` and ``storage_filesystem`` for Ray Train and Ray Tune."""
    if not is_uri(where):
        return {"storage_path": str(where)}
    file_system, path = filesystem(str(where))
    return {"storage_path": path, "storage_filesystem": file_system}


class WorkDir:
    """A work dir: its local folder and, if it is at a URI, the transfer of files between the two.

    Args:
        where: the folder or URI.
        folder: the local folder; equal to ``where`` unless that is a URI.
    """

    def __init__(self, where: str | Path, folder: Path) -> None:
        self.where, self.folder = where, folder
        self._remote = filesystem(str(where)) if is_uri(where) else None
        self._synced: dict[str, tuple[int, int]] = {}  # files that are equal at both places -> (time, bytes)

    def holds_something(self) -> bool:
        """Whether the work dir has any files."""
        if self._remote is None:
            return self.folder.exists() and any(not file.name.startswith(".") for file in self.folder.iterdir())
        return bool(self._listed())

    def remove(self, *folder: str) -> None:
        """Removes a folder within the work dir, or the whole work dir, locally and at the URI."""
        shutil.rmtree(self.folder.joinpath(*folder), ignore_errors=True)
        if self._remote is not None:
            self._synced.clear()
            file_system, root = self._remote
            with suppress(FileNotFoundError), _reporting(self.where):
                file_system.delete_dir("/".join((root, *folder)))

    def names(self) -> list[str]:
        """The paths of all files at the URI, without the partial files of interrupted writes."""
        return [] if self._remote is None else self._listed()

    def pull(self, *patterns: str) -> None:
        """Fetches the files whose path within the work dir matches a pattern, such as ``trials/*/trial.json``."""
        if self._remote is None:
            return
        root = self._remote[1]
        for info in self._infos():
            relative = PurePosixPath(info.path).relative_to(root)
            if any(_matches(relative, pattern) for pattern in patterns):
                self._fetch(info, self.folder / relative)
                self._synced[str(relative)] = _stamp(self.folder / relative)

    def _fetch(self, info: Any, target: Path) -> None:
        """Fetches a file; one that is replaced meanwhile is fetched again, because it may be a mix of both versions."""
        assert self._remote is not None
        file_system, _ = self._remote
        with written_whole(target) as partial:
            for _ in range(FETCH_ATTEMPTS):
                opened = file_system.open_input_stream
                with _reporting(self.where), opened(info.path) as source, open(partial, "wb") as file:
                    shutil.copyfileobj(source, file, 2**20)
                with _reporting(self.where):
                    before, info = info, file_system.get_file_info(info.path)
                if (before.mtime_ns, before.size) == (info.mtime_ns, info.size):
                    return
            raise StorageError(
                f"{self.where}: {info.path} changed {FETCH_ATTEMPTS} times while it was fetched; try again"
            )

    def push(self) -> None:
        """Sends the files that are new or have changed since the last call.

        Raises:
            StorageError: a file could not be sent. Files at the URI stay as they are.
        """
        if self._remote is None:
            return
        for file in sorted(self._files(), key=_order):
            name, stamp = str(file.relative_to(self.folder)), _stamp(file)
            if self._synced.get(name) == stamp:
                continue
            with _reporting(self.where):
                self._send(file, name)
            self._synced[name] = stamp

    def _send(self, file: Path, name: str) -> None:
        assert self._remote is not None
        file_system, root = self._remote
        with open(file, "rb") as source:
            put_whole(file_system, f"{root}/{name}", source)

    def _files(self) -> Iterator[Path]:
        for file in self.folder.rglob("*"):
            inner = file.relative_to(self.folder)
            if inner.parts[0] not in NOT_SENT and not file.name.startswith(".") and file.is_file():
                yield file

    def _listed(self) -> list[str]:
        return [info.path for info in self._infos()]

    def _infos(self) -> list[Any]:
        from pyarrow import fs as arrow

        assert self._remote is not None
        file_system, root = self._remote
        with _reporting(self.where):
            infos = file_system.get_file_info(arrow.FileSelector(root, recursive=True, allow_not_found=True))
        files = [info for info in infos if info.type == arrow.FileType.File]
        return [info for info in files if not PurePosixPath(info.path).name.startswith(".")]


@contextmanager
def open_work_dir(where: str | Path, *patterns: str) -> Iterator[WorkDir]:
    """Opens a work dir for writing; from a URI, it first fetches the files that match the patterns.

    Raises:
        UserError: this kind of storage is not supported.
        StorageError: the storage cannot be reached.
    """
    if not is_uri(where):
        yield WorkDir(Path(where).absolute(), Path(where).absolute())
        return
    folder = Path(tempfile.mkdtemp(prefix="rdistill-at-"))
    try:
        here = WorkDir(str(where).rstrip("/"), folder)
        here.pull(*patterns)
        yield here
    finally:
        shutil.rmtree(folder, ignore_errors=True)


class Sending:
    """A :class:`rdistill.training.hooks.RunListener` that sends the work dir after each validation.

    Args:
        listener: another listener, which gets all events after this one; it may raise to end the run.
        here: the work dir to send.
    """

    def __init__(self, listener: Any, here: WorkDir) -> None:
        self._listener, self._here = listener, here

    def training_started(self, *, first_iteration: int, last_iteration: int, facts: Mapping[str, Any]) -> None:
        self._listener.training_started(first_iteration=first_iteration, last_iteration=last_iteration, facts=facts)

    def stepped(self, iteration: int, values: Mapping[str, float]) -> None:
        self._listener.stepped(iteration, values)

    def validated(self, iteration: int, metrics: Mapping[str, Any]) -> None:
        from mmengine.dist import is_main_process

        if is_main_process():
            self._here.push()
        self._listener.validated(iteration, metrics)

    def warned(self, message: str) -> None:
        self._listener.warned(message)

    def noted(self, text: str) -> None:
        self._listener.noted(text)


@contextmanager
def errors_of_storage() -> Iterator[None]:
    """Within the context, all errors become OSErrors: the packages behind fsspec, such as botocore, raise their own."""
    try:
        yield
    except OSError:
        raise
    except Exception as error:
        raise OSError(f"{type(error).__name__}: {message_line(error)}") from error


@contextmanager
def _reporting(where: str | Path) -> Iterator[None]:
    try:
        with errors_of_storage():
            yield
    except FileNotFoundError:
        raise
    except OSError as error:
        raise StorageError(
            f"{where}: the storage cannot be used: {message_line(error)}; continue with --resume"
        ) from None


def _matches(path: PurePosixPath, pattern: str) -> bool:
    return len(path.parts) == pattern.count("/") + 1 and path.match(pattern)


def _stamp(file: Path) -> tuple[int, int]:
    stat = file.stat()
    return stat.st_mtime_ns, stat.st_size


def _order(file: Path) -> int:
    return 2 if file.name in SENT_LAST else 0 if file.suffix in SENT_FIRST else 1

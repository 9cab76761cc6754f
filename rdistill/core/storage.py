"""Work dirs anywhere: a folder, or a URI of any storage that pyarrow or fsspec knows (``s3://bucket/sweep``).

Everything is written to a local folder first, whole or not at all; what has changed then goes to the URI. So training
does not wait for a slow storage at every write, and what is there is enough to go on from, on any machine.
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

OBJECT_STORES = ("s3", "gcs", "abfs")  # an object appears there whole, or not at all
LAST = ("metrics.json",)  # says that a run is done: after all else
FIRST = (".json",)  # a record may be ahead of its checkpoint, which is trained again, but never behind
FETCHES = 5  # attempts to fetch a file that is replaced each time
NOT_SENT = (".tmp", "ray", "tune", "tune-confirm", "ray_train")  # Ray's own folders: it writes to the URI itself


class StorageError(RunError):
    """Nothing can be written, or a file cannot be read any more. What was there before still is."""


def is_uri(where: str | Path) -> bool:
    return "://" in str(where)


def join(where: str | Path, *parts: str) -> str | Path:
    """A folder within a folder, at a URI or here."""
    return "/".join((str(where).rstrip("/"), *parts)) if is_uri(where) else Path(where, *parts)


def filesystem(uri: str, what: str = "--work-dir") -> tuple[arrow.FileSystem, str]:
    """The file system of a URI, and the path within it. Credentials come from the environment.

    Args:
        uri: of a folder.
        what: a message calls it.

    Raises:
        UserError: nobody knows this kind of URI.
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
    """Writes a file of a storage whole or not at all; its folder is made where it is missing.

    Args:
        target: the path of the file; may exist.
        source: is read to its end.
        by: who writes it, where several may write the same file at a time.
    """
    whole_at_once = file_system.type_name in OBJECT_STORES
    path = PurePosixPath(target)
    written = target if whole_at_once else str(path.with_name(f".{path.name}{by}.partial"))
    if not whole_at_once:
        file_system.create_dir(str(path.parent), recursive=True)
    with file_system.open_output_stream(written) as out:
        shutil.copyfileobj(source, out, 2**20)
    if not whole_at_once:
        file_system.move(written, target)


def ray_storage(where: str | Path) -> Arguments:
    """``storage_path`` and ``storage_filesystem`` as Ray Train and Tune take them."""
    if not is_uri(where):
        return {"storage_path": str(where)}
    file_system, path = filesystem(str(where))
    return {"storage_path": path, "storage_filesystem": file_system}


class WorkDir:
    """A work dir: its local folder and, where it is at a URI, what keeps the two alike.

    Args:
        where: the folder or URI.
        folder: the local one; ``where`` itself unless that is a URI.
    """

    def __init__(self, where: str | Path, folder: Path) -> None:
        self.where, self.folder = where, folder
        self._remote = filesystem(str(where)) if is_uri(where) else None
        self._known: dict[str, tuple[int, int]] = {}  # files that are alike: time and bytes

    def holds_something(self) -> bool:
        """Whether anything was written to it before."""
        if self._remote is None:
            return self.folder.exists() and any(not file.name.startswith(".") for file in self.folder.iterdir())
        return bool(self._listed())

    def remove(self, *folder: str) -> None:
        """Removes a folder within the work dir, or all of it, wherever that is."""
        shutil.rmtree(self.folder.joinpath(*folder), ignore_errors=True)
        if self._remote is not None:
            self._known.clear()
            file_system, root = self._remote
            with suppress(FileNotFoundError), _reporting(self.where):
                file_system.delete_dir("/".join((root, *folder)))

    def names(self) -> list[str]:
        """Paths of all files at the URI, without leftovers of writes that were cut off."""
        return [] if self._remote is None else self._listed()

    def pull(self, *patterns: str) -> None:
        """Fetches the files whose path within the work dir fits a pattern, such as ``trials/*/trial.json``."""
        if self._remote is None:
            return
        root = self._remote[1]
        for info in self._infos():
            relative = PurePosixPath(info.path).relative_to(root)
            if any(_fits(relative, pattern) for pattern in patterns):
                self._fetch(info, self.folder / relative)
                self._known[str(relative)] = _stamp(self.folder / relative)

    def _fetch(self, info: Any, target: Path) -> None:
        """Fetches a file as it is at one time. What is replaced meanwhile may come in part, and is fetched again."""
        assert self._remote is not None
        file_system, _ = self._remote
        with written_whole(target) as partial:
            for _ in range(FETCHES):
                opened = file_system.open_input_stream
                with _reporting(self.where), opened(info.path) as source, open(partial, "wb") as file:
                    shutil.copyfileobj(source, file, 2**20)
                with _reporting(self.where):
                    before, info = info, file_system.get_file_info(info.path)
                if (before.mtime_ns, before.size) == (info.mtime_ns, info.size):
                    return
            raise StorageError(f"{self.where}: {info.path} changed {FETCHES} times while it was fetched; try again")

    def push(self) -> None:
        """Sends what is new or has changed since the last time.

        Raises:
            StorageError: it could not be sent. What is at the URI already stays as it is.
        """
        if self._remote is None:
            return
        for file in sorted(self._files(), key=_order):
            name, stamp = str(file.relative_to(self.folder)), _stamp(file)
            if self._known.get(name) == stamp:
                continue
            with _reporting(self.where):
                self._send(file, name)
            self._known[name] = stamp

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
    """A work dir to write to; of one at a URI, the files that fit the patterns are here from the start.

    Raises:
        UserError: no such kind of storage.
        StorageError: it does not answer.
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
    """A :class:`rdistill.training.hooks.RunListener` that sends the work dir after each validation, for another one.

    Args:
        listener: receives everything that this one does; may not return.
        here: what is sent.
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
    """Within this a storage's own errors are OSErrors: packages behind fsspec raise any, such as botocore's."""
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


def _fits(path: PurePosixPath, pattern: str) -> bool:
    return len(path.parts) == pattern.count("/") + 1 and path.match(pattern)


def _stamp(file: Path) -> tuple[int, int]:
    stat = file.stat()
    return stat.st_mtime_ns, stat.st_size


def _order(file: Path) -> int:
    return 2 if file.name in LAST else 0 if file.suffix in FIRST else 1

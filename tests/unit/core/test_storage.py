"""A work dir at a URI, here of a file system of fsspec's in which another process writes at the same time."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import fsspec
import pytest
from fsspec.implementations.local import LocalFileSystem

from rdistill.core.storage import FETCH_ATTEMPTS, StorageError, open_work_dir


class Changing(LocalFileSystem):
    """A file is replaced by a longer one right after it was opened, as often as is asked for."""

    protocol = "changing"
    cachable = False
    changes = 0

    @classmethod
    def _strip_protocol(cls, path: Any) -> Any:
        """In fsspec 2024.2, the local file system strips no other protocol than its own."""
        return super()._strip_protocol(path.removeprefix("changing://") if isinstance(path, str) else path)

    def _open(self, path: str, mode: str = "rb", **options: Any) -> Any:
        opened = super()._open(path, mode, **options)
        if mode == "rb" and Changing.changes > 0:
            Changing.changes -= 1
            new_file = Path(f"{path}.new")
            new_file.write_bytes(Path(path).read_bytes() + b"+")
            os.replace(new_file, path)
        return opened


@pytest.fixture
def changed(tmp_path: Path) -> Iterator[Callable[[int], str]]:
    """The URI of a folder with a record in it, which changes so many times while it is fetched."""

    def folder(times: int) -> str:
        (tmp_path / "trials").mkdir()
        (tmp_path / "trials" / "trial.json").write_text("{}")
        Changing.changes = times
        return f"changing://{tmp_path}"

    fsspec.register_implementation("changing", Changing, clobber=True)
    yield folder
    Changing.changes = 0


def test_what_is_replaced_meanwhile_is_fetched_again(changed: Callable[[int], str]) -> None:
    with open_work_dir(changed(2), "trials/*.json") as here:
        assert (here.folder / "trials" / "trial.json").read_text() == "{}++"


def test_what_never_rests(changed: Callable[[int], str]) -> None:
    with pytest.raises(StorageError, match=f"trial.json changed {FETCH_ATTEMPTS} times while it was fetched"):
        open_work_dir(changed(100), "trials/*.json").__enter__()


def test_errors_of_a_storages_package_are_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Packages behind fsspec raise errors of their own, such as botocore's, which are no OSErrors."""

    def refuse(*arguments: Any, **options: Any) -> Any:
        raise RuntimeError("403: no such account")

    fsspec.register_implementation("changing", Changing, clobber=True)
    monkeypatch.setattr(Changing, "info", refuse)
    monkeypatch.setattr(Changing, "find", refuse)
    line = "cannot be used: RuntimeError: 403: no such account"
    with pytest.raises(StorageError, match=line), open_work_dir(f"changing://{tmp_path}", "*"):
        pass

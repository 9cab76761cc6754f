"""The files of a store are whole or not there, in a folder and at a URI alike."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fsspec
import pytest
from fsspec.implementations.local import LocalFileSystem

from rdistill.core.errors import UserError
from rdistill.distill.store_files import (
    ABOUT,
    StoreFiles,
    is_whole,
    read_about,
    require_store,
    sealed,
    store_files,
    teachers_in,
    write_about,
)


@pytest.fixture(params=["folder", "memory", "file"])
def files(request: pytest.FixtureRequest, tmp_path: Path) -> StoreFiles:
    where = {"folder": str(tmp_path), "memory": f"memory://{tmp_path.name}/st", "file": f"file://{tmp_path}/st"}
    return store_files(where[request.param])


def test_files(files: StoreFiles) -> None:
    assert files.folders() == [] and files.read("t/a") is None and list(files.listed("t")) == []
    for content in (b"before", b"after"):
        files.write("t/aa/b", content)
        assert files.read("t/aa/b") == content
    write_about(files, "t", {"teacher": "teacher.py"})
    assert files.folders() == ["t"]
    assert [(file.name, file.size) for file in files.listed("t") if file.written > 0] == [
        ("t/aa/b", 5),
        (f"t/{ABOUT}", len(files.read(f"t/{ABOUT}") or b"")),
    ]
    files.remove("t/aa/b")
    files.remove("t/aa/b")  # another process was quicker
    assert files.read("t/aa/b") is None
    files.remove_folder("t")
    assert files.folders() == []


class ClientError(Exception):
    """As botocore has one: no OSError."""


class Refusing(LocalFileSystem):
    protocol = "refusing"
    cachable = False

    def refuse(self, *arguments: Any, **options: Any) -> Any:
        raise ClientError("403: no such account")

    def there(self, *arguments: Any, **options: Any) -> bool:
        return True  # a question that fails is answered with no, and the file counts as missing

    _open = info = ls = find = rm_file = rm = makedirs = refuse
    isfile = isdir = exists = there


@pytest.mark.parametrize(
    "act",
    [
        lambda files: files.read("t/a"), lambda files: files.write("t/a", b""), lambda files: files.remove("t/a"),
        lambda files: files.remove_folder("t"), lambda files: files.folders(), lambda files: list(files.listed("t")),
    ],
    ids=["read", "write", "remove", "remove_folder", "folders", "listed"],
)  # fmt: skip
def test_errors_of_any_storage_are_oserrors(act: Callable[[StoreFiles], object], tmp_path: Path) -> None:
    """Training then goes on without the place."""
    fsspec.register_implementation("refusing", Refusing, clobber=True)
    with pytest.raises(OSError, match="ClientError: 403: no such account"):
        act(store_files(f"refusing://{tmp_path}/store"))


def test_whose(files: StoreFiles) -> None:
    with pytest.raises(UserError, match=r"holds no store of views; name the folder that distill.store.dir names"):
        require_store(files)
    files.write("strange/file", b"")
    files.write("broken/about.json", b"{")
    write_about(files, "one", {"teacher": "teacher.py", "bits": 16})
    about = read_about(files, "one")
    assert about is not None and about["bits"] == 16 and about["used"] > 0
    assert list(teachers_in(files)) == list(require_store(files)) == ["one"]


def test_a_store_travels_to_another_process(files: StoreFiles) -> None:
    files.write("t/a", b"content")
    assert pickle.loads(pickle.dumps(files)).read("t/a") == b"content"


def test_a_checksum() -> None:
    assert is_whole(sealed(b"content"))
    assert not any(map(is_whole, (sealed(b"content")[:-1], b"", bytes(300))))


def test_a_uri_that_nobody_knows() -> None:
    with pytest.raises(UserError, match=r"distill\.store\.dir nothing://a: neither pyarrow nor fsspec knows this"):
        store_files("nothing://a")

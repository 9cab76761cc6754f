"""Work dirs that cannot be written to are found out before time is spent."""

from __future__ import annotations

from pathlib import Path

import pytest

from rdistill.core.errors import UserError
from rdistill.core.work_dir import require_work_dir


def problem(where: str | Path) -> str:
    with pytest.raises(UserError) as caught:
        require_work_dir(where)
    return str(caught.value)


@pytest.mark.parametrize("where", ["new", "new/and/deeper", "there", "link"])
def test_a_folder_that_can_be_written_to_is_left_as_it_is(tmp_path: Path, where: str) -> None:
    (tmp_path / "there").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "there")
    before = sorted(tmp_path.rglob("*"))
    require_work_dir(tmp_path / where)
    require_work_dir(f"file://{tmp_path}/{where}")
    assert sorted(tmp_path.rglob("*")) == before


def test_what_is_no_folder(tmp_path: Path) -> None:
    file, link = tmp_path / "file", tmp_path / "link"
    file.touch()
    link.symlink_to(tmp_path / "nowhere")
    assert problem(file) == f"--work-dir {file}: is a file; name a folder"
    assert problem(file / "a" / "b") == f"--work-dir {file}/a/b: lies below {file}, which is a file; name a folder"
    assert (
        problem(f"file://{file}/a") == f"--work-dir file://{file}/a: lies below {file}, which is a file; name a folder"
    )
    assert problem(link) == f"--work-dir {link}: is a link to nowhere; name a folder"


def test_what_cannot_be_written_to(tmp_path: Path) -> None:
    assert problem("/proc/a").startswith("--work-dir /proc/a: cannot be written to: ")
    assert problem("/dev/null/a").startswith("--work-dir /dev/null/a: lies below /dev/null, which is a file")
    assert problem(tmp_path / ("a" * 300)).endswith("cannot be written to: File name too long; choose another")
    assert problem("a\0b") == "--work-dir a\\x00b: cannot be written to: embedded null byte; choose another"
    assert problem(" ") == "--work-dir: is empty; name a folder"


def test_uris() -> None:
    assert problem("foo://bucket/run").startswith("--work-dir foo://bucket/run: neither pyarrow nor fsspec knows this")
    assert problem("s3:/bucket/run") == (
        "--work-dir s3:/bucket/run: a URI has two slashes, such as s3://bucket/run; a folder would be ./s3:/bucket/run"
    )
    require_work_dir("memory://run")

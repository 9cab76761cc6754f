"""What a store holds is counted, verified and removed by teacher."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

import pytest
from conftest import Command

from rdistill.core.errors import UserError
from rdistill.distill.store_files import ABOUT, StoreFiles, sealed, store_files
from rdistill.store.contents import contents, parse_bytes, prune, verify

HOUR_S = 3600


@pytest.fixture
def files(tmp_path: Path) -> StoreFiles:
    """Of three teachers: 1, 2 and 3 entries of 26 bytes, used 1, 2 and 3 days ago."""
    files = store_files(tmp_path / "store")
    for number in (1, 2, 3):
        about: dict[str, Any] = {
            "teacher": f"teacher{number}.py", "checkpoint": "best.pth", "forward": "fused", "bits": 16,
            "used": time.time() - 24 * HOUR_S * number,
        }  # fmt: skip
        files.write(f"{number}abc/{ABOUT}", json.dumps(about).encode())
        for entry in range(number):
            files.write(f"{number}abc/aa/{entry}", sealed(b"0123456789"))
    return files


def of(files: StoreFiles) -> list[tuple[str, int, int]]:
    return [(held["id"], held["entries"], held["bytes"]) for held in contents(files)]


def test_contents(files: StoreFiles) -> None:
    assert of(files) == [("1abc", 1, 26), ("2abc", 2, 52), ("3abc", 3, 78)]


@pytest.mark.parametrize(
    ("options", "left", "removed"),
    [
        ({}, ["1abc", "2abc", "3abc"], 0),
        ({"teacher": "2"}, ["1abc", "3abc"], 52),
        ({"unused_days": 2}, ["1abc"], 130),
        ({"max_bytes": 100}, ["1abc", "2abc"], 78),
        ({"max_bytes": 100, "teacher": "1"}, ["2abc"], 104),
    ],
)
def test_prune(files: StoreFiles, options: dict[str, Any], left: list[str], removed: int) -> None:
    lines: list[str] = []
    assert prune(files, **options, notify=lines.append) == removed
    assert [folder for folder, _, _ in of(files)] == left and len(lines) == 3 - len(left)


def test_prune_removes_what_a_kill_left(files: StoreFiles, tmp_path: Path) -> None:
    folder, lines = tmp_path / "store" / "1abc" / "aa", []  # type: ignore[var-annotated]
    for name, age_s in ((".0-1-0.partial", 2 * HOUR_S), (".0-2-0.partial", 0)):
        (folder / name).write_bytes(b"half")
        os.utime(folder / name, (time.time() - age_s,) * 2)
    assert prune(files, notify=lines.append) == 4
    assert [path.name for path in folder.glob(".*")] == [".0-2-0.partial"]  # may be written now
    assert lines == ["removed   1 unfinished file of killed processes"]


def test_prune_of_nobody(files: StoreFiles) -> None:
    with pytest.raises(UserError, match="--teacher 9: no teacher's id begins with this"):
        prune(files, teacher="9", notify=print)
    with pytest.raises(UserError, match="--max-size: must be a size such as 500MB or 10GiB, got 'lots'"):
        parse_bytes("lots", "--max-size")


def test_verify(files: StoreFiles) -> None:
    whole = {"entries": 6, "bytes": 156, "damaged": 0}
    assert verify(files, notify=print) == whole
    files.write("3abc/aa/0", sealed(b"0123456789")[:-1])
    lines: list[str] = []
    assert verify(files, remove=True, notify=lines.append) == {"entries": 6, "bytes": 155, "damaged": 1}
    assert lines == [f"damaged   {files.where}/3abc/aa/0; removed"]
    assert verify(files, notify=print) == {"entries": 5, "bytes": 130, "damaged": 0}


def test_the_commands(files: StoreFiles, command: Command) -> None:
    shown = command("store", "info", files.where)
    assert shown.status == 0 and "1abc  teacher1.py (best.pth, forward fused, 16 bits): 1 entry, 26 B" in shown.out
    assert "3 teachers, 6 entries, 156 B" in shown.out
    assert json.loads(command("store", "info", files.where, "--json").out)[0]["about"]["bits"] == 16
    files.write("2abc/aa/0", b"")
    verified = command("store", "verify", files.where)
    assert verified.status == 1 and "6 entries, 130 B, 1 damaged" in verified.out
    assert verified.err == f"damaged   {files.where}/2abc/aa/0\n"
    unfinished = command("store", "prune", files.where)
    assert unfinished.status == 0 and unfinished.out.splitlines() == [
        f"{files.where}: 0 B removed",
        "without --teacher, --unused-days or --max-size, only unfinished files of killed processes are removed",
    ]
    pruned = command("store", "prune", files.where, "--max-size", "30B")
    assert pruned.status == 0 and pruned.out.endswith("104 B removed\n")
    missing = command("store", "info", "nowhere")
    assert missing.status == 2 and missing.err.startswith("error: ") and "holds no store of views" in missing.err

"""Folders that one process at a time works in."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from rdistill.errors import UserError
from rdistill.files import held, write_whole

HOLDS = """
import sys, time
from pathlib import Path
from rdistill.files import held
with held(Path(sys.argv[1]), "sweep"):
    print("held", flush=True)
    time.sleep(600)
"""


def test_a_folder_is_held_by_one_process_until_it_is_killed(tmp_path: Path) -> None:
    folder = tmp_path / "a" / "b"
    with subprocess.Popen([sys.executable, "-c", HOLDS, folder], stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None and other.stdout.readline() == "held\n"
        with pytest.raises(UserError, match="another sweep is at work in it; wait for it, or use another --work-dir"):
            held(folder, "sweep").__enter__()
        other.kill()
    with held(folder, "sweep"), pytest.raises(UserError), held(folder, "sweep"):
        pass
    with held(folder, "sweep"):
        assert list(folder.iterdir()) == []


def test_a_file_is_written_whole(tmp_path: Path) -> None:
    write_whole(tmp_path / "a.txt", "one")
    write_whole(tmp_path / "a.txt", "two")
    assert [(file.name, file.read_text()) for file in tmp_path.iterdir()] == [("a.txt", "two")]

"""Files that are whole or as they were, JSON that every reader takes, and folders that one process works in."""

from __future__ import annotations

import math
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from rdistill.core.errors import UserError
from rdistill.core.files import (
    LOCK,
    DamagedFileError,
    lock_file,
    lock_folder,
    own_folder,
    read_json,
    read_text,
    set_aside_if_damaged,
    to_json,
    write_whole,
)

HOLDS = """
import sys, time
from pathlib import Path
from rdistill.core.files import lock_folder
with lock_folder(Path(sys.argv[1]), "sweep"):
    print("held", flush=True)
    time.sleep(600)
"""


def test_a_folder_is_held_by_one_process_until_it_is_killed(tmp_path: Path) -> None:
    folder = tmp_path / "a" / "b"
    with subprocess.Popen([sys.executable, "-c", HOLDS, folder], stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None and holder.stdout.readline() == "held\n"
        with pytest.raises(UserError, match="another sweep is at work in it; wait for it, or use another --work-dir"):
            lock_folder(folder, "sweep").__enter__()
        holder.kill()
    with lock_folder(folder, "sweep"), pytest.raises(UserError), lock_folder(folder, "sweep"):
        pass
    with lock_folder(folder, "sweep"):
        assert list(folder.iterdir()) == [folder / LOCK]


def test_a_file_is_written_whole(tmp_path: Path) -> None:
    write_whole(tmp_path / "a.txt", "one")
    write_whole(tmp_path / "a.txt", "two")
    assert [(file.name, file.read_text()) for file in tmp_path.iterdir()] == [("a.txt", "two")]


WRITES = """
import sys
import time
from pathlib import Path
from rdistill.core.files import write_json
for number in range(10**9):
    write_json(Path(sys.argv[1]), {"number": number, "text": "x" * 200_000})
    if number == 1:
        print("writing", flush=True)
"""


def test_a_kill_leaves_the_file_before_or_the_one_after(tmp_path: Path) -> None:
    file, seen = tmp_path / "a.json", set()
    for pause_s in (0.0, 0.002, 0.005, 0.011, 0.023):
        with subprocess.Popen([sys.executable, "-c", WRITES, file], stdout=subprocess.PIPE, text=True) as writer:
            assert writer.stdout is not None and writer.stdout.readline() == "writing\n"
            time.sleep(pause_s)
            writer.kill()
        content = read_json(file)
        assert len(content["text"]) == 200_000
        seen.add(content["number"])
    assert seen


TOO_LARGE = """
import resource, signal, sys
from pathlib import Path
from rdistill.core.files import write_whole
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
try:
    write_whole(Path(sys.argv[1]), "x" * 5000)
except OSError as error:
    print(error.strerror)
"""


def test_a_write_that_fails_midway_leaves_the_file_as_it_was(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("before")
    done = subprocess.run([sys.executable, "-c", TOO_LARGE, tmp_path / "a.txt"], capture_output=True, text=True)
    assert done.stdout == "File too large\n", done.stderr
    assert [(file.name, file.read_text()) for file in tmp_path.iterdir()] == [("a.txt", "before")]


def test_what_is_no_text_is_written_as_its_number(tmp_path: Path) -> None:
    write_whole(tmp_path / "a.md", "caf\udce9 é")
    assert (tmp_path / "a.md").read_text() == "caf\\udce9 é"
    with pytest.raises(IsADirectoryError):
        write_whole(tmp_path, "x")
    (tmp_path / "b.txt").write_bytes(b"caf\xe9")
    with pytest.raises(UserError, match=r"b.txt: is no UTF-8 text: byte 0xe9 at position 3"):
        read_text(tmp_path / "b.txt")


def test_json_has_no_nan() -> None:
    value = {"a": math.nan, "b": [math.inf, -math.inf, 1.5], "c": (math.nan,), "d": {"e": -1.5}}
    assert to_json(value) == '{"a": null, "b": [null, null, 1.5], "c": [null], "d": {"e": -1.5}}'


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "is damaged \\(it is empty\\); measure it again"),
        (b'{"a": 1, "b', "is damaged \\(it is no JSON, or cut off after 11 bytes: Unterminated string"),
        (b"[1]", "is damaged \\(holds a list instead of an object\\)"),
        (b"\xff\xfe{}\x00", "is damaged \\(it is no JSON, or cut off after 5 bytes\\)"),
        (b"[" * 100_000, "is damaged"),
    ],
)
def test_damaged_json_is_one_line_that_names_the_file(tmp_path: Path, content: bytes, said: str) -> None:
    file = tmp_path / "step.json"
    file.write_bytes(content)
    with pytest.raises(DamagedFileError, match=f"step.json: {said}") as caught:
        read_json(file, "measure it again")
    assert len(caught.value.problems) == 1 and "\n" not in str(caught.value)
    lines: list[str] = []
    assert set_aside_if_damaged(file, "it is measured again", lines.append) and not file.exists()
    assert (tmp_path / "step.json.damaged").read_bytes() == content
    assert lines[0].endswith(": it is measured again; the damaged file is kept as step.json.damaged")
    assert not set_aside_if_damaged(file, "", lines.append)


def test_a_folder_of_our_own_is_closed_to_others(tmp_path: Path) -> None:
    folder = tmp_path / "mine"
    assert own_folder(folder) and folder.stat().st_mode & 0o777 == 0o700
    folder.chmod(0o777)
    assert own_folder(folder) and folder.stat().st_mode & 0o777 == 0o700
    (tmp_path / "link").symlink_to(folder)
    assert not own_folder(tmp_path / "link")
    (tmp_path / "file").touch()
    assert not own_folder(tmp_path / "file")


@pytest.mark.skipif(os.getuid() != 0, reason="only root gives folders away")
def test_a_folder_of_another_user_is_not_taken(tmp_path: Path) -> None:
    folder = tmp_path / "theirs"
    folder.mkdir()
    os.chown(folder, 12345, 12345)
    assert not own_folder(folder)


FORKS = """
import os, sys, time
from pathlib import Path
from rdistill.core.files import lock_folder
with lock_folder(Path(sys.argv[1]), "run"):
    if os.fork() == 0:  # as a data loader's worker
        print("held", flush=True)
        time.sleep(20)
        os._exit(0)
    time.sleep(600)
"""


def test_what_a_killed_process_forked_does_not_hold_its_folder(tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", FORKS, tmp_path], stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None and holder.stdout.readline() == "held\n"
        holder.kill()
        holder.wait()
        with lock_folder(tmp_path, "run"):
            pass


def test_a_work_dir_that_cannot_be_one_is_a_line(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for folder, message in (
        (tmp_path / "file", "is there already, and is no folder"),
        (tmp_path / "file" / "below", "lies below a file"),
        (tmp_path / ("n" * 300), "its name is too long"),
        (Path("/proc/nowhere"), "no such file or folder, or none can be made there"),
    ):
        with pytest.raises(UserError, match=message) as caught, lock_folder(folder, "run"):
            pass
        assert str(caught.value).endswith("use another --work-dir")


def test_a_start_that_wrote_nothing_leaves_no_lock_behind(tmp_path: Path) -> None:
    with lock_folder(tmp_path / "mistake", "run"):
        pass
    assert list((tmp_path / "mistake").iterdir()) == []
    with lock_folder(tmp_path / "run", "run"):
        (tmp_path / "run" / "config.py").write_text("")
    assert sorted(file.name for file in (tmp_path / "run").iterdir()) == [".lock", "config.py"]


WAITS = """
import sys
from pathlib import Path
from rdistill.core.files import lock_file
print("waits", flush=True)
with lock_file(Path(sys.argv[1])):
    Path(sys.argv[1]).write_text("second")
"""


def test_processes_that_fetch_one_file_wait_for_each_other(tmp_path: Path) -> None:
    file = tmp_path / "weights.pth"
    with lock_file(file):
        second = subprocess.Popen([sys.executable, "-c", WAITS, file], stdout=subprocess.PIPE, text=True)
        assert second.stdout is not None and second.stdout.readline() == "waits\n"
        time.sleep(0.5)
        assert second.poll() is None and not file.exists()
        file.write_text("first")
    assert second.wait() == 0 and file.read_text() == "second"

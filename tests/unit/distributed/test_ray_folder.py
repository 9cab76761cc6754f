"""Ray's own folder in a work dir: closed to other users, cleared of what a killed start left."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import ray

from rdistill.core.errors import UserError
from rdistill.distributed.ray_folder import LOCATION_FILE, clear, folder_for_ray


@pytest.fixture
def short() -> Iterator[Path]:
    """pytest's own folder has too long a name for Ray's sockets."""
    with tempfile.TemporaryDirectory(prefix="rf", dir="/tmp") as folder:
        yield Path(folder)


def test_nobody_else_enters_it(short: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMPDIR", str(short))
    with folder_for_ray(short, print) as temp_dir:
        assert temp_dir == short / "ray" / "t" and (short / "ray").stat().st_mode & 0o777 == 0o700
        assert os.environ["TMPDIR"] == str(short / "ray")  # where its workers' files go
    assert not list(short.iterdir()) and os.environ["TMPDIR"] == str(short)


def test_where_the_path_is_too_long_it_is_elsewhere_and_found_again(short: Path) -> None:
    work_dir = short / ("long" * 10)
    with folder_for_ray(work_dir, print) as temp_dir:
        folder = temp_dir.parent
        assert folder.parent == Path(tempfile.gettempdir()) and folder.stat().st_mode & 0o777 == 0o700
        note = (work_dir / LOCATION_FILE).read_text()
    assert not folder.exists() and not (work_dir / LOCATION_FILE).exists()
    folder.mkdir()  # a kill leaves it so
    (work_dir / LOCATION_FILE).write_text(note)
    with folder_for_ray(work_dir, print):
        assert not folder.exists()
    (short / "mine").mkdir()
    (work_dir / LOCATION_FILE).write_text(f"{short}/mine")  # only folders of ours are removed
    with folder_for_ray(work_dir, print):
        assert (short / "mine").exists()


def test_what_is_not_rays_is_left_alone(short: Path) -> None:
    (short / "ray").mkdir()
    (short / "ray" / "notes.txt").touch()
    with pytest.raises(UserError, match=r"/ray: is where Ray's files go, but holds notes\.txt; use another --work-dir"):
        folder_for_ray(short, print).__enter__()
    (short / "link").mkdir()
    (short / "link" / "ray").symlink_to(short / "ray")
    with pytest.raises(UserError, match="must be a folder of yours"):
        folder_for_ray(short / "link", print).__enter__()
    assert (short / "ray" / "notes.txt").exists()


def test_processes_of_this_folder_alone_are_ended(short: Path) -> None:
    agent = f"{Path(ray.__file__).parent}/dashboard/agent.py"  # Ray's agents are called so
    (short / "ray" / "t").mkdir(parents=True)
    sleep = [sys.executable, "-c", "import time; time.sleep(600)"]
    left, neighbour, editor = (
        subprocess.Popen([*sleep, agent, f"--temp-dir={short}/ray/t"]),
        subprocess.Popen([*sleep, agent, f"--temp-dir={short}/ray2/t"]),
        subprocess.Popen([*sleep, f"{short}/ray/t/notes"]),
    )
    try:
        lines: list[str] = []
        clear(short / "ray", lines.append)
        left.wait(timeout=60)  # clear has taken its status
        assert neighbour.poll() is None and editor.poll() is None
        assert "1 process of Ray's that an earlier start of this work dir left" in lines[0]
        assert not (short / "ray").exists()
    finally:
        for process in (left, neighbour, editor):
            process.kill()
            process.wait()

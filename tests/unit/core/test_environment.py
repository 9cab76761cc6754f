"""The folder that libraries keep their caches and logs in is this user's alone."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

WHERE = "import os, rdistill.core.environment as e; e.keep_to_the_work_dir(); print(os.environ['XDG_CACHE_HOME'])"


def cache_folder(temporary: Path) -> Path:
    """Of a new process whose temporary folder this is."""
    environment = {key: value for key, value in os.environ.items() if key not in ("XDG_CACHE_HOME", "MPLCONFIGDIR")}
    done = subprocess.run(
        [sys.executable, "-c", WHERE + "; print(oct(os.stat(os.environ['XDG_CACHE_HOME']).st_mode & 0o777))"],
        env={**environment, "TMPDIR": str(temporary)}, capture_output=True, text=True,
    )  # fmt: skip
    folder, mode = done.stdout.split()
    assert mode == "0o700", done
    return Path(folder)


def test_it_is_closed_to_others(tmp_path: Path) -> None:
    shared = tmp_path / f".cache-rdistill-{os.getuid()}"
    assert cache_folder(tmp_path) == shared
    shared.chmod(0o777)
    assert cache_folder(tmp_path) == shared and shared.stat().st_mode & 0o777 == 0o700


def test_a_link_in_its_place_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "theirs").mkdir()
    (tmp_path / f".cache-rdistill-{os.getuid()}").symlink_to(tmp_path / "theirs")
    folder = cache_folder(tmp_path)
    assert folder.parent == tmp_path and folder.name.startswith("cache-rdistill-")
    assert not folder.exists()  # it was of that process alone
    assert not list((tmp_path / "theirs").iterdir())


@pytest.mark.skipif(os.getuid() != 0, reason="only root gives folders away")
def test_a_folder_of_another_user_is_not_used(tmp_path: Path) -> None:
    shared = tmp_path / f".cache-rdistill-{os.getuid()}"
    shared.mkdir(mode=0o777)
    os.chown(shared, 12345, 12345)
    assert cache_folder(tmp_path) != shared

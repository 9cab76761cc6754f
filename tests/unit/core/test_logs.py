"""Logs that are kept of Ray's workers."""

from __future__ import annotations

import os
from pathlib import Path

from rdistill.core.logs import LOGS, keep_worker_logs


def test_no_link_is_followed_when_logs_are_copied(tmp_path: Path) -> None:
    logs = tmp_path / "ray" / "t" / "session_2026" / "logs"
    logs.mkdir(parents=True)
    (tmp_path / LOGS).mkdir()
    (tmp_path / "secret").write_text("private")
    (logs / "worker-1.out").write_text("said")
    (logs / "worker-2.out").symlink_to(tmp_path / "secret")
    os.link(tmp_path / "secret", logs / "worker-3.out")
    os.mkfifo(logs / "worker-4.out")
    (tmp_path / LOGS / "worker-1.out").symlink_to(tmp_path / "secret")
    keep_worker_logs(tmp_path / "ray" / "t", tmp_path)
    assert [(file.name, file.read_text()) for file in (tmp_path / LOGS).iterdir()] == [("worker-1.out", "said")]
    assert (tmp_path / "secret").read_text() == "private" and not (tmp_path / LOGS / "worker-1.out").is_symlink()
    (tmp_path / "ray" / "t" / "session_2027").symlink_to(tmp_path)
    keep_worker_logs(tmp_path / "ray" / "t", tmp_path)
    assert [file.name for file in (tmp_path / LOGS).iterdir()] == ["worker-1.out"]

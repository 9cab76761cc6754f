"""The processes that a command has started: to kill one of them, or to wait until all are gone."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable
from pathlib import Path

from e2e.conftest import TIMEOUT_S


def under(parent: int, title: str = "") -> list[int]:
    """The processes below one, however deep, whose command line holds this; a worker of Ray's is `ray::NAME`."""
    parents: dict[int, int] = {}
    titles: dict[int, str] = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            parents[int(folder.name)] = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
            titles[int(folder.name)] = (folder / "cmdline").read_text()
        except OSError:  # it has just ended
            continue

    def is_below(process: int | None) -> bool:
        return process is not None and (parents.get(process) == parent or is_below(parents.get(process)))

    return [process for process, text in titles.items() if title in text and is_below(process)]


def wait_until(there: Callable[[], object], process: subprocess.Popen[str] | None = None) -> None:
    """Waits for something; fails when the process ends before it."""
    until = time.monotonic() + TIMEOUT_S
    while not there():
        assert process is None or process.poll() is None, process.communicate()
        assert time.monotonic() < until, "waited for too long"
        time.sleep(0.02)


def wait_until_gone(processes: list[int]) -> None:
    wait_until(lambda: not any(is_alive(process) for process in processes))


def is_alive(process: int) -> bool:
    """A zombie, of which its parent has not heard yet, is not."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False

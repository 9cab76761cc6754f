"""Unit tests are quick: none of them starts Ray, in its own process or in a command."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest


@pytest.fixture(autouse=True, scope="session")
def ray_folder() -> Iterator[Path]:
    """An empty folder in which Ray would write its session, had a test or its child process started it."""
    folder = Path(tempfile.mkdtemp(prefix="rdu", dir="/tmp"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_TMPDIR", str(folder))
        yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(autouse=True, scope="session")
def _power_stays_on() -> Iterator[None]:
    """No unit test cuts the power: what a file written whole waits for is the disk, a third of the time of a run."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda handle: None)
        yield


@pytest.fixture(autouse=True)
def _starts_no_ray(ray_folder: Path) -> Iterator[None]:
    yield
    if any(ray_folder.iterdir()):
        shutil.rmtree(ray_folder)
        ray_folder.mkdir()
        pytest.fail("a unit test started Ray: it belongs into tests/e2e")

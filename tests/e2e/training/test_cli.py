"""`rdistill train`, in this process: a whole run, and one that diverges."""

from __future__ import annotations

from pathlib import Path

import pytest
from conftest import Command, Tiny

pytestmark = pytest.mark.e2e


def test_a_diverged_run_is_one_line_and_status_1(command: Command, tiny: Tiny, small: list[object]) -> None:
    result = command("train", tiny.folder / "student.py", *small, "--set", "optim_wrapper.optimizer.lr=1e30")
    assert result.status == 1
    assert result.err.startswith("error: iteration 2: ") and result.err.count("\n") == 1


def test_default_work_dir(command: Command, tiny: Tiny, small: list[object], tmp_path: Path) -> None:
    assert command("train", tiny.folder / "student.py", *small).status == 0
    assert (tmp_path / "work_dirs" / "student" / "metrics.json").is_file()

"""Commands that train and evaluate, from the shell: their output, and that a run is repeated from its folder."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import Command, Run, Tiny


@pytest.mark.e2e
def test_train_and_train_again(
    command: Command, tiny: Tiny, small: list[object], tmp_path: Path, state_equal: Callable[..., bool]
) -> None:
    """A run's own config repeats it, with its seed, from any directory and with nothing else said."""
    result = command(
        "train", tiny.folder / "distill.py", *small, "--seed", 3, "--work-dir", "a", "--num-data-workers", 0
    )
    assert (result.status, result.err) == (0, "")
    lines = result.out.splitlines()
    assert lines[0] == f"{tiny.folder}/distill.py -> a" and lines[1].startswith("teacher   mIoU ")
    assert lines[-2].startswith("done      mIoU ") and lines[-1].startswith("student   a/student.pth with a/student.py")
    assert "validated iter 2  mIoU " in result.out
    again = command("train", "a/config.py", "--work-dir", "b")
    assert (again.status, again.err) == (0, "")
    first, second = (Run(tmp_path / name, {}) for name in "ab")
    assert state_equal(first.weights(), second.weights())
    assert {**first.written_metrics(), "seconds": 0} == {**second.written_metrics(), "seconds": 0}
    assert first.written_metrics()["seed"] == 3
    refused = command("train", "a/config.py", "--work-dir", "b")
    assert refused.status == 2 and "holds a run already; pass --resume" in refused.err
    assert command("train", "a/config.py", "--work-dir", "b", "--resume").status == 0


@pytest.mark.e2e
def test_eval_json_is_nothing_but_json(distilled_run: Run, tmp_path: Path) -> None:
    files = [distilled_run.folder / "student.py", distilled_run.folder / "student.pth"]
    arguments = [sys.executable, "-m", "rdistill", "eval", *map(str, files), "--json"]
    done = subprocess.run(arguments, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == {key: distilled_run.metrics[key] for key in ("mIoU", "aAcc", "mAcc", "IoU")}
    assert done.stderr == "" and list(tmp_path.iterdir()) == []

"""Cohorts: the same numbers as trials one by one, whatever happens to the worker."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import Tiny

from e2e.conftest import TIMEOUT_S, Sandbox
from e2e.processes import under, wait_until

pytestmark = pytest.mark.e2e

WEIGHT, RATE = "distill.losses.logits.weight", "optim_wrapper.optimizer.lr"
ABSURD = 1e30  # a learning rate: the second iteration's loss is NaN
Rows = Callable[[Path], dict[str, dict[str, str]]]


def study(tiny: Tiny, size: int | str) -> dict[str, Any]:
    return {
        "config": str(tiny.folder / "distill.py"),
        "space": {
            WEIGHT: {"type": "choice", "values": [3.0, 30.0]},
            RATE: {"type": "choice", "values": [0.03, ABSURD]},
        },
        "search": {"type": "grid", "seed": 1},
        "cohort": {"size": size},
    }


def arguments(tiny: Tiny, iters: int) -> list[object]:
    return ["--data-root", tiny.data_root, "--size", 32, "--batch-size", 2, "--val-interval", 2, "--iters", iters]


def scores(rows: dict[str, dict[str, str]]) -> dict[str, dict[str, str]]:
    return {name: {**row, "seconds": "", "seconds_real": "", "seconds_alone": ""} for name, row in rows.items()}


@pytest.fixture(scope="module")
def alone(sandbox: Sandbox, tiny: Tiny) -> Path:
    work_dir = sandbox.root / "off"
    sandbox.run("sweep", sandbox.sweep_file("off", study(tiny, "off")), "--work-dir", work_dir, *arguments(tiny, 6))
    return work_dir


def test_the_numbers_do_not_change(sandbox: Sandbox, tiny: Tiny, alone: Path, rows: Rows) -> None:
    """Every row, and every student to the last bit; the two that diverge leave by themselves."""
    work_dir = sandbox.root / "auto"
    done = sandbox.run(
        "sweep", sandbox.sweep_file("auto", study(tiny, "auto")), "--work-dir", work_dir, *arguments(tiny, 6)
    )
    assert "2 cohorts of up to 3 students that share a teacher, on 1 CPU each; 5 trials at a time" in done.stdout
    assert done.stderr == "" and "raylet" not in done.stdout
    table = rows(work_dir)
    assert scores(table) == scores(rows(alone))
    assert sorted(row["status"] for row in table.values()) == ["failed"] * 2 + ["finished"] * 3
    for name, row in table.items():
        if row["status"] == "finished":
            actual, expected = (
                torch.load(folder / "trials" / name / "last.pth", weights_only=True)["state_dict"]
                for folder in (work_dir, alone)
            )
            assert all(torch.equal(actual[key], expected[key]) for key in expected), name


@pytest.mark.slow
def test_a_cohort_that_dies_goes_on(sandbox: Sandbox, tiny: Tiny, rows: Rows) -> None:
    """Killed with -9 after the first validations: every student goes on from its own checkpoint."""
    work_dir = sandbox.root / "killed"
    content = study(tiny, 8)
    content["space"] = {WEIGHT: {"type": "choice", "values": [3.0, 30.0]}}
    content["trial"] = {"cpus_per_worker": 2}  # one cohort, where there are two cores
    file = sandbox.sweep_file("killed", content)
    with sandbox.start("sweep", file, "--work-dir", work_dir, *arguments(tiny, 200)) as process:
        wait_until(lambda: list(work_dir.glob("trials/t*/last.pth")), process)
        killed = under(process.pid, "ray::Cohort")
        assert killed
        for pid in killed:
            os.kill(pid, signal.SIGKILL)
        out, err = process.communicate(timeout=TIMEOUT_S)
    assert process.returncode == 0, (out, err)
    table = rows(work_dir)
    assert {row["status"] for row in table.values()} == {"finished"}
    assert {row["iterations"] for row in table.values()} == {"200"}

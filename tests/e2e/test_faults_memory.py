"""Trials that fail of their own, and memory that runs out: for a trial's own step, and on the whole machine."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import Tiny
from ray._common.utils import get_system_memory
from ray._private.utils import get_used_memory

from e2e.conftest import TIMEOUT_S, Sandbox

pytestmark = [pytest.mark.e2e, pytest.mark.slow]

WEIGHT, FAULT = "distill.losses.logits.weight", "custom_hooks.0.fault"
ROOM = 6 * 2**30  # bytes that all processes may take, beside what the machine has in use
GREED = 8 * 2**30
Rows = Callable[[Path], dict[str, dict[str, str]]]
TrialJson = Callable[[Path, str], dict[str, Any]]

# What a user's own code may do. Greed happens once: it leaves a file.
FAULTY = f"""
import time
from pathlib import Path

import torch
from mmengine.hooks import Hook
from mmengine.registry import HOOKS


@HOOKS.register_module()
class Faulty(Hook):
    def __init__(self, fault, greedy=None):
        self.fault, self.greedy = fault, greedy

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        if runner.iter != 5:
            return
        if self.fault == "memory":
            torch.empty(2**50)
        if self.fault == "bug":
            {{}}["no such key"]
        if self.greedy is not None and not Path(self.greedy).exists():
            Path(self.greedy).touch()
            taken = torch.ones({GREED} // 4)
            time.sleep({TIMEOUT_S})
"""


@pytest.fixture(scope="module")
def faulty(sandbox: Sandbox, tiny: Tiny) -> Path:
    """A config with a hook of its own, in a module of its own."""
    (sandbox.cwd / "faulty.py").write_text(FAULTY)
    config = tiny.folder / "faulty.py"
    config.write_text(
        "_base_ = ['distill.py']\n"
        "custom_imports = dict(imports=['faulty'], allow_failed_imports=False)\n"
        "custom_hooks = [dict(type='Faulty', fault='none', greedy=None)]\n"
    )
    return config


@pytest.fixture(scope="module")
def small(tiny: Tiny) -> list[object]:
    return ["--data-root", tiny.data_root, "--size", 32, "--batch-size", 2, "--val-interval", 4, "--iters", 12]


@pytest.mark.parametrize("size", ["auto", "off"])
def test_a_trial_that_fails_of_its_own(
    sandbox: Sandbox, faulty: Path, small: list[object], rows: Rows, trial_json: TrialJson, size: str
) -> None:
    """Says of what, in the table and as it happens; is not tried again; the others train to their end."""
    study = {
        "config": str(faulty),
        "space": {FAULT: {"type": "choice", "values": ["none", "memory", "bug"]}},
        "search": {"type": "grid"},
        "cohort": {"size": size},
    }
    work_dir = sandbox.root / f"own-{size}"
    done = sandbox.run("sweep", sandbox.sweep_file(f"own-{size}", study), "--work-dir", work_dir, *small)
    table = {row[FAULT] if row["id"] != "baseline" else "baseline": row for row in rows(work_dir).values()}
    assert {fault: row["status"] for fault, row in table.items()} == {
        "baseline": "finished", "none": "finished", "memory": "failed", "bug": "failed",
    }  # fmt: skip
    assert table["memory"]["note"].startswith("out of memory with 2 images a worker; lower --batch-size or --size")
    assert "KeyError: 'no such key'" in table["bug"]["note"]
    for fault in ("memory", "bug"):
        assert trial_json(work_dir, table[fault]["id"])["attempts"] == 1
        assert f"{table[fault]['id']}     failed: {table[fault]['note'][:20]}" in done.stdout
    assert done.stderr == "" and "Traceback" not in done.stdout


@pytest.fixture
def little_memory() -> dict[str, str]:
    """For a cluster that kills who takes much, as a whole machine's does when little is left."""
    total, used = get_system_memory(), get_used_memory()  # what Ray counts: the container's, where it is in one
    if total - used < GREED + ROOM:
        pytest.skip(f"{(total - used) / 2**30:.0f} GiB of memory are free; this test takes {GREED / 2**30:.0f}")
    return {"RAY_memory_usage_threshold": str((used + ROOM) / total)}


@pytest.mark.parametrize("size", ["auto", "off"])
def test_a_trial_that_takes_the_machines_memory(
    sandbox: Sandbox, faulty: Path, small: list[object], little_memory: dict[str, str], rows: Rows,
    trial_json: TrialJson, size: str,
) -> None:  # fmt: skip
    """Ray kills it, or its cohort; both start again from the last checkpoint, and all trials end as they should."""
    greedy = sandbox.root / f"greedy-{size}"
    study = {
        "config": str(faulty),
        "set": {"custom_hooks.0.greedy": str(greedy)},
        "space": {WEIGHT: {"type": "choice", "values": [3.0, 30.0]}},
        "search": {"type": "grid"},
        "cohort": {"size": size},
    }
    work_dir = sandbox.root / f"machine-{size}"
    file = sandbox.sweep_file(f"machine-{size}", study)
    done = sandbox.run("sweep", file, "--work-dir", work_dir, *small, variables=little_memory)
    assert greedy.exists()
    table = rows(work_dir)
    assert {(row["status"], row["iterations"]) for row in table.values()} == {("finished", "12")}
    for name in table:
        assert [entry["iter"] for entry in trial_json(work_dir, name)["history"]] == [4, 8, 12], name
    assert sum(trial_json(work_dir, name)["attempts"] for name in table) > len(table)
    if size == "off":
        assert "was lost, and starts again from its last checkpoint (RayActorError: out of memory: Ray" in done.stdout


def test_a_worker_that_takes_the_machines_memory(
    sandbox: Sandbox, faulty: Path, small: list[object], little_memory: dict[str, str]
) -> None:
    greedy, work_dir = sandbox.root / "greedy-worker", sandbox.root / "machine-worker"
    done = sandbox.run(
        "train", faulty, "--workers", 2, "--cpus-per-worker", 0.5, "--work-dir", work_dir, *small, "--batch-size", 4,
        "--set", f"custom_hooks.0.greedy={greedy}", variables=little_memory,
    )  # fmt: skip
    assert greedy.exists()
    assert "was lost" in done.stdout and "starting again from the last checkpoint (1 of 3)" in done.stdout
    assert json.loads((work_dir / "metrics.json").read_text())["iter"] == 12

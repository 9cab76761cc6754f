"""The benchmarks run as far as their table: what they time is not looked at."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.__main__ import NAMES
from e2e.conftest import TIMEOUT_S

pytestmark = [pytest.mark.e2e, pytest.mark.slow]

REPO = Path(__file__).parents[2]
SHORT = {
    "cohort": ["--pair", "slim", "--iterations", "1", "--students", "2", "--pairs", "1"],
    "losses": ["--shrink", "4", "--pairs", "1"],
    "proof": ["--studies", "2"],
    "proof_intervals": ["--studies", "2"],
    "proof_pairwise": ["--studies", "2"],
    "proof_tails": ["--studies", "2"],
    "resize": ["small", "--pairs", "1"],
    "scale": ["--trials", "3", "--places", "machine"],
    "search": ["--repeats", "1"],
    "share": ["--iterations", "1", "--pairs", "1"],
    "startup": ["--pairs", "1"],
    "store": ["confirm", "--pair", "slim", "--passes", "2"],
    "store_errors": ["--iters", "4", "--teacher-iters", "4", "--seeds", "1"],
    "step": ["--pair", "slim", "--iterations", "1", "--pairs", "1"],
    "sweep": ["--trials", "2", "--iterations", "2", "--pairs", "1"],
    "sweep_profile": ["--trials", "2", "--iterations", "2"],
    "teacher_cache": ["--pair", "slim", "--images", "8", "--epochs", "2"],
    "teacher_forward": ["--pair", "slim", "--pairs", "1"],
}


def test_all_are_tried() -> None:
    assert {module for module, _ in NAMES.values()} == set(SHORT)


@pytest.mark.parametrize("module", SHORT)
def test_a_benchmark(module: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", f"benchmarks.{module}", *SHORT[module]],
        cwd=REPO, env={**os.environ, "PYTHONPATH": str(REPO)}, text=True, capture_output=True, timeout=TIMEOUT_S,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    table = [line for line in done.stdout.splitlines() if line.startswith("| ")]
    assert len(table) >= 2 and f"python -m benchmarks.{module} " in done.stdout, done.stdout

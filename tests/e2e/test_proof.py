"""From a search with its baselines to a confirmed verdict, and on from wherever it was killed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import Tiny

from e2e.conftest import Place

pytestmark = pytest.mark.e2e

WEIGHT, RATE = "distill.losses.logits.weight", "optim_wrapper.optimizer.lr"
CONFIRM = {"top": 1, "seeds": [1, 2]}
Rows = Callable[[Path], dict[str, dict[str, str]]]


@pytest.fixture(scope="module")
def study(tiny: Tiny) -> dict[str, Any]:
    return {
        "config": str(tiny.folder / "distill.py"),
        "space": {WEIGHT: {"type": "loguniform", "low": 1.0, "high": 100.0}},
        "baseline": {"search": {RATE: {"type": "loguniform", "low": 0.01, "high": 0.1}}, "num_trials": 1},
        "search": {"type": "random", "num_trials": 2},
        "confirm": CONFIRM,
    }


def arguments(tiny: Tiny, file: Path, work_dir: Path) -> list[object]:
    data = ["--data-root", tiny.data_root, "--size", 32, "--batch-size", 2, "--val-interval", 2, "--iters", 4]
    return ["sweep", file, "--work-dir", work_dir, *data]


@pytest.fixture(scope="module")
def proven(place: Place, tiny: Tiny, study: dict[str, Any]) -> tuple[Path, str]:
    """A finished sweep with its confirmation, and what it printed."""
    work_dir = place.root / "proof"
    done = place.run(*arguments(tiny, place.sweep_file("proof", study), work_dir))
    assert done.stderr == ""
    return work_dir, done.stdout


def test_phases(proven: tuple[Path, str], rows: Rows) -> None:
    print(proven[1])
    found = rows(proven[0])
    for row in found.values():
        print(row)

"""From a search with its baselines to a confirmed verdict, and on from wherever it was killed."""

from __future__ import annotations

import json
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import Tiny

from e2e.conftest import TIMEOUT_S, Sandbox

pytestmark = pytest.mark.e2e

WEIGHT, RATE = "distill.losses.logits.weight", "optim_wrapper.optimizer.lr"
Rows = Callable[[Path], dict[str, dict[str, str]]]


@pytest.fixture(scope="module")
def study(tiny: Tiny) -> dict[str, Any]:
    return {
        "config": str(tiny.folder / "distill.py"),
        "space": {WEIGHT: {"type": "loguniform", "low": 1.0, "high": 100.0}},
        "baseline": {"search": {RATE: {"type": "loguniform", "low": 0.01, "high": 0.1}}, "num_trials": 1},
        "search": {"type": "random", "num_trials": 2},
    }


@pytest.fixture(scope="module")
def command(tiny: Tiny, sandbox: Sandbox) -> Callable[..., list[object]]:
    """`sweep` with a study under a name; its test split is other images than its validation images."""
    test_root = sandbox.root / "test-data"
    shutil.copytree(tiny.data_root, test_root)
    data = ["--data-root", tiny.data_root, "--size", 32, "--batch-size", 2, "--val-interval", 2, "--iters", 4]

    def arguments(name: str, study: dict[str, Any]) -> list[object]:
        content = {**study, "set": {"test_dataloader.dataset.data_root": str(test_root)}}
        return ["sweep", sandbox.sweep_file(name, content), "--work-dir", sandbox.root / name, *data]

    return arguments


def kill_once(sandbox: Sandbox, arguments: list[object], there: Path) -> None:
    """Kills the driver as soon as a file is there."""
    with sandbox.start(*arguments) as driver:
        waited_until = time.monotonic() + TIMEOUT_S
        while not there.exists():
            assert driver.poll() is None and time.monotonic() < waited_until, driver.communicate()
            time.sleep(0.01)
        driver.send_signal(signal.SIGKILL)
        driver.communicate()
    assert driver.returncode == -signal.SIGKILL
    time.sleep(5)  # the trials' own processes notice, and end


def summary_of(work_dir: Path) -> dict[str, Any]:
    return dict(json.loads((work_dir / "summary.json").read_text()))


@pytest.mark.slow  # seven starts of Ray: minutes
def test_a_sweep_is_confirmed_also_afterwards_and_after_kills(
    sandbox: Sandbox, study: dict[str, Any], command: Callable[..., list[object]], rows: Rows
) -> None:
    """One sweep through all of it: killed in the search, finished, confirmed later, killed again, finished again."""
    work_dir = sandbox.root / "proof"
    search = command("proof", study)
    kill_once(sandbox, search, work_dir / "trials" / "b0001" / "last.pth")
    assert summary_of(work_dir)["status"] == "running"

    done = sandbox.run(*search, "--resume")
    assert f"verdict   {summary_of(work_dir)['verdict']}" in done.stdout.splitlines()
    assert summary_of(work_dir)["verdict"].startswith("Searched only, not confirmed: t000")
    table = rows(work_dir)
    assert {name: row["phase"] for name, row in table.items()} == {
        "baseline": "baseline", "b0001": "baseline", "t0001": "search", "t0002": "search",
    }  # fmt: skip
    # A baseline has its values: searched ones, or else those of the config.
    assert float(table["b0001"][RATE]) != 0.03 and table["baseline"][RATE] == "0.03" and not table["t0001"][RATE]
    searched = summary_of(work_dir)
    assert (searched["status"], searched["confirmed"], searched["test"]) == ("finished", None, None)

    refused = sandbox.run(*command("proof", {**study, "seed": 3, "confirm": {"seeds": [1, 2]}}), "--resume", status=2)
    assert "sweep.seed was 0, is 3" in refused.stderr

    confirm = command("proof", {**study, "confirm": {"top": 1, "seeds": [1, 2]}})
    kill_once(sandbox, [*confirm, "--resume"], work_dir / "trials" / "baseline-s1" / "last.pth")
    done = sandbox.run(*confirm, "--resume")
    assert done.stderr == ""
    check_confirmed(work_dir, table, rows, done.stdout)


def check_confirmed(work_dir: Path, before: dict[str, dict[str, str]], rows: Rows, printed: str) -> None:
    table = rows(work_dir)
    best = max(("t0001", "t0002"), key=lambda name: float(table[name]["mIoU"]))
    alone = max(("baseline", "b0001"), key=lambda name: float(table[name]["mIoU"]))
    assert {name: row for name, row in table.items() if row["phase"] not in ("confirm", "equal-cost")} == before
    again = {name: row for name, row in table.items() if row["phase"] == "confirm"}
    assert set(again) == {f"{name}-s{seed}" for name in (best, alone) for seed in (1, 2)}
    for name, row in again.items():
        assert row["of"] == name.rpartition("-s")[0] and row["seed"] == name[-1] and row["status"] == "finished"
        assert f"randomness = dict(seed={name[-1]})" in (work_dir / "trials" / name / "trial.py").read_text()
        assert row[WEIGHT] == table[row["of"]][WEIGHT] and row[RATE] == table[row["of"]][RATE]

    summary = summary_of(work_dir)
    (configuration,) = summary["confirmed"]["configurations"]
    scores = {name: float(row["mIoU"]) for name, row in again.items()}
    assert (configuration["id"], summary["confirmed"]["baseline"]["id"]) == (best, alone)
    assert configuration["mean"] == pytest.approx((scores[f"{best}-s1"] + scores[f"{best}-s2"]) / 2)
    differences = [scores[f"{best}-s{seed}"] - scores[f"{alone}-s{seed}"] for seed in (1, 2)]
    assert configuration["difference"]["mean"] == pytest.approx(sum(differences) / 2)
    assert summary["verdict"] in printed and len(summary["environment"]["sessions"]) == 4
    # The test images are the validation images here: what is scored is the very student of the best validation.
    tested = summary["test"]
    assert tested["configurations"][0]["mean"] == pytest.approx(configuration["mean"], abs=1e-3)
    assert tested["teacher"]["mIoU"] == pytest.approx(summary["teacher"]["mIoU"], abs=1e-3)

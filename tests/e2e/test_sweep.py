"""Sweeps of tiny students on a real local cluster: repeatable, and in one piece after what goes wrong."""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from conftest import Tiny
from typed_files import unlike

from e2e.conftest import TIMEOUT_S, Sandbox
from rdistill.core.files import read_json
from rdistill.schemas.pictures import Pictures
from rdistill.schemas.run import RunMetrics
from rdistill.schemas.summary import Summary
from rdistill.schemas.trial import StudyRecord, TrialFile

pytestmark = pytest.mark.e2e

WEIGHT, PAIR, RATE = "distill.losses.logits.weight", "distill.losses.hidden.pair", "optim_wrapper.optimizer.lr"
Rows = Callable[[Path], dict[str, dict[str, str]]]
TrialJson = Callable[[Path, str], dict[str, Any]]
ABSURD = 1e30  # a learning rate: the second iteration's loss is NaN


@pytest.fixture(scope="module")
def small(tiny: Tiny) -> list[object]:
    return ["--data-root", tiny.data_root, "--size", 32, "--batch-size", 2, "--val-interval", 2]


@pytest.fixture(scope="module")
def random_file(sandbox: Sandbox, tiny: Tiny) -> Path:
    space = {WEIGHT: {"type": "loguniform", "low": 1.0, "high": 100.0}, PAIR: {"type": "pairs", "pairs": "all"}}
    return sandbox.sweep_file(
        "random",
        {
            "config": str(tiny.folder / "distill.py"),
            "space": space,
            "search": {"type": "random", "num_trials": 3, "seed": 5},
            "seed": 2,
        },
    )


@pytest.fixture(scope="module")
def random_sweep(sandbox: Sandbox, random_file: Path, small: list[object]) -> Path:
    work_dir = sandbox.root / "a"
    done = sandbox.run("sweep", random_file, "--work-dir", work_dir, *small, "--iters", 12)
    assert done.stderr == ""
    return work_dir


def without_times(rows: dict[str, dict[str, str]]) -> dict[str, dict[str, str]]:
    return {name: {**row, "seconds": "", "seconds_real": "", "seconds_alone": ""} for name, row in rows.items()}


# ---------------------------------------------------------------------------------------------------------
# What a sweep leaves


def test_every_file_is_what_its_type_says(random_sweep: Path) -> None:
    """mypy checks the readers of these files by the types; here the types are checked by what a sweep wrote."""
    kinds = {
        "summary.json": Summary, "study.json": StudyRecord, "pictures/pictures.json": Pictures,
        "trials/*/trial.json": TrialFile, "trials/*/metrics.json": RunMetrics,
    }  # fmt: skip
    for pattern, kind in kinds.items():
        files = sorted(random_sweep.glob(pattern))
        assert files, pattern
        assert [line for file in files for line in unlike(read_json(file), kind, file.name)] == []


def code_of(config: str) -> list[str]:
    return [line for line in config.splitlines() if not line.startswith("#")]


def test_the_table_and_the_winner(random_sweep: Path, rows: Rows) -> None:
    table = rows(random_sweep)
    assert set(table) == {"baseline", "t0001", "t0002", "t0003"}
    assert {row["status"] for row in table.values()} == {"finished"}
    assert {(row["iterations"], row["seed"]) for row in table.values()} == {("12", "2")}
    scores = [float(row["mIoU"]) for row in table.values()]
    assert scores == sorted(scores, reverse=True)
    stuck = {name for name, row in table.items() if "one class" in row["note"]}  # no gain is computed for these
    for name, row in table.items():
        gain = row["gain"]
        assert gain == "" if name == "baseline" or stuck & {name, "baseline"} else abs(
            float(gain) - (float(row["mIoU"]) - float(table["baseline"]["mIoU"]))
        ) < 1e-3  # fmt: skip
    winner = random_sweep / "trials" / next(iter(table))
    assert (random_sweep / "best.pth").read_bytes() == (winner / "student.pth").read_bytes()
    best, student = (
        (folder / name).read_text() for folder, name in ((random_sweep, "best.py"), (winner, "student.py"))
    )
    assert code_of(best) == code_of(student)  # each names its own files in its comments


def test_swept_values_are_the_effective_ones(random_sweep: Path, rows: Rows, trial_json: TrialJson) -> None:
    for name, row in rows(random_sweep).items():
        record = trial_json(random_sweep, name)
        if name == "baseline":
            assert record["values"] == {} and (row[WEIGHT], row[PAIR]) == ("", "")
            continue
        assert 1.0 <= record["values"][WEIGHT] <= 100.0
        assert float(row[WEIGHT]) == record["effective"][WEIGHT] == record["values"][WEIGHT]
        assert json.loads(row[PAIR]) == record["effective"][PAIR] == record["values"][PAIR]
    assert len({row[WEIGHT] for row in rows(random_sweep).values()}) == 4


def test_all_trials_begin_alike(random_sweep: Path) -> None:
    """One seed: the students differ by what was swept, and not by their data or weights."""
    configs = {(random_sweep / "trials" / name / "trial.py").read_text() for name in ("t0001", "t0002", "t0003")}
    assert len(configs) == 3
    for text in configs:
        assert "randomness = dict(seed=2)" in text


def test_nothing_is_written_elsewhere(random_sweep: Path, sandbox: Sandbox) -> None:
    assert list(sandbox.cwd.iterdir()) == []
    written = [str(file.relative_to(sandbox.home)) for file in sandbox.home.rglob("*") if file.is_file()]
    assert written == []
    assert sorted(file.name for file in random_sweep.iterdir()) == [
        ".lock",  # held by a start at work; its file stays
        "best.pth",
        "best.py",
        "cost.json",
        "logs",
        "model_card.md",
        "pictures",
        "results.csv",
        "step.json",
        "study.json",
        "summary.json",
        "teacher.json",
        "trials",
        "tune",
    ]
    assert not list((sandbox.root / "t").glob("rdistill-*"))


def test_it_drew_images_for_its_report(random_sweep: Path, sandbox: Sandbox, rows: Rows) -> None:
    """The photograph, the labels, the teacher, the best, the baseline (if it has left one class), the difference."""
    drawn = json.loads((random_sweep / "pictures" / "pictures.json").read_text())
    assert [entry["which"] for entry in drawn["chosen"]] == ["worst", "median", "best"]
    sandbox.run("report", random_sweep, "--out", sandbox.root / "report.html")
    each = 5 if "one class" in rows(random_sweep)["baseline"]["note"] else 6
    assert (sandbox.root / "report.html").read_text().count("<img src=") == 3 * each


@pytest.mark.slow
def test_the_same_seed_gives_the_same_sweep(
    random_sweep: Path, random_file: Path, sandbox: Sandbox, small: list[object], rows: Rows
) -> None:
    work_dir = sandbox.root / "b"
    sandbox.run("sweep", random_file, "--work-dir", work_dir, *small, "--iters", 12)
    assert without_times(rows(work_dir)) == without_times(rows(random_sweep))


def test_a_trial_repeated_from_its_config(
    random_sweep: Path, sandbox: Sandbox, state_equal: Callable[[Any, Any], bool], rows: Rows
) -> None:
    """To the last bit, from any directory and without any option."""
    trial = random_sweep / "trials" / "t0001"
    sandbox.run("train", trial / "trial.py", "--work-dir", sandbox.root / "again")
    first, second = (
        torch.load(folder / "student.pth", weights_only=True)["state_dict"]
        for folder in (trial, sandbox.root / "again")
    )
    assert state_equal(first, second)
    metrics = json.loads((sandbox.root / "again" / "metrics.json").read_text())
    row = rows(random_sweep)["t0001"]
    assert (metrics["mIoU"], metrics["best_iter"], metrics["teacher_mIoU"]) == (
        float(row["mIoU"]), int(row["best_iter"]), float(row["teacher_mIoU"]),
    )  # fmt: skip


# ---------------------------------------------------------------------------------------------------------
# Searchers and schedulers


def test_asha_stops_trials_but_not_the_baseline(
    sandbox: Sandbox, tiny: Tiny, small: list[object], rows: Rows, trial_json: TrialJson
) -> None:
    # One at a time, so that whom ASHA stops does not depend on who is faster.
    file = sandbox.sweep_file(
        "asha",
        {
            "config": str(tiny.folder / "distill.py"),
            "space": {WEIGHT: {"type": "loguniform", "low": 1.0, "high": 100.0}},
            "search": {"type": "optuna", "num_trials": 6, "seed": 1},
            "scheduler": {"type": "asha", "grace_period": 2, "reduction_factor": 2},
            "trial": {"max_concurrent": 1},
        },
    )
    work_dir = sandbox.root / "asha"
    sandbox.run("sweep", file, "--work-dir", work_dir, *small, "--iters", 6)
    table = rows(work_dir)
    baseline = table.pop("baseline")
    assert (baseline["status"], baseline["iterations"]) == ("finished", "6")
    assert len(table) == 6 and {row["status"] for row in table.values()} == {"finished", "stopped"}
    for name, row in table.items():
        stopped = row["status"] == "stopped"
        assert (int(row["iterations"]) < 6) == stopped
        assert (work_dir / "trials" / name / "student.pth").is_file() != stopped
        assert row["mIoU"] and trial_json(work_dir, name)["reason"] == ""


@pytest.fixture(scope="module")
def grid_sweep(sandbox: Sandbox, tiny: Tiny, small: list[object]) -> Path:
    """Half of its points diverge."""
    space = {
        PAIR: {"type": "pairs", "pairs": [[0, 0], [2, 1]]},
        RATE: {"type": "choice", "values": [0.03, ABSURD]},
    }
    content = {"config": str(tiny.folder / "distill.py"), "space": space, "search": {"type": "grid"}}
    work_dir = sandbox.root / "grid"
    sandbox.run("sweep", sandbox.sweep_file("grid", content), "--work-dir", work_dir, *small, "--iters", 4)
    return work_dir


def test_a_grid_has_every_point_once(grid_sweep: Path, trial_json: TrialJson) -> None:
    values = [trial_json(grid_sweep, f"t000{number}")["values"] for number in range(1, 5)]
    points = [([0, 0], 0.03), ([0, 0], ABSURD), ([2, 1], 0.03), ([2, 1], ABSURD)]
    assert sorted((value[PAIR], value[RATE]) for value in values) == points
    assert len(list((grid_sweep / "trials").iterdir())) == 5


def test_a_diverged_trial_fails_alone(grid_sweep: Path, rows: Rows) -> None:
    table = rows(grid_sweep)
    assert table["baseline"]["status"] == "finished"
    for name, row in table.items():
        diverged = name != "baseline" and float(row[RATE]) == ABSURD
        assert row["status"] == ("failed" if diverged else "finished")
        assert row["note"].startswith("iteration 2: " if diverged else ("", "predicts"))
        assert ("is not finite" in row["note"]) == diverged
    assert [row["status"] for row in table.values()] == ["finished"] * 3 + ["failed"] * 2


def test_when_all_trials_fail(sandbox: Sandbox, tiny: Tiny, small: list[object], rows: Rows) -> None:
    content = {
        "config": str(tiny.folder / "distill.py"),
        "space": {WEIGHT: {"type": "choice", "values": [1.0]}},
        "search": {"type": "grid"},
    }
    work_dir = sandbox.root / "fails"
    file = sandbox.sweep_file("fails", content)
    done = sandbox.run(
        "sweep", file, "--work-dir", work_dir, *small, "--iters", 4, "--set", f"{RATE}={ABSURD}", status=1
    )
    assert "no trial has a score: iteration 2: " in done.stderr.splitlines()[-1]
    assert {row["status"] for row in rows(work_dir).values()} == {"failed"}
    assert not (work_dir / "best.pth").exists()


# ---------------------------------------------------------------------------------------------------------
# Killed and resumed


def records(work_dir: Path) -> Iterator[dict[str, Any]]:
    for file in sorted((work_dir / "trials").glob("*/trial.json")):
        yield json.loads(file.read_text())


@pytest.mark.slow
def test_killed_and_resumed(
    random_sweep: Path, random_file: Path, sandbox: Sandbox, small: list[object], rows: Rows
) -> None:
    """Ends as the sweep that nobody killed, also with another number of trials at a time."""
    work_dir = sandbox.root / "k"
    one_at_a_time = {**yaml.safe_load(random_file.read_text()), "trial": {"max_concurrent": 1}}
    file = sandbox.sweep_file("killed", one_at_a_time)
    arguments = ["sweep", file, "--work-dir", work_dir, *small, "--iters", 12]
    with sandbox.start(*arguments) as driver:
        waited_until = time.monotonic() + TIMEOUT_S
        while not any(record["status"] == "finished" for record in records(work_dir)):
            assert driver.poll() is None and time.monotonic() < waited_until, driver.communicate()
            time.sleep(0.01)
        driver.send_signal(signal.SIGKILL)
        driver.communicate()
    assert driver.returncode == -signal.SIGKILL and not (work_dir / "results.csv").exists()
    time.sleep(5)  # the trials' own processes notice, and end
    before = {record["id"]: record for record in records(work_dir)}
    done_before = [name for name, record in before.items() if record["status"] == "finished"]
    assert done_before and len(done_before) < 4
    times = {name: (work_dir / "trials" / name / "student.pth").stat().st_mtime_ns for name in done_before}

    refused = sandbox.run(*arguments, status=2)
    assert (
        refused.stderr
        == f"error: {work_dir}: holds a sweep already; pass --resume to continue it, or another --work-dir\n"
    )

    sandbox.run(*arguments, "--resume")
    assert without_times(rows(work_dir)) == without_times(rows(random_sweep))
    for name in done_before:
        folder = work_dir / "trials" / name
        assert (folder / "student.pth").stat().st_mtime_ns == times[name]
        assert json.loads((folder / "trial.json").read_text()) == before[name]


# ---------------------------------------------------------------------------------------------------------
# Mistakes


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"space": {"distill.losses.logits.wieght": {"type": "choice", "values": [1]}}}, "logits.wieght"),
        ({"space": {PAIR: {"type": "pairs", "pairs": [[0, 9]]}}}, "teacher feature index 9"),
        ({"config": "nowhere.py"}, "config: no such file nowhere.py"),
        ({"trial": {"cpus_per_worker": 999}}, "one trial takes 999 CPU (the cluster has"),
    ],
    ids=["unknown key", "pair out of range", "missing config", "too many CPUs"],
)
def test_a_mistake_is_one_line_before_any_trial(
    sandbox: Sandbox, tiny: Tiny, small: list[object], changes: dict[str, Any], message: str
) -> None:
    content = {
        "config": str(tiny.folder / "distill.py"),
        "space": {WEIGHT: {"type": "choice", "values": [1.0, 2.0]}},
        "search": {"type": "grid"},
        **changes,
    }
    work_dir = sandbox.root / "mistake"
    done = sandbox.run("sweep", sandbox.sweep_file("mistake", content), "--work-dir", work_dir, *small, status=2)
    assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1 and message in done.stderr
    assert not work_dir.exists() or list(work_dir.iterdir()) == []

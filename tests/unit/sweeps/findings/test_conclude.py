"""The end of a sweep: whose student is handed over, and what is written where no trial has a score."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from rdistill.core.storage import open_work_dir
from rdistill.schemas.summary import Arm, Confirmed, EqualCostArm
from rdistill.sweeps.findings.conclude import SweepFailedError, conclude, winner
from rdistill.sweeps.study.records import CONFIRMED, EQUAL_COST, TRIALS, TrialRecord


def record(name: str, score: float | None, phase: str = "", of: str = "", **more: Any) -> TrialRecord:
    history = [] if score is None else [{"iter": 10, "seconds": 1.0, "mIoU": score}]
    seed = int(name.rpartition("-s")[2]) if of else 0
    return TrialRecord(name, {}, seed, phase, of, history=history, **{"status": "finished", **more})


def again(name: str, scores: dict[int, float]) -> list[TrialRecord]:
    return [record(f"{name}-s{seed}", score, CONFIRMED, name) for seed, score in scores.items()]


def arm(name: str, mean: float | None, *seeds: int, **more: Any) -> Arm:
    return {"id": name, "mean": mean, "runs": {str(seed): f"{name}-s{seed}" for seed in seeds}, **more}  # type: ignore[typeddict-item]


SEARCHED = [record("baseline", 60.0), record("t0001", 90.0), record("t0002", 80.0)]
RUNS = [
    *again("baseline", {1: 60.0, 2: 61.0}),
    *again("t0001", {1: 70.0, 2: 71.0}),
    *again("t0002", {1: 75.0, 2: 73.0}),
]


def confirmed(baseline: Arm | None, *configurations: Arm) -> Confirmed:
    return {"baseline": baseline, "configurations": list(configurations)}


def test_of_a_search_alone_it_is_the_highest_score_on_one_seed() -> None:
    assert winner(SEARCHED, None).id == "t0001"
    assert winner([*SEARCHED, *again("t0002", {1: 99.0})], None).id == "t0001"  # nothing says what it proves


def test_of_a_confirmation_it_is_the_best_run_of_the_highest_mean() -> None:
    evidence = confirmed(arm("baseline", 60.5, 1, 2), arm("t0001", 70.5, 1, 2), arm("t0002", 74.0, 1, 2))
    assert winner([*SEARCHED, *RUNS], evidence).id == "t0002-s1"


def test_it_may_be_the_student_alone() -> None:
    evidence = confirmed(arm("baseline", 75.0, 1, 2), arm("t0001", 70.5, 1, 2))
    assert winner([*SEARCHED, *RUNS], evidence).id == "baseline-s2"


def test_it_may_be_the_student_alone_of_equal_cost() -> None:
    longer: EqualCostArm = {"id": "baseline", "mean": 76.0, "runs": {"1": "baseline-as-t0002-s1"}, "iterations": 15}
    evidence = confirmed(arm("baseline", 60.5, 1, 2), arm("t0002", 74.0, 1, 2, equal_cost=longer))
    alone = record("baseline-as-t0002-s1", 76.0, EQUAL_COST, "baseline", rival="t0002", iterations=15)
    assert winner([*SEARCHED, *RUNS, alone], evidence).id == "baseline-as-t0002-s1"


def test_a_run_that_failed_is_not_handed_over() -> None:
    failed = record("t0002-s3", 99.0, CONFIRMED, "t0002", status="failed")
    evidence = confirmed(None, arm("t0002", 74.0, 1, 2, 3))
    assert winner([*SEARCHED, *RUNS, failed], evidence).id == "t0002-s1"


def test_a_summary_of_an_older_version_does_not_name_the_runs() -> None:
    evidence = confirmed(None, {"id": "t0002", "mean": 74.0})
    assert winner([*SEARCHED, *RUNS], evidence).id == "t0002-s1"


def test_a_confirmation_without_scores_leaves_the_search() -> None:
    evidence = confirmed(arm("baseline", None), arm("t0001", None), arm("t0002", None))
    assert winner(SEARCHED, evidence).id == "t0001"


def test_a_sweep_without_any_score_says_why_and_leaves_its_table(tmp_path: Path) -> None:
    for each in (
        record("baseline", None, status="failed", reason="loss is not finite"),
        record("t0001", None, status="failed", reason="out of memory"),
    ):
        each.save(tmp_path / TRIALS / each.id)
    (tmp_path / TRIALS / "baseline" / "error.txt").write_text("Traceback")
    last_words = rf"^no trial has a score: loss is not finite \(baseline; see {tmp_path}/trials/baseline/error.txt\)$"
    with open_work_dir(tmp_path) as here, pytest.raises(SweepFailedError, match=last_words):
        conclude(here, {"confirmed": None, "verdict": "", "warnings": []}, Console(file=io.StringIO()))
    rows = list(csv.DictReader((tmp_path / "results.csv").read_text().splitlines()))
    assert [(row["id"], row["status"], row["note"]) for row in rows] == [
        ("baseline", "failed", "loss is not finite; see trials/baseline/error.txt"),
        ("t0001", "failed", "out of memory"),
    ]
    assert not (tmp_path / "best.pth").exists()

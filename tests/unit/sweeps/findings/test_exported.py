"""Confirmed students as exported files: what is scored when, what is written down, and what a verdict makes of it."""

from __future__ import annotations

import csv
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from conftest import Run, Tiny

from rdistill.core.errors import RunError
from rdistill.handover.export import ExportError
from rdistill.sweeps.findings import exported
from rdistill.sweeps.findings.confirm import PYTORCH, Selection, counts_name, save_selection, scores_getter, select
from rdistill.sweeps.findings.exported import export_and_score, hand_over_file, score_exported, student_file
from rdistill.sweeps.findings.statistics import EvidenceFacts, evidence
from rdistill.sweeps.findings.summary import FINISHED, SweepFacts, write_summary
from rdistill.sweeps.proof.counts import load_counts
from rdistill.sweeps.study.records import CONFIRMED, TRIALS, TrialRecord, load_record, write_table
from rdistill.sweeps.study.spec import ConfirmSpec, SweepSpec

COUNTS = np.full((3, 2, 2), 5)
Task = Callable[..., Any]


def run(name: str, score: float, file: float | None = None, **more: Any) -> TrialRecord:
    """A finished confirmation run, with its score in PyTorch and that of its INT8 file."""
    of, _, seed = name.rpartition("-s")
    shown = None if file is None else {"precision": "int8", "file": student_file("int8"), "val": {"mIoU": file}}
    return TrialRecord(
        name, {}, int(seed), CONFIRMED, of, status="finished", exported=shown,
        history=[{"iter": 4, "seconds": 1.0, "mIoU": score}], **more,
    )  # fmt: skip


@pytest.fixture
def scored(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., int]:
    """Runs ``score_exported`` over some records with a task in place of the export; no Ray."""

    def score(task: Task, *records: TrialRecord, split: str = "val") -> int:
        for record in records:
            record.save(tmp_path / TRIALS / record.id)

        class ScoringCalls:
            def __init__(self, *_: Any) -> None: ...

            def start(self, function: Any, *arguments: Any) -> Callable[[], Any]:
                assert function is exported.export_and_score
                return lambda: task(*arguments)

        monkeypatch.setattr(exported, "ScoringCalls", ScoringCalls)
        monkeypatch.setattr(exported, "ray", SimpleNamespace(get=lambda call: call()))
        return score_exported(None, None, tmp_path, "int8", split=split)  # type: ignore[arg-type]

    return score


def good(name: str, of: str, split: str, earlier: Any) -> Any:
    return {**(earlier or {}), "precision": "int8", split: {"mIoU": 50.0}}, {split: (COUNTS, ["a", "b", "c"])}


def test_what_is_scored_is_kept_and_not_scored_again(scored: Callable[..., int], tmp_path: Path) -> None:
    asked: list[str] = []

    def task(name: str, *more: Any) -> Any:
        asked.append(name)
        return good(name, *more)

    assert scored(task, run("t0001-s1", 60.0), run("t0001-s2", 60.0, file=55.0)) == 1
    assert asked == ["t0001-s1"]
    record = load_record(tmp_path / TRIALS / "t0001-s1")
    assert record is not None and record.exported == {"precision": "int8", "val": {"mIoU": 50.0}}
    counts = load_counts(tmp_path / TRIALS / "t0001-s1", counts_name("int8", "val"))
    assert counts is not None and (counts == COUNTS).all()
    assert load_counts(tmp_path / TRIALS / "t0001-s1", "val") is None  # that name is PyTorch's
    assert scored(task) == 0 and asked == ["t0001-s1"]
    assert scored(task, split="test") == 2 and sorted(asked[1:]) == ["t0001-s1", "t0001-s2"]


def test_a_student_that_cannot_be_exported_has_its_reason(scored: Callable[..., int], tmp_path: Path) -> None:
    def task(name: str, *more: Any) -> Any:
        if name == "t0001-s1":
            raise ExportError("a.onnx: not written: trace: no such operator", ["trace: no such operator"])
        return good(name, *more)

    records = [run("t0001-s1", 60.0), run("t0001-s2", 60.0)]
    assert scored(task, *records) == 2
    record = load_record(tmp_path / TRIALS / "t0001-s1")
    assert record is not None and record.exported is not None
    assert record.exported["problem"] == "a.onnx: not written: trace: no such operator"
    assert scored(task) == 0  # it would not be another time either


def test_what_a_machine_did_is_tried_again(scored: Callable[..., int], tmp_path: Path) -> None:
    def task(name: str, *more: Any) -> Any:
        if name == "t0001-s1":
            raise OSError("no space left on device")
        return good(name, *more)

    with pytest.raises(RunError, match=r"t0001-s1: its int8 file was not scored: .*no space.*; --resume goes on"):
        scored(task, run("t0001-s1", 60.0), run("t0001-s2", 60.0))
    others = load_record(tmp_path / TRIALS / "t0001-s2")
    assert others is not None and others.exported is not None  # what was scored is not lost
    assert scored(good) == 1


def test_a_file_that_was_lost_is_written_again_and_keeps_no_score_of_the_lost_one(
    tiny: Tiny, distilled_run: Run, tmp_path: Path
) -> None:
    """Between the validation images and the test split: it is scored on both, as nobody knows that it is the same."""
    pytest.importorskip("onnxruntime")
    folder = tmp_path / TRIALS / "t0001-s1"
    folder.mkdir(parents=True)
    shutil.copy(distilled_run.folder / "student.pth", folder)
    cfg = tiny.load("distill")
    cfg.test_dataloader, cfg.test_evaluator, cfg.test_cfg = cfg.val_dataloader, cfg.val_evaluator, cfg.val_cfg
    cfg.dump(str(folder / "trial.py"))
    study: Any = SimpleNamespace(base=SimpleNamespace(cfg=cfg), work_dir=str(tmp_path))
    first, counted = export_and_score(study, "t0001-s1", "onnx", "val", None)
    assert list(counted) == ["val"] and 0 < first["val"]["mIoU"] < 100
    there, counted = export_and_score(study, "t0001-s1", "onnx", "test", {**first, "val": {"mIoU": 1.0, "aAcc": 1.0}})
    assert list(counted) == ["test"] and there["val"]["mIoU"] == 1.0 and there["test"] == first["val"]
    (folder / student_file("onnx")).unlink()
    lost, counted = export_and_score(study, "t0001-s1", "onnx", "test", {**first, "val": {"mIoU": 1.0, "aAcc": 1.0}})
    assert list(counted) == ["val", "test"] and lost["val"] == lost["test"] == first["val"]
    assert (folder / student_file("onnx")).is_file()
    assert all(counts is not None and len(counts) == len(images) > 0 for counts, images in counted.values())


# What is made of the scores ------------------------------------------------------------------------------------------

RUNS = [
    run("baseline-s1", 60.0, 59.0), run("baseline-s2", 62.0, 60.0), run("t0001-s1", 70.0, 62.0),
    run("t0001-s2", 72.0, 61.0),
]  # fmt: skip


def test_the_evidence_is_of_the_files_with_pytorchs_scores_beside_it() -> None:
    """Files: 3 and 1 points between, mean 2; in PyTorch 10 on both seeds."""
    known = EvidenceFacts(never_trained=(), in_pytorch=scores_getter(PYTORCH))
    content = evidence(RUNS, "baseline", ["t0001"], 80.0, scores_getter("int8"), known)
    (entry,), base = content["configurations"], content["baseline"]
    assert base is not None and (entry["mean"], base["mean"]) == (61.5, 59.5)
    assert entry["difference"] is not None and entry["difference"]["mean"] == pytest.approx(2.0)
    assert entry["pytorch"]["mean"] == 71.0 and base["pytorch"]["mean"] == 61.0
    assert entry["pytorch"]["difference"] is not None and entry["pytorch"]["difference"]["mean"] == 10.0
    plain = evidence(RUNS, "baseline", ["t0001"], 80.0)
    assert plain["configurations"][0]["mean"] == 71.0 and "pytorch" not in plain["configurations"][0]


def test_table_summary_and_verdict(tmp_path: Path) -> None:
    problem = run("t0001-s3", 70.0)
    problem.exported = {"precision": "int8", "problem": "no exporter manages it"}
    records = [TrialRecord("baseline", {}, 0, status="finished", history=[{"iter": 4, "seconds": 1.0, "mIoU": 60.0}]),
               *RUNS, run("baseline-s3", 61.0, 60.0), problem]  # fmt: skip
    for record in records:
        record.save(tmp_path / TRIALS / record.id)
    save_selection(tmp_path, Selection("baseline", ["t0001"], [1, 2, 3], of="int8"))
    with open(write_table(tmp_path, records), newline="") as file:
        rows = {row["id"]: row for row in csv.DictReader(file)}
    assert (rows["t0001-s1"]["mIoU"], rows["t0001-s1"]["exported_as"]) == ("70.0", "int8")
    assert (rows["t0001-s1"]["exported_mIoU"], rows["baseline"]["exported_mIoU"]) == ("62.0", "")
    spec = SweepSpec(
        config="a.py", space={"distill.losses.a.weight": {"type": "uniform", "low": 1, "high": 2}},
        search={"num_trials": 1}, confirm={"seeds": [1, 2, 3], "of": "int8"},
    )  # fmt: skip
    summary = write_summary(SweepFacts(spec, 1, 1, 4, [{"mIoU": 80.0}], 1), tmp_path, FINISHED)
    assert summary["confirmed"] is not None and summary["confirmed"]["of"] == "int8"
    assert summary["verdict"].startswith("At equal iterations, both as INT8 files, as configured is ")
    assert "In PyTorch its mIoU is 71.00, the difference +10.00." in summary["verdict"]
    assert "t0001-s3 has no file and is left out of its pairs: no exporter manages it" in summary["warnings"]
    (entry,) = summary["confirmed"]["configurations"]
    assert entry["difference"] is not None and entry["difference"]["n"] == 2


def test_runs_without_a_score_of_their_file_are_still_to_come(tmp_path: Path) -> None:
    records = [TrialRecord("baseline", {}, 0, status="finished", history=[{"iter": 4, "seconds": 1.0, "mIoU": 60.0}]),
               *RUNS[:3], run("t0001-s2", 72.0)]  # fmt: skip
    for record in records:
        record.save(tmp_path / TRIALS / record.id)
    save_selection(tmp_path, Selection("baseline", ["t0001"], [1, 2], of="int8"))
    spec = SweepSpec(
        config="a.py", space={"distill.losses.a.weight": {"type": "uniform", "low": 1, "high": 2}},
        search={"num_trials": 1}, confirm={"seeds": [1, 2], "of": "int8"},
    )  # fmt: skip
    summary = write_summary(SweepFacts(spec, 1, 1, 4, [{"mIoU": 80.0}], 1), tmp_path, FINISHED)
    assert summary["verdict"] == "Not confirmed yet: 1 more run on fresh seeds to come."


def test_what_is_confirmed_is_chosen_once() -> None:
    assert select([], ConfirmSpec(seeds=[1, 2], of="fp16"), ["mIoU"]).of == "fp16"
    assert select([], ConfirmSpec(seeds=[1, 2]), ["mIoU"]).of == PYTORCH


def test_the_winners_file_is_handed_over(tmp_path: Path) -> None:
    best = run("t0001-s1", 70.0, 62.0)
    assert hand_over_file(tmp_path, best, "int8") == ""  # its file is gone
    folder = tmp_path / TRIALS / best.id
    folder.mkdir(parents=True)
    (folder / student_file("int8")).write_bytes(b"a file")
    assert hand_over_file(tmp_path, best, "int8") == "best.int8.onnx"
    assert (tmp_path / "best.int8.onnx").read_bytes() == b"a file"
    assert (tmp_path / "best.int8.onnx.json").is_file()
    assert hand_over_file(tmp_path, run("t0001-s1", 70.0), "int8") == ""

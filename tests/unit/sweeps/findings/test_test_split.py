"""Which config has a test split, who is scored on it, and that each student is scored once."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from confirmed_runs import record, runs
from mmengine.config import Config

from rdistill.core.files import read_json, write_json
from rdistill.sweeps.findings import test_split
from rdistill.sweeps.proof.counts import load_counts
from rdistill.sweeps.study.records import TRIALS, load_record

DATA = {"type": "BaseSegDataset", "data_root": "a"}


def config(**more: Any) -> Config:
    return Config({"val_dataloader": {"dataset": DATA}, "test_dataloader": {"dataset": {**DATA, "data_root": "b"}},
                   "test_evaluator": {"type": "IoUMetric"}, **more})  # fmt: skip


def test_a_test_split_is_other_data_with_an_evaluator() -> None:
    assert test_split.has_test_split(config())
    assert not test_split.has_test_split(config(test_dataloader={"dataset": DATA}))
    assert not test_split.has_test_split(config(test_evaluator=None))
    assert not test_split.has_test_split(Config({"val_dataloader": {"dataset": DATA}}))


class ScoringCalls:
    """Stands for the cohorts: what is scored is its name and split, and each image's counts where it has any."""

    counts: dict[str, np.ndarray | None]
    scored: list[tuple[str, str]]

    def __init__(self, *_: Any) -> None: ...

    def start(self, function: Any, *arguments: Any) -> Any:
        if function is test_split._score_teacher:
            self.scored.append(("teacher", "test"))
            return {"mIoU": 80.0}
        self.scored.append(arguments)  # type: ignore[arg-type]
        counts = self.counts.get(arguments[0], np.full((2, 3, 3), 7))
        return {"mIoU": 50.0}, counts, ["a.png", "b.png"]


@pytest.fixture
def study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Two confirmed runs of which one has a score, one that failed, and one of the search."""
    ScoringCalls.scored, ScoringCalls.counts = [], {}
    monkeypatch.setattr(test_split, "ScoringCalls", ScoringCalls)
    monkeypatch.setattr(test_split.ray, "get", lambda reference: reference)
    first, second = runs("t0001", {1: 70.0, 2: 71.0})
    second.test = {"mIoU": 1.0}
    failed = record("t0001-s3", 60.0, seed=3, status="failed")
    for each in (first, second, failed, record("t0002", 60.0)):
        each.save(tmp_path / TRIALS / each.id)
    teachers = [SimpleNamespace(follows_student=False)]
    return SimpleNamespace(base=SimpleNamespace(distillation=SimpleNamespace(teachers=teachers)))


def test_each_confirmed_student_and_the_teacher_are_scored_once(study: Any, tmp_path: Path) -> None:
    assert test_split.teacher_on_test(tmp_path) is None
    for _ in range(2):
        test_split.score_on_test(study, None, tmp_path)  # type: ignore[arg-type]
        assert ScoringCalls.scored == [("teacher", "test"), ("t0001-s1", "test")]
    assert read_json(tmp_path / test_split.TEACHER_FILE) == test_split.teacher_on_test(tmp_path) == {"mIoU": 80.0}
    scores = {name: load_record(tmp_path / TRIALS / name).test for name in ("t0001-s1", "t0001-s2", "t0001-s3")}  # type: ignore[union-attr]
    assert scores == {"t0001-s1": {"mIoU": 50.0}, "t0001-s2": {"mIoU": 1.0}, "t0001-s3": None}
    assert load_counts(tmp_path / TRIALS / "t0001-s1", "test") is not None


def test_a_teacher_that_follows_the_student_has_no_score_of_its_own(study: Any, tmp_path: Path) -> None:
    study.base.distillation.teachers[0].follows_student = True
    test_split.score_on_test(study, None, tmp_path)  # type: ignore[arg-type]
    assert ("teacher", "test") not in ScoringCalls.scored and test_split.teacher_on_test(tmp_path) is None


def test_counts_of_each_validation_image_are_kept_or_the_reason_is_said(study: Any, tmp_path: Path) -> None:
    ScoringCalls.counts = {"t0001-s2": None}
    for scored in (["t0001-s1", "t0001-s2"], ["t0001-s2"]):  # those that have counts are not counted again
        ScoringCalls.scored.clear()
        reason = test_split.count_on_validation(study, None, tmp_path)  # type: ignore[arg-type]
        assert reason == "val_evaluator has no IoUMetric, which counts each image's pixels"
        assert ScoringCalls.scored == [(name, "val") for name in scored]
    ScoringCalls.counts = {}
    assert test_split.count_on_validation(study, None, tmp_path) == ""  # type: ignore[arg-type]


def test_a_student_that_cannot_be_counted_costs_no_sweep(
    study: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def lost(reference: Any) -> Any:
        raise ValueError("no such file")

    monkeypatch.setattr(test_split.ray, "get", lost)
    reason = test_split.count_on_validation(study, None, tmp_path)  # type: ignore[arg-type]
    assert reason == "t0001-s1: ValueError: no such file"


def test_a_score_of_an_earlier_start_is_read(tmp_path: Path) -> None:
    write_json(tmp_path / test_split.TEACHER_FILE, {"mIoU": 79.0})
    assert test_split.teacher_on_test(tmp_path) == {"mIoU": 79.0}

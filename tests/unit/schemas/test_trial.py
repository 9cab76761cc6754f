"""The type of ``trial.json`` and the class that writes it have the same keys."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path

from typed_files import unlike

from rdistill.core.files import read_json
from rdistill.schemas.trial import TrialFile
from rdistill.sweeps.study.records import RECORD, TrialRecord


def test_the_file_has_the_fields_of_the_record() -> None:
    assert list(TrialFile.__annotations__) == [field.name for field in fields(TrialRecord)]


def test_a_record_as_it_is_written(tmp_path: Path) -> None:
    record = TrialRecord(
        "t0001", {"distill.losses.logits.weight": 3.0}, 0, iterations=20, objectives={"params": 1e6}, teacher_mIoU=None,
        history=[{"iter": 10, "seconds": 2.0, "mIoU": 50.0, "aAcc": 90.0, "IoU": {"disc": None}}],
        losses=[{"iter": 1, "loss": 0.5}], cost={"steps": 10.0}, test={"mIoU": 49.0},
    )  # fmt: skip
    record.save(tmp_path)
    assert unlike(read_json(tmp_path / RECORD), TrialFile) == []

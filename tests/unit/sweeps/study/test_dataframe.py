"""A sweep's table as a data frame: every column of its own type, and texts as they were."""

from __future__ import annotations

import math
from pathlib import Path

import pandas
import pytest
from confirmed_runs import WEIGHT, record

from rdistill.core.errors import UserError
from rdistill.sweeps.study.dataframe import results_frame
from rdistill.sweeps.study.records import TRIALS

PAIR = "distill.losses.hidden.pair"


def test_texts_are_as_they_were_before_the_table_kept_them_from_being_formulas(tmp_path: Path) -> None:
    values = {"a": "=cmd|' /C calc'!A0", "+b": -1.5, "c": "-1.5", "d": "@SUM(A1)", "e": [math.nan, -1], "f": "plain"}
    failed = record("t0001", 50.0, values=values, status="failed", reason="-> it broke")
    failed.save(tmp_path / TRIALS / "t0001")
    frame = results_frame(tmp_path)
    assert frame["a"][0] == values["a"] and frame["d"][0] == values["d"] and frame["+b"][0] == -1.5
    assert frame["note"][0].startswith("-> it broke")


def test_each_column_has_its_type(tmp_path: Path) -> None:
    for trial in (
        record("baseline", 50.0),
        record("t0001", 60.0, values={WEIGHT: 3.0, PAIR: [0, 2]}, seed=3, teacher_mIoU=80.0),
        record("t0002", None, values={WEIGHT: 4.0, PAIR: None}, status="failed"),
    ):
        trial.save(tmp_path / TRIALS / trial.id)
    frame = results_frame(tmp_path)
    assert list(frame["id"]) == ["t0001", "baseline", "t0002"]
    types = {
        name: str(frame[name].dtype) for name in ("id", "status", "best_iter", "seed", "mIoU", "gain", WEIGHT, PAIR)
    }
    assert types == {
        "id": "string", "status": "string", "best_iter": "Int64", "seed": "Int64", "mIoU": "float64",
        "gain": "float64", WEIGHT: "float64", PAIR: "object",
    }  # fmt: skip
    assert frame[PAIR][0] == [0, 2] and frame[PAIR][1] is None and frame["note"][0] == ""
    assert frame["best_iter"][0] == 10 and frame["best_iter"][2] is pandas.NA
    assert frame["IoU disc"][0] == 30.0 and math.isnan(frame["mIoU"][2]) and frame["teacher_mIoU"][0] == 80.0


def test_a_folder_without_a_sweep(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=f"{tmp_path}: holds no sweep: there is no trials/ID/trial.json in it"):
        results_frame(tmp_path)

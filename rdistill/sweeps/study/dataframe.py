"""The table of a sweep as a pandas data frame, with a type for each column."""

from __future__ import annotations

import json
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pandas

from rdistill.core.errors import UserError
from rdistill.sweeps.study.records import DIAGNOSED, FORMULA, TRIALS, WEIGHT, load_records, write_table

TEXTS = ("id", "phase", "of", "status", "note")
COUNTS = ("best_iter", "iterations", "seed")


def results_frame(work_dir: Path) -> pandas.DataFrame:
    """The data frame that :func:`rdistill.load_results` returns."""
    records = load_records(work_dir)
    if not records:
        raise UserError(f"{work_dir}: holds no sweep: there is no {TRIALS}/ID/trial.json in it")
    with TemporaryDirectory() as folder:  # the work dir's own results.csv may be older than its records
        frame = pandas.read_csv(write_table(Path(folder), records), dtype={name: "string" for name in TEXTS})
    frame.columns = pandas.Index([_plain(name) for name in frame.columns])
    for name in frame.columns:
        if name in TEXTS:
            frame[name] = frame[name].fillna("").map(_plain).astype("string")
        elif name in COUNTS:
            frame[name] = frame[name].astype("Int64")
        elif frame[name].dtype == object or isinstance(frame[name].dtype, pandas.StringDtype):
            frame[name] = pandas.Series([_value(cell) for cell in frame[name]], index=frame.index, dtype=object)
        elif name.startswith(("IoU ", WEIGHT)) or name in ("mIoU", "gain", "teacher_mIoU", "seconds", *DIAGNOSED):
            frame[name] = frame[name].astype(float)
    return frame


def _value(cell: Any) -> Any:
    """The value of a cell: a swept list or section is JSON in the table, and any other text stays a text."""
    if isinstance(cell, str) and cell[:1] in "[{":
        return json.loads(cell)
    return None if not isinstance(cell, str) else _plain(cell)


def _plain(text: str) -> str:
    """The text without the apostrophe that keeps a spreadsheet from reading it as a formula."""
    return text[1:] if text.startswith("'") and text[1:].startswith(FORMULA) else text

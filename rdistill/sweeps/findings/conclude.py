"""The end of a sweep: its table, its winner, and what it says on the console."""

from __future__ import annotations

import math
import shutil
from collections.abc import Sequence
from pathlib import Path

from mmengine.config import Config
from rich.console import Console

from rdistill.core.errors import RunError
from rdistill.core.files import write_json, written_whole
from rdistill.core.logs import LOGS
from rdistill.core.storage import WorkDir
from rdistill.schemas.run import Scores
from rdistill.schemas.summary import Arm, Confirmed, Summary
from rdistill.sweeps.findings.confirm import FILES, PYTORCH, scores_of
from rdistill.sweeps.findings.print_verdict import print_verdict
from rdistill.sweeps.findings.print_why import print_why
from rdistill.sweeps.monitor.leaderboard import print_leaderboard
from rdistill.sweeps.study.cohort_savings import COST, sweep_cost
from rdistill.sweeps.study.records import (
    TRIALS,
    TrialRecord,
    error_to_read,
    gains,
    load_records,
    ranked,
    write_table,
)
from rdistill.training.model_card import hand_over_sweep


class SweepFailedError(RunError):
    """No trial of a sweep came to a score."""


def _first_reason(work_dir: Path, records: Sequence[TrialRecord]) -> str:
    """Why the first trial that failed did, which one it was, and where more is written."""
    failed = next((record for record in records if record.reason), None)
    if failed is None:
        return "none was scored"
    return f"{failed.reason} ({failed.id}{error_to_read(work_dir, failed.id)})"


def conclude(here: WorkDir, summary: Summary, console: Console) -> list[TrialRecord]:
    """Writes ``results.csv`` and the winner, prints the leaderboard and the verdict. Returns all trials, best first."""
    work_dir, at = here.folder, here.where
    records = load_records(work_dir)
    table = write_table(work_dir, records)
    order = ranked(records)
    if cost := sweep_cost(records):
        write_json(work_dir / COST, cost)
    searched = [record for record in order if record.searched]
    print_leaderboard(console, searched, gains(records))
    if not order or not order[0].best:
        raise SweepFailedError(f"no trial has a score: {_first_reason(work_dir, records)}")
    best = winner(records, summary["confirmed"])
    here.pull(f"{TRIALS}/{best.id}/*")
    _write_best(work_dir, best)
    console.print(f"best      {best.id}: {at}/best.pth with {at}/best.py")
    if (of := (summary["confirmed"] or Confirmed()).get("of", PYTORCH)) != PYTORCH:
        from rdistill.sweeps.findings.exported import hand_over_file

        if name := hand_over_file(work_dir, best, of):
            console.print(f"exported  {best.id}: {at}/{name}, one of the {FILES[of]} that the verdict is about")
    console.print(
        f"all       {at}/{table.name}; each trial in {at}/{TRIALS}/ID, again with `rdistill train .../trial.py`"
    )
    if cost:
        console.print(
            f"cohorts   saved {cost['saved']:.0%} of the trials' time alone, by one teacher for many; {at}/{COST}"
        )
    console.print(f"logs      {at}/{LOGS}: what Ray and its workers had to say")
    print_why(console, summary)
    print_verdict(console, summary)
    return order


def winner(records: Sequence[TrialRecord], confirmed: Confirmed | None) -> TrialRecord:
    """The trial whose student is handed over.

    The best run of the configuration with the highest mean over the confirmation's seeds, which may be a baseline, of
    equal cost too;
    the best of the search where nothing is confirmed.
    """
    arms: list[Arm] = []
    if confirmed is not None:
        baseline = confirmed["baseline"]
        arms = [*([] if baseline is None else [baseline]), *confirmed["configurations"]]
    arms += [cost for arm in arms if (cost := arm.get("equal_cost"))]
    scored = [(mean, arm) for arm in arms if (mean := arm["mean"]) is not None]
    if not scored:
        return ranked(record for record in records if record.searched)[0]
    _, best = max(scored, key=lambda pair: pair[0])
    runs = set((best.get("runs") or {}).values())  # an older version's summary does not name them
    its_own = [record for record in records if record.id in runs or (not runs and record.of == best["id"])]
    finished = ranked(record for record in its_own if record.status == "finished")
    scores = scores_of((confirmed or Confirmed()).get("of", PYTORCH))
    return max(finished, key=lambda record: (scores(record) or Scores()).get("mIoU", -math.inf))


def _write_best(work_dir: Path, best: TrialRecord) -> None:
    folder = work_dir / TRIALS / best.id
    if not (folder / "student.pth").is_file():  # it was stopped while it led: its best checkpoint is there
        from rdistill.training.student_files import write_student

        write_student(Config.fromfile(str(folder / "trial.py")), folder)
    for source, target in (("student.pth", "best.pth"), ("student.py", "best.py")):
        with written_whole(work_dir / target) as partial:
            shutil.copyfile(folder / source, partial)
    hand_over_sweep(work_dir, folder)

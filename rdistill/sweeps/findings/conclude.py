"""The end of a sweep: writes its table and its winner, and prints its results on the console."""

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
from rdistill.sweeps.findings.confirm import FILES, PYTORCH, scores_getter
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
    """No trial of a sweep has a score."""


def _first_reason(work_dir: Path, records: Sequence[TrialRecord]) -> str:
    """The reason of the first failed trial, with the trial's id and the file with its error."""
    failed = next((record for record in records if record.reason), None)
    if failed is None:
        return "none was scored"
    return f"{failed.reason} ({failed.id}{error_to_read(work_dir, failed.id)})"


def conclude(here: WorkDir, summary: Summary, console: Console) -> list[TrialRecord]:
    """Writes ``results.csv`` and the winner, prints the leaderboard and the verdict. Returns all trials, best first."""
    work_dir, location = here.folder, here.where
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
    console.print(f"best      {best.id}: {location}/best.pth with {location}/best.py")
    if (form := (summary["confirmed"] or Confirmed()).get("of", PYTORCH)) != PYTORCH:
        from rdistill.sweeps.findings.exported import hand_over_file

        if name := hand_over_file(work_dir, best, form):
            console.print(f"exported  {best.id}: {location}/{name}, one of the {FILES[form]} that the verdict is about")
    console.print(
        f"all       {location}/{table.name}; each trial in {location}/{TRIALS}/ID, again with "
        "`rdistill train .../trial.py`"
    )
    if cost:
        console.print(
            f"cohorts   saved {cost['saved']:.0%} of the trials' time alone, by one teacher for many; {location}/{COST}"
        )
    console.print(f"logs      {location}/{LOGS}: the output of Ray and its workers")
    print_why(console, summary)
    print_verdict(console, summary)
    return order


def winner(records: Sequence[TrialRecord], confirmed: Confirmed | None) -> TrialRecord:
    """The trial whose student is handed over.

    It is the best run of the arm with the highest mean over the confirmation's seeds. That arm may be a baseline, also
    one at equal cost. If nothing was confirmed, it is the best trial of the search.
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
    runs = set((best.get("runs") or {}).values())  # missing in the summary of an older version
    arm_records = [record for record in records if record.id in runs or (not runs and record.of == best["id"])]
    finished = ranked(record for record in arm_records if record.status == "finished")
    scores = scores_getter((confirmed or Confirmed()).get("of", PYTORCH))
    return max(finished, key=lambda record: (scores(record) or Scores()).get("mIoU", -math.inf))


def _write_best(work_dir: Path, best: TrialRecord) -> None:
    folder = work_dir / TRIALS / best.id
    if not (folder / "student.pth").is_file():  # the scheduler stopped it before the end, so only its checkpoint exists
        from rdistill.training.student_files import write_student

        write_student(Config.fromfile(str(folder / "trial.py")), folder)
    for source, target in (("student.pth", "best.pth"), ("student.py", "best.py")):
        with written_whole(work_dir / target) as partial:
            shutil.copyfile(folder / source, partial)
    hand_over_sweep(work_dir, folder)

"""What a sweep leaves on disk: one record a trial, one table of all. Needs neither torch nor ray."""

from __future__ import annotations

import csv
import io
import json
import math
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from rdistill.core.files import read_json, to_json, write_whole
from rdistill.core.one_class import never_left_one_class
from rdistill.schemas.exported import ExportedStudent
from rdistill.schemas.mappings import ConfigValues
from rdistill.schemas.run import Scores
from rdistill.schemas.store import VIEWS
from rdistill.schemas.trial import TrialConfig, TrialEntry
from rdistill.sweeps.study.seconds import SECONDS, training_seconds

BASELINE = "baseline"  # id of the baseline as the config has it; those that were searched are b0001 and on
SEARCHED, CONFIRMED = "search", "confirm"  # phases of a trial, besides BASELINE
PREFIX = {SEARCHED: "t", BASELINE: "b"}  # begins the ids that a searcher gives; read back by `trains_alone`
EQUAL_COST = "equal-cost"  # the phase of a confirmation's baselines that train as long as a distilled student took
CONFIRMING = (CONFIRMED, EQUAL_COST)  # phases after the search
STUDY = "study.json"  # a file of the work dir: the sweep file and the config
RECORD = "trial.json"
ERROR = "error.txt"  # a file in a failed trial's folder: the error and where it was raised, line by line
PROGRESS = "progress"  # a file in a running trial's folder: the iteration that it has come to
TRIALS = "trials"
FORMULA = ("=", "+", "-", "@", "\t", "\r")  # how a text begins that a spreadsheet takes for a formula
WEIGHT = "weight/"  # how a table's column of a measured weight begins; the loss's name follows

# Columns that only diagnosed runs, as those of a confirmation are, have figures in: of their last validation.
DIAGNOSED = (
    "agreement", "errors_repeated", "errors_to_learn", "gradient_ratio", "gradient_cosine",
    "teacher_calibration_error",
)  # fmt: skip

# What a record may be: `running` in a table means that its process is gone and --resume continues it.
STATUSES = ("finished", "stopped", "failed", "running")
OVER = ("finished", "stopped")  # statuses of a trial that no resume, and no grown sweep, trains again


@dataclass
class TrialRecord:
    """One trial, as its own process writes it down at every validation."""

    id: str
    values: ConfigValues  # what the searcher chose
    seed: int
    # SEARCHED, BASELINE (a student alone, searched or not), CONFIRMED or EQUAL_COST; by default as the id says
    phase: str = ""
    of: str = ""  # the id of the trial whose configuration a confirmation run repeats
    attempts: int = 0  # processes that have worked on it, each from where the last one stopped
    status: str = "running"
    reason: str = ""  # why it failed: one line
    cause: str = ""  # what failed: 'machine', 'storage' or 'own'; see rdistill.sweeps.trial.faults
    effective: ConfigValues = field(default_factory=dict)  # read back from the built model and losses
    history: list[TrialEntry] = field(default_factory=list)  # a validation: iter, seconds, mIoU, IoU by class
    losses: list[dict[str, float]] = field(default_factory=list)  # now and then: iter, each loss raw and weighted
    teacher_mIoU: float | None = None
    # What training took: `steps` and their seconds. In a cohort also own_seconds, its share in teacher_seconds and
    # data_seconds, and what these would have been alone. See rdistill.sweeps.study.seconds.
    cost: dict[str, float] = field(default_factory=dict)
    iterations: int | None = None  # length of its training, where it is another one than the config's
    rival: str = ""  # a baseline of equal cost has the id of the trial whose configuration cost as much
    objectives: dict[str, float] = field(default_factory=dict)  # those known before training
    test: Scores | None = None  # scores on the test split; of confirmation runs, once
    exported: ExportedStudent | None = None  # a confirmation run has it where the exported file is what is confirmed

    def used(self, key: str) -> Any:
        """What it really used at a config key; what the searcher chose where it failed before that was known."""
        return self.effective.get(key, self.values.get(key))

    def __post_init__(self) -> None:
        self.phase = self.phase or (BASELINE if self.is_baseline else SEARCHED)

    @property
    def configuration(self) -> str:
        """The id of the trial whose configuration this is: its own, or that of the one it repeats."""
        return self.of or self.id

    @property
    def is_baseline(self) -> bool:
        """Whether it trains the student alone."""
        return trains_alone(self.id, self.phase, self.of)

    @property
    def searched(self) -> bool:
        """Whether it is of the search, a baseline of it included; not of what comes after it."""
        return self.phase not in CONFIRMING

    @property
    def best(self) -> TrialEntry:
        """The validation with the highest mIoU; empty before the first."""
        return max(self.history, key=lambda entry: _number(entry.get("mIoU")), default=TrialEntry())

    @property
    def weights(self) -> dict[str, float]:
        """The losses' weights that were measured, by name, as of the best validation."""
        return dict(self.best.get("weights") or {})

    def save(self, folder: Path) -> None:
        """Writes the record, whole or not at all. A line for each field: one for each number takes twice the bytes."""
        folder.mkdir(parents=True, exist_ok=True)
        fields = ",\n ".join(f"{to_json(name)}: {to_json(value)}" for name, value in asdict(self).items())
        write_whole(folder / RECORD, f"{{\n {fields}\n}}\n")


def trial(
    trial_id: str, phase: str, seed: int, values: Mapping[str, Any], of: str = "", *, iterations: int | None = None,
    rival: str = "",
) -> TrialConfig:  # fmt: skip
    """One trial as Tune has it in its config, and a record starts from."""
    config: TrialConfig = {"id": trial_id, "phase": phase, "of": of, "seed": seed, "values": dict(values)}
    if iterations is not None:
        config["iterations"], config["rival"] = iterations, rival
    return config


def trains_alone(trial_id: str, phase: str, of: str) -> bool:
    """Whether a trial is a baseline, as its phase says, or repeats one, as the id of the trial that it repeats says.

    The oldest records have no phase: there the trial's own id says it.
    """
    if phase in (BASELINE, SEARCHED):
        return phase == BASELINE
    return re.fullmatch(rf"{BASELINE}|{PREFIX[BASELINE]}\d+", of or trial_id) is not None


def error_to_read(work_dir: Path, trial_id: str, *, from_inside: bool = False) -> str:
    """``'; see WORK_DIR/trials/t0001/error.txt'`` of a trial whose error was written down, else nothing.

    ``from_inside``: the path as from the sweep's folder, for files of it that are read elsewhere too.
    """
    file = work_dir / TRIALS / trial_id / ERROR
    return f"; see {file.relative_to(work_dir) if from_inside else file}" if file.is_file() else ""


def load_record(folder: Path) -> TrialRecord | None:
    """The record in a trial's folder, or None where there is none yet.

    Raises:
        DamagedFileError: it cannot be read.
    """
    file = folder / RECORD
    fix = f"copy it from a backup, or remove the folder {folder} to go on without this trial"
    if not file.is_file():
        return None
    content = read_json(file, fix)
    for key in ("history", "losses"):  # NaN, which JSON lacks, was written as null
        content[key] = [_with_nan(entry) for entry in content.get(key) or []]
    return TrialRecord(**content)


def _with_nan(entry: Mapping[str, object]) -> dict[str, object]:
    return {name: math.nan if value is None else value for name, value in entry.items()}


def load_records(work_dir: Path) -> list[TrialRecord]:
    """All records of a sweep: the baseline first, then in the order of their ids."""
    folders = sorted((work_dir / TRIALS).glob("*/")) if (work_dir / TRIALS).is_dir() else []
    records = [record for folder in folders if (record := load_record(folder)) is not None]
    return sorted(records, key=lambda record: (not record.is_baseline, record.id))


def never_trained(records: Iterable[TrialRecord]) -> frozenset[str]:
    """Ids of those that never left one class; those of the search and those after it each among themselves."""
    records = list(records)
    groups = ([record for record in records if record.searched is of_search] for of_search in (True, False))
    return frozenset().union(*(never_left_one_class({record.id: record.best for record in group}) for group in groups))


def ranked(records: Iterable[TrialRecord]) -> list[TrialRecord]:
    """Best mIoU first; trials without a score last."""
    return sorted(records, key=lambda record: -_number(record.best.get("mIoU")))


def gain(record: TrialRecord, records: Iterable[TrialRecord]) -> float | None:
    """mIoU of a trial minus that of its baseline; None while either is unknown, and for baselines themselves.

    The baseline of a trial of the search is the best one; of a confirmation run, the one of the same seed and of as
    many iterations.
    """
    return gains([*records, record])[record.id]


def gains(records: Sequence[TrialRecord]) -> dict[str, float | None]:
    """The :func:`gain` of each, by id; None also where one of the two never left one class.

    Of a confirmation both runs have to be finished: two that have come as far as a kill let them are no pair.
    """
    counted = [record for record in records if record.searched or record.status == "finished"]
    stuck = never_trained(counted)
    trained = [record for record in counted if record.best and record.id not in stuck]
    alone: dict[tuple[bool, int], float] = {}  # whether of the confirmation, seed -> mIoU of the best baseline
    for record in trained:
        if record.is_baseline and record.phase != EQUAL_COST:
            of = (record.phase == CONFIRMED, record.seed)
            alone[of] = max(float(record.best["mIoU"]), alone.get(of, -math.inf))
    gains_by_id: dict[str, float | None] = {record.id: None for record in records}
    for record in trained:
        rival = alone.get((record.phase == CONFIRMED, record.seed))
        if not record.is_baseline and rival is not None:
            gains_by_id[record.id] = float(record.best["mIoU"]) - rival
    return gains_by_id


def gains_at_equal_cost(records: Sequence[TrialRecord]) -> dict[str, float]:
    """mIoU of a confirmation run minus that of the student alone on the same seed that cost as much, by id.

    Both have to be finished: a run that is not has cost less so far.
    """
    records = [record for record in records if record.status == "finished"]
    stuck = never_trained(records)
    trained = [record for record in records if record.best and record.id not in stuck]
    alone = {(record.rival, record.seed): float(record.best["mIoU"]) for record in trained if record.rival}
    return {
        record.id: float(record.best["mIoU"]) - alone[record.of, record.seed]
        for record in trained
        if record.phase == CONFIRMED and (record.of, record.seed) in alone
    }


def pareto(records: Sequence[TrialRecord], objectives: Sequence[str]) -> list[str]:
    """Ids of those trials that no other beats in all objectives: mIoU counts upward, costs downward."""

    def costs(record: TrialRecord) -> tuple[float, ...]:
        return tuple(
            -_number(record.best.get("mIoU")) if name == "mIoU" else float(record.objectives.get(name, math.inf))
            for name in objectives
        )

    points = {record.id: costs(record) for record in records if record.best}
    front: dict[str, tuple[float, ...]] = {}
    for name, own in sorted(points.items(), key=lambda item: item[1]):  # what beats a point comes before it
        if not any(point != own and all(a <= b for a, b in zip(point, own, strict=True)) for point in front.values()):
            front[name] = own
    return [name for name in points if name in front]


def twins(records: Iterable[TrialRecord]) -> list[tuple[str, str]]:
    """Trials with different values but the same losses: their values cannot have had an effect."""
    seen: dict[str, TrialRecord] = {}
    pairs = []
    for record in records:
        if not record.losses:
            continue
        # Two different trainings do not agree in every loss to the last digit.
        print_of_losses = json.dumps([_only_total(entry) for entry in record.losses[:3]])
        first = seen.setdefault(print_of_losses, record)
        if first is not record and _differ(first, record):
            pairs.append((first.id, record.id))
    return pairs


def _differ(first: TrialRecord, second: TrialRecord) -> bool:
    """Whether two trials were given different values.

    What the config says already and a search sets once more is no difference: there, what was read back decides.
    """
    keys = first.values.keys() | second.values.keys()
    used = [{**record.effective, **record.values} for record in (first, second)]
    return any(_cell(used[0].get(key)) != _cell(used[1].get(key)) for key in keys)


def write_table(work_dir: Path, records: list[TrialRecord]) -> Path:
    """Writes ``results.csv``: a row a trial, best first."""
    keys = sorted({key for record in records for key in record.values})
    if VIEWS not in keys and any(VIEWS in record.effective for record in records):
        keys.append(VIEWS)  # what a student has seen, also where nobody searched it
    classes = list(dict.fromkeys(name for record in records for name in (record.best.get("IoU") or {})))
    weights = measured_names(records)
    costs = list(dict.fromkeys(name for record in records for name in record.objectives))
    twin_of = {second: first for first, second in twins(records)}
    stuck = never_trained(records)
    differences, at_equal_cost = gains(records), gains_at_equal_cost(records)
    files = any(record.exported for record in records)
    spent = {record.id: training_seconds(record) for record in records}
    rows = []
    for record in ranked(records):
        best = record.best
        difference = differences[record.id]
        rows.append(
            {
                "id": record.id,
                "phase": record.phase,
                "of": record.of,
                "status": record.status,
                **{key: _cell(record.used(key)) for key in keys},
                **{WEIGHT + name: record.weights.get(name) for name in weights},
                "mIoU": best.get("mIoU"),
                "gain": None if difference is None else round(difference, 4),
                "gain_equal_cost": round(at_equal_cost[record.id], 4) if record.id in at_equal_cost else None,
                **(_of_the_file(record) if files else {}),
                **{f"IoU {name}": (best.get("IoU") or {}).get(name) for name in classes},
                **{name: record.objectives.get(name) for name in costs},
                "best_iter": best.get("iter"),
                "iterations": record.history[-1]["iter"] if record.history else 0,
                "seconds": record.history[-1]["seconds"] if record.history else None,
                **{f"seconds_{name}": _rounded(getattr(spent[record.id], name, None)) for name in SECONDS},
                "seed": record.seed,
                "attempts": record.attempts,
                "teacher_mIoU": record.teacher_mIoU,
                **{name: _last_diagnosis(record).get(name) for name in DIAGNOSED},
                "note": "; ".join(notes_of(record, twin_of, stuck, work_dir)),
            }
        )
    path = work_dir / "results.csv"
    table = io.StringIO()
    writer = csv.writer(table)
    writer.writerow([_text(name) for name in (rows[0] if rows else ["id"])])
    writer.writerows([_text(value) for value in row.values()] for row in rows)
    write_whole(path, table.getvalue())
    return path


def _of_the_file(record: TrialRecord) -> Mapping[str, Any]:
    """Columns of a sweep that confirms the exported file: ``mIoU`` beside them is PyTorch's."""
    exported = record.exported or {}
    return {"exported_as": exported.get("precision"), "exported_mIoU": (exported.get("val") or {}).get("mIoU")}


def measured_names(records: Iterable[TrialRecord]) -> list[str]:
    """The losses whose weight was measured in some trial, in the order of the trials."""
    return list(dict.fromkeys(name for record in records for name in record.weights))


def notes_of(record: TrialRecord, twin_of: Mapping[str, str], stuck: Collection[str], work_dir: Path) -> list[str]:
    """What a reader of a table should know of a trial.

    Args:
        record: of the trial.
        twin_of: see :func:`twins`, the second to the first.
        stuck: ids of those that never left one class.
        work_dir: the sweep's; a failed trial's note names the file in it that has its error.
    """
    notes = [record.reason + error_to_read(work_dir, record.id, from_inside=True)] if record.reason else []
    if record.id in stuck:
        notes.append("never left one class")
    if record.id in twin_of:
        notes.append(f"same losses as {twin_of[record.id]} in spite of different values")
    return notes


def _last_diagnosis(record: TrialRecord) -> Mapping[str, Any]:
    """The figures of the last validation that has any; see :mod:`rdistill.training.diagnosis`."""
    entries = (entry.get("diagnosis") for entry in reversed(record.history))
    return next((entry for entry in entries if isinstance(entry, Mapping) and "problem" not in entry), {})


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 3)


def _only_total(entry: Mapping[str, float]) -> tuple[float, float]:
    return entry["iter"], entry.get("loss", math.nan)


def _cell(value: Any) -> Any:
    return to_json(value) if isinstance(value, (list, dict, tuple)) else value


def _text(value: Any) -> Any:
    """A text that a spreadsheet would take for a formula gets an apostrophe in front; a number stays one."""
    if not isinstance(value, str) or not value.startswith(FORMULA):
        return value
    try:
        float(value)
    except ValueError:
        return f"'{value}"
    return value


def _number(value: Any) -> float:
    return float(value) if isinstance(value, (int, float)) and not math.isnan(value) else -math.inf

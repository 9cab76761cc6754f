"""The records that a sweep writes: one for each trial, and a table of all. This module needs neither torch nor Ray."""

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

BASELINE = "baseline"  # a phase, and the id of the configured baseline; searched baselines are b0001, b0002, ...
SEARCHED, CONFIRMED = "search", "confirm"  # phases of a trial, besides BASELINE
PREFIX = {SEARCHED: "t", BASELINE: "b"}  # phase -> first letter of the ids of searched trials; see `trains_alone`
EQUAL_COST = "equal-cost"  # the phase of a confirmation's baselines that train for as long as a distilled student
CONFIRMING = (CONFIRMED, EQUAL_COST)  # phases after the search
STUDY = "study.json"  # a file in the work dir, with the sweep file and the config
RECORD = "trial.json"  # a file in a trial's folder, with its record
ERROR = "error.txt"  # a file in a failed trial's folder, with the error's traceback
PROGRESS = "progress"  # a file in a running trial's folder, with the number of its last iteration
TRIALS = "trials"  # a folder in the work dir, with a folder for each trial
FORMULA = ("=", "+", "-", "@", "\t", "\r")  # a spreadsheet reads a text that begins with one of these as a formula
WEIGHT = "weight/"  # a table's column of a measured loss weight is this and the loss's name

# Columns with the diagnosis of a run's last validation; only the runs of a confirmation are diagnosed.
DIAGNOSED = (
    "agreement", "errors_repeated", "errors_to_learn", "gradient_ratio", "gradient_cosine",
    "teacher_calibration_error",
)  # fmt: skip

# The statuses of a trial. After the end of a sweep, `running` means that its process is gone and --resume continues it.
STATUSES = ("finished", "stopped", "failed", "running")
ENDED_STATUSES = ("finished", "stopped")  # statuses of a trial that no resume, and no grown sweep, trains again


@dataclass
class TrialRecord:
    """The record of one trial, which the trial's own process writes at every validation."""

    id: str
    values: ConfigValues  # config key -> value that the searcher chose
    seed: int
    # SEARCHED, BASELINE (a student alone, searched or not), CONFIRMED or EQUAL_COST; by default it follows from the id
    phase: str = ""
    of: str = ""  # the id of the trial whose configuration a confirmation run repeats
    attempts: int = 0  # number of processes that have trained it, each from the last one's checkpoint
    status: str = "running"
    reason: str = ""  # the reason of a failure, in one line
    cause: str = ""  # the cause of a failure: 'machine', 'storage' or 'own'; see rdistill.sweeps.trial.faults
    effective: ConfigValues = field(default_factory=dict)  # values read back from the built model and losses
    history: list[TrialEntry] = field(default_factory=list)  # an entry for each validation
    losses: list[dict[str, float]] = field(default_factory=list)  # entries with iter, and each loss raw and weighted
    teacher_mIoU: float | None = None
    # Cost of the training: `steps` and their seconds. In a cohort also own_seconds, its share in teacher_seconds and
    # data_seconds, and the seconds of these two if it had trained alone. See rdistill.sweeps.study.seconds.
    cost: dict[str, float] = field(default_factory=dict)
    iterations: int | None = None  # length of the training, if it differs from the config's
    rival: str = ""  # a baseline at equal cost has the id of the trial whose configuration took as many seconds
    objectives: dict[str, float] = field(default_factory=dict)  # the objectives that are known before training
    test: Scores | None = None  # scores on the test split; confirmation runs alone have them
    exported: ExportedStudent | None = None  # confirmation runs have it if exported files are compared

    def used(self, key: str) -> Any:
        """The value that the trial used at a config key; the searcher's value if it failed before that was known."""
        return self.effective.get(key, self.values.get(key))

    def __post_init__(self) -> None:
        self.phase = self.phase or (BASELINE if self.is_baseline else SEARCHED)

    @property
    def configuration(self) -> str:
        """The id of the trial that has this configuration in the search: its own, or that of the trial it repeats."""
        return self.of or self.id

    @property
    def is_baseline(self) -> bool:
        """Whether it trains the student alone."""
        return trains_alone(self.id, self.phase, self.of)

    @property
    def searched(self) -> bool:
        """Whether it belongs to the search (baselines included) and not to the confirmation."""
        return self.phase not in CONFIRMING

    @property
    def best(self) -> TrialEntry:
        """The validation with the highest mIoU; empty before the first validation."""
        return max(self.history, key=lambda entry: _number(entry.get("mIoU")), default=TrialEntry())

    @property
    def weights(self) -> dict[str, float]:
        """Loss name -> measured weight at the best validation, for weights that are shares."""
        return dict(self.best.get("weights") or {})

    def save(self, folder: Path) -> None:
        """Writes the record, whole or not at all. It has a line for each field, to keep the file small."""
        folder.mkdir(parents=True, exist_ok=True)
        fields = ",\n ".join(f"{to_json(name)}: {to_json(value)}" for name, value in asdict(self).items())
        write_whole(folder / RECORD, f"{{\n {fields}\n}}\n")


def trial(
    trial_id: str, phase: str, seed: int, values: Mapping[str, Any], of: str = "", *, iterations: int | None = None,
    rival: str = "",
) -> TrialConfig:  # fmt: skip
    """The config of one trial, which Tune passes to the trial function and a record is made from."""
    config: TrialConfig = {"id": trial_id, "phase": phase, "of": of, "seed": seed, "values": dict(values)}
    if iterations is not None:
        config["iterations"], config["rival"] = iterations, rival
    return config


def trains_alone(trial_id: str, phase: str, of: str) -> bool:
    """Whether a trial trains the student alone.

    The phase of a trial in the search says it. For a confirmation run, it follows from the id of the repeated trial
    (``of``). The oldest records have no phase: there it follows from the trial's own id.
    """
    if phase in (BASELINE, SEARCHED):
        return phase == BASELINE
    return re.fullmatch(rf"{BASELINE}|{PREFIX[BASELINE]}\d+", of or trial_id) is not None


def error_to_read(work_dir: Path, trial_id: str, *, from_inside: bool = False) -> str:
    """``'; see WORK_DIR/trials/t0001/error.txt'`` ; an empty text if there is no such file.

    ``from_inside``: a path relative to the sweep's folder, for files of it that are read elsewhere too.
    """
    file = work_dir / TRIALS / trial_id / ERROR
    return f"; see {file.relative_to(work_dir) if from_inside else file}" if file.is_file() else ""


def load_record(folder: Path) -> TrialRecord | None:
    """The record in a trial's folder; None if there is none yet.

    Raises:
        DamagedFileError: the file cannot be read.
    """
    file = folder / RECORD
    fix = f"copy it from a backup, or remove the folder {folder} to go on without this trial"
    if not file.is_file():
        return None
    content = read_json(file, fix)
    for key in ("history", "losses"):  # NaN was written as null, since JSON has no NaN
        content[key] = [_with_nan(entry) for entry in content.get(key) or []]
    return TrialRecord(**content)


def _with_nan(entry: Mapping[str, object]) -> dict[str, object]:
    return {name: math.nan if value is None else value for name, value in entry.items()}


def load_records(work_dir: Path) -> list[TrialRecord]:
    """All records of a sweep: baselines first, then in the order of their ids."""
    folders = sorted((work_dir / TRIALS).glob("*/")) if (work_dir / TRIALS).is_dir() else []
    records = [record for folder in folders if (record := load_record(folder)) is not None]
    return sorted(records, key=lambda record: (not record.is_baseline, record.id))


def never_trained(records: Iterable[TrialRecord]) -> frozenset[str]:
    """Ids of trials that never left one class. Trials of the search and those of the confirmation are judged apart."""
    records = list(records)
    groups = ([record for record in records if record.searched is searched] for searched in (True, False))
    return frozenset().union(*(never_left_one_class({record.id: record.best for record in group}) for group in groups))


def ranked(records: Iterable[TrialRecord]) -> list[TrialRecord]:
    """The trials with the best mIoU first; trials without a score come last."""
    return sorted(records, key=lambda record: -_number(record.best.get("mIoU")))


def gain(record: TrialRecord, records: Iterable[TrialRecord]) -> float | None:
    """mIoU of a trial minus that of its baseline; None while one of the two is unknown, and for baselines.

    A trial of the search is compared with the best baseline. A confirmation run is compared with the baseline of the
    same seed and the same number of iterations.
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
    """Ids of the trials on the Pareto front. mIoU is maximised, all other objectives are minimised."""

    def costs(record: TrialRecord) -> tuple[float, ...]:
        return tuple(
            -_number(record.best.get("mIoU")) if name == "mIoU" else float(record.objectives.get(name, math.inf))
            for name in objectives
        )

    points = {record.id: costs(record) for record in records if record.best}
    front: dict[str, tuple[float, ...]] = {}
    for name, own in sorted(points.items(), key=lambda item: item[1]):  # points that dominate another come before it
        if not any(point != own and all(a <= b for a, b in zip(point, own, strict=True)) for point in front.values()):
            front[name] = own
    return [name for name in points if name in front]


def twins(records: Iterable[TrialRecord]) -> list[tuple[str, str]]:
    """Pairs of ids of trials with different values but equal losses: the values cannot have had an effect."""
    seen: dict[str, TrialRecord] = {}
    pairs = []
    for record in records:
        if not record.losses:
            continue
        # Two different trainings do not agree to the last digit in their first losses.
        fingerprint = json.dumps([_only_total(entry) for entry in record.losses[:3]])
        first = seen.setdefault(fingerprint, record)
        if first is not record and _differ(first, record):
            pairs.append((first.id, record.id))
    return pairs


def _differ(first: TrialRecord, second: TrialRecord) -> bool:
    """Whether two trials have different values.

    One of them may have a value from the config that a search has set in the other. So the values that were read back
    from the built model fill in for keys that were not searched.
    """
    keys = first.values.keys() | second.values.keys()
    used = [{**record.effective, **record.values} for record in (first, second)]
    return any(_cell(used[0].get(key)) != _cell(used[1].get(key)) for key in keys)


def write_table(work_dir: Path, records: list[TrialRecord]) -> Path:
    """Writes ``results.csv``, with a row for each trial, best first."""
    keys = sorted({key for record in records for key in record.values})
    if VIEWS not in keys and any(VIEWS in record.effective for record in records):
        keys.append(VIEWS)  # the number of views is shown even if it was not searched
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
                **(_exported_columns(record) if files else {}),
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


def _exported_columns(record: TrialRecord) -> Mapping[str, Any]:
    """The columns about the exported file, if a sweep confirms it; the column ``mIoU`` is that of PyTorch."""
    exported = record.exported or {}
    return {"exported_as": exported.get("precision"), "exported_mIoU": (exported.get("val") or {}).get("mIoU")}


def measured_names(records: Iterable[TrialRecord]) -> list[str]:
    """The losses whose weight was measured in some trial, in the order of the trials."""
    return list(dict.fromkeys(name for record in records for name in record.weights))


def notes_of(record: TrialRecord, twin_of: Mapping[str, str], stuck: Collection[str], work_dir: Path) -> list[str]:
    """Notes for the reader of a table about a trial: its failure, or reasons to doubt its score.

    Args:
        record: the trial's record.
        twin_of: id of the second trial -> id of the first, of the pairs that :func:`twins` returns.
        stuck: ids of the trials that never left one class.
        work_dir: the sweep's folder; the note about a failed trial names the file there with its error.
    """
    notes = [record.reason + error_to_read(work_dir, record.id, from_inside=True)] if record.reason else []
    if record.id in stuck:
        notes.append("never left one class")
    if record.id in twin_of:
        notes.append(f"same losses as {twin_of[record.id]} in spite of different values")
    return notes


def _last_diagnosis(record: TrialRecord) -> Mapping[str, Any]:
    """The diagnosis of the last validation that has one; see :mod:`rdistill.training.diagnosis`."""
    entries = (entry.get("diagnosis") for entry in reversed(record.history))
    return next((entry for entry in entries if isinstance(entry, Mapping) and "problem" not in entry), {})


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 3)


def _only_total(entry: Mapping[str, float]) -> tuple[float, float]:
    return entry["iter"], entry.get("loss", math.nan)


def _cell(value: Any) -> Any:
    return to_json(value) if isinstance(value, (list, dict, tuple)) else value


def _text(value: Any) -> Any:
    """Puts an apostrophe before a text that a spreadsheet would read as a formula; numbers stay as they are."""
    if not isinstance(value, str) or not value.startswith(FORMULA):
        return value
    try:
        float(value)
    except ValueError:
        return f"'{value}"
    return value


def _number(value: Any) -> float:
    return float(value) if isinstance(value, (int, float)) and not math.isnan(value) else -math.inf

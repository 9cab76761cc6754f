"""Reads the files of a sweep or a run, which may be incomplete, damaged, or written by an older version."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar, cast

from rdistill.core.errors import UserError
from rdistill.core.files import DamagedFileError, read_json
from rdistill.schemas.mappings import LogLine, PlainConfig, SweepFile
from rdistill.schemas.pictures import Pictures
from rdistill.schemas.run import IoUScores, RunMetrics
from rdistill.schemas.summary import Arm, Confirmed, Summary
from rdistill.schemas.trial import StudyRecord
from rdistill.sweeps.study.records import BASELINE, RECORD, TRIALS, TrialRecord, never_trained, ranked

IMAGES_FOLDER = "pictures"
Keys = TypeVar("Keys", bound=Mapping[str, object])  # such as a TypedDict


@dataclass(frozen=True)
class Sweep:
    """The content of a sweep's files."""

    folder: Path
    study: StudyRecord  # study.json: the sweep file and the config
    records: list[TrialRecord]  # trials of the search: baselines first, then by id
    confirming: list[TrialRecord]  # runs of the confirmation
    summary: Summary  # summary.json; empty if there is none
    images: Pictures  # pictures/pictures.json
    notes: list[str] = field(default_factory=list)  # lines about files that could not be read

    @property
    def name(self) -> str:
        return self.folder.name

    @property
    def spec(self) -> SweepFile:
        """The sweep file."""
        return mapping(self.study.get("sweep"))

    @property
    def config(self) -> PlainConfig:
        """The config that all trials start from."""
        return mapping(self.study.get("config"))

    @cached_property
    def iterations(self) -> int | None:
        """Iterations (or epochs) of a trial that is not stopped early."""
        train_cfg = mapping(self.config.get("train_cfg"))
        return train_cfg.get("max_iters") or train_cfg.get("max_epochs")

    @cached_property
    def trials(self) -> list[TrialRecord]:
        """Searched students under a teacher."""
        return [record for record in self.records if not is_baseline(record)]

    @cached_property
    def baselines(self) -> list[TrialRecord]:
        """Searched students alone."""
        return [record for record in self.records if is_baseline(record)]

    @cached_property
    def best(self) -> TrialRecord | None:
        """The best searched student under a teacher, by validation mIoU; None before the first score."""
        return _first_scored(self.trials)

    @cached_property
    def chosen(self) -> TrialRecord | None:
        """The trial that the page calls the best: the one in the verdict after a confirmation, else :attr:`best`."""
        name = self.winner.get("id")
        return next((record for record in self.trials if record.id == name and miou(record) is not None), self.best)

    @cached_property
    def baseline(self) -> TrialRecord | None:
        """The best student alone, with which the others are compared."""
        return _first_scored(self.baselines)

    @cached_property
    def never_trained(self) -> frozenset[str]:
        """Ids of the runs that never left one class."""
        return never_trained([*self.records, *self.confirming])

    def difference(self, record: TrialRecord | None, baseline: TrialRecord | None) -> float | None:
        """mIoU of a trial minus that of a baseline; None if one of them has no score or never left one class."""
        if record is None or baseline is None or {record.id, baseline.id} & self.never_trained:
            return None
        score, baseline_score = miou(record), miou(baseline)
        return None if score is None or baseline_score is None else score - baseline_score

    @cached_property
    def teacher_mIoU(self) -> float | None:
        summarized = number(mapping(self.summary.get("teacher")).get("mIoU"))
        recorded = (number(record.teacher_mIoU) for record in self.records)
        return summarized if summarized is not None else next((value for value in recorded if value is not None), None)

    @cached_property
    def confirmed(self) -> Confirmed:
        """The confirmation in summary.json, with the highest mean first; empty if there was none."""
        confirmed = mapping(self.summary.get("confirmed"))
        arms = [mapping(arm) for arm in confirmed.get("configurations") or []]
        arms.sort(key=lambda arm: -(number(arm.get("mean")) or 0.0))
        return (
            {**confirmed, "configurations": arms, "baseline": mapping(confirmed.get("baseline"))} if confirmed else {}
        )

    @cached_property
    def confirmed_baseline(self) -> Arm:
        """The confirmed baseline; empty if there is none."""
        return mapping(self.confirmed.get("baseline"))

    @property
    def winner(self) -> Arm:
        """The configuration in the verdict: the one with the highest mean; empty if nothing was confirmed.

        Configurations with a difference to the student alone come before those without.
        """
        scored = [arm for arm in self.confirmed.get("configurations", []) if number(arm.get("mean")) is not None]
        compared = [arm for arm in scored if number(mapping(arm.get("difference")).get("mean")) is not None]
        return next(iter(compared or scored), Arm())

    @property
    def running(self) -> bool:
        if self.summary.get("status") in (
            "finished",
            "interrupted",
            "failed",
        ):  # what it left amid a trial goes on later
            return False
        return any(record.status == "running" for record in (*self.records, *self.confirming))

    @cached_property
    def keys(self) -> list[str]:
        """The config keys that the search varied, the most used first."""
        listed = list(mapping(self.spec.get("space")))
        seen = {key for record in self.trials for key in record.values}
        return [*[key for key in listed if key in seen or not seen], *sorted(seen.difference(listed))]

    @cached_property
    def classes(self) -> list[str]:
        names = (name for record in (*self.records, *self.confirming) for name in iou(record.best))
        return list(dict.fromkeys([*names, *mapping(mapping(self.summary.get("teacher")).get("IoU"))]))


@dataclass(frozen=True)
class Run:
    """The content of the files of one `rdistill train`."""

    folder: Path
    metrics: RunMetrics  # metrics.json; empty while the run trains
    steps: list[LogLine]  # lines of mmengine's scalars.json with losses
    validations: list[LogLine]  # lines of scalars.json with scores
    notes: list[str] = field(default_factory=list)  # lines about files that could not be read


def load(folder: Path) -> Sweep | Run:
    """Reads the folder of a sweep or of a run.

    Raises:
        UserError: the folder holds neither.
    """
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder; give the --work-dir of a sweep")
    if (folder / "study.json").is_file() or (folder / TRIALS).is_dir():
        return load_sweep(folder)
    if (folder / "metrics.json").is_file() or list(folder.glob("*/vis_data/scalars.json")):
        return _load_run(folder)
    raise UserError(
        f"{folder}: holds neither a sweep (study.json, {TRIALS}/) nor a run (metrics.json); give the --work-dir of one"
    )


def load_sweep(folder: Path) -> Sweep:
    """Reads a sweep's folder; damaged files are left out, with a note.

    Raises:
        UserError: the folder holds no sweep.
    """
    if not (folder / "study.json").is_file() and not (folder / TRIALS).is_dir():
        raise UserError(f"{folder}: holds no sweep (study.json, {TRIALS}/); give the --work-dir of one")
    notes: list[str] = []
    folders = sorted((folder / TRIALS).glob("*/")) if (folder / TRIALS).is_dir() else []
    records = [record for trial_folder in folders if (record := _read_record(trial_folder, notes)) is not None]
    study, summary = (_read_json(folder / name, notes) for name in ("study.json", "summary.json"))
    images = _read_json(folder / IMAGES_FOLDER / "pictures.json", notes)
    records.sort(key=lambda record: (not is_baseline(record), record.id))
    searched = [record for record in records if record.searched]
    confirming = [record for record in records if not record.searched]
    return Sweep(folder, study, searched, confirming, summary, images, notes)


def phase(record: TrialRecord) -> str:
    """'search', 'baseline', 'confirm' or 'equal-cost'; guessed from the id for a record of an older version."""
    return getattr(record, "phase", "") or (BASELINE if record.id == BASELINE else "search")


def is_baseline(record: TrialRecord) -> bool:
    """Whether it trained a student alone."""
    return phase(record) == BASELINE or record.is_baseline


def iou(entry: IoUScores) -> dict[str, float | None]:
    """Class name -> IoU in percent of a validation; None for a class that does not occur."""
    return {str(name): number(value) for name, value in mapping(entry.get("IoU")).items()}


def number(value: Any) -> float | None:
    """The value if it is a finite number; otherwise None."""
    good = isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
    return float(value) if good else None


def share(arm: Arm) -> float | None:
    """mIoU of a confirmed configuration as a fraction of the teacher's; None if it is not known."""
    percent = number(arm.get("share_of_teacher"))
    return None if percent is None else percent / 100


def mapping(value: Keys | None) -> Keys:
    """The value if it is a mapping; an empty mapping if a file has something else in its place, or nothing."""
    return cast(Keys, dict(value) if isinstance(value, Mapping) else {})


def miou(record: TrialRecord | None) -> float | None:
    """A trial's best validation mIoU, in percent."""
    return number(record.best.get("mIoU")) if record is not None else None


def _first_scored(records: list[TrialRecord]) -> TrialRecord | None:
    return next((record for record in ranked(records) if miou(record) is not None), None)


def _read_json(file: Path, notes: list[str]) -> Any:
    """The content of a JSON file; an empty mapping, with a note, if it cannot be read."""
    if not file.is_file():
        return {}
    try:
        return read_json(file, "left out")
    except (OSError, DamagedFileError) as error:
        reason = str(error).removeprefix(f"{file}: ")
        notes.append(f"{file.parent.name}/{file.name} cannot be read: {reason}")
        return {}


def _read_record(folder: Path, notes: list[str]) -> TrialRecord | None:
    """A record of any version: missing fields get their defaults, and unknown fields are ignored."""
    content = _read_json(folder / RECORD, notes)
    if not content:
        return None
    names = {field.name for field in fields(TrialRecord)}
    content = {"id": folder.name, "values": {}, "seed": 0, **{key: content[key] for key in content if key in names}}
    lists = all(
        isinstance(content.get(key, []), list) and all(isinstance(entry, Mapping) for entry in content.get(key, []))
        for key in ("history", "losses")
    )
    if not lists or not isinstance(content["values"], Mapping):
        notes.append(f"{folder.name}/{RECORD} is not a trial's record: left out")
        return None
    return TrialRecord(**content)


def _load_run(folder: Path) -> Run:
    notes: list[str] = []
    metrics = _read_json(folder / "metrics.json", notes)
    entries: list[LogLine] = []
    for file in sorted(folder.glob("*/vis_data/scalars.json")):  # mmengine writes a new one at each resume
        lines = [line for line in file.read_text("utf-8", "replace").splitlines() if line.strip()]
        read = [entry for line in lines if (entry := _line(line))]
        first = min((entry["step"] for entry in read), default=0)
        entries = [entry for entry in entries if entry["step"] < first] + read
    validations = [entry for entry in entries if "mIoU" in entry]
    return Run(folder, metrics, [entry for entry in entries if "loss" in entry], validations, notes)


def _line(text: str) -> LogLine:
    try:
        entry = json.loads(text)
    except ValueError:
        return {}
    return entry if isinstance(entry, dict) and isinstance(entry.get("step"), int) else {}

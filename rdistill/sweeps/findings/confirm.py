"""What a sweep confirms: the best configurations and the best baseline again, on seeds of their own.

Needs neither torch nor ray.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from rdistill.core.files import read_json, write_json
from rdistill.core.results import TrialConfig
from rdistill.sweeps.study.records import (
    BASELINE,
    CONFIRMED,
    SEARCHED,
    TRIALS,
    TrialRecord,
    load_record,
    pareto,
    ranked,
    trial,
)
from rdistill.sweeps.study.spec import ConfirmSpec

SELECTION = "confirm.json"


@dataclass(frozen=True)
class Selection:
    """What is confirmed. Once chosen it stays: a resume must not choose again by what it has seen since."""

    baseline: str | None  # trial id of the best baseline; None where none was scored
    configurations: list[str]  # trial ids of the best others, the best first
    seeds: list[int]

    def runs(self, work_dir: Path) -> list[TrialConfig]:
        """The trials, as Tune takes them: all configurations on the first seed, then on the next."""
        ids = [name for name in (self.baseline, *self.configurations) if name is not None]
        values = {name: _record(work_dir, name).values for name in ids}
        return [trial(f"{name}-s{seed}", CONFIRMED, seed, values[name], of=name) for seed in self.seeds for name in ids]


def select(records: Sequence[TrialRecord], confirm: ConfirmSpec, objectives: Sequence[str]) -> Selection:
    """Chooses by the validation scores of the search: the best baseline, and the best of the others.

    With several objectives those of the Pareto front come first. A configuration that was tried twice counts once.
    """
    scored = [record for record in ranked(records) if record.best]
    baseline = next((record.id for record in scored if record.phase == BASELINE), None)
    searched = [record for record in scored if record.phase == SEARCHED]
    front = pareto(searched, objectives) if len(objectives) > 1 else []
    searched.sort(key=lambda record: record.id not in front)  # stable: by score within
    different: dict[str, str] = {}
    for record in searched:
        different.setdefault(json.dumps(record.values, sort_keys=True), record.id)
    return Selection(baseline, list(different.values())[: confirm.top], list(confirm.seeds))


def load_selection(work_dir: Path) -> Selection | None:
    """What an earlier start of the sweep has chosen, or None."""
    file = work_dir / SELECTION
    return Selection(**read_json(file)) if file.is_file() else None


def save_selection(work_dir: Path, selection: Selection) -> None:
    write_json(work_dir / SELECTION, asdict(selection))


def _record(work_dir: Path, name: str) -> TrialRecord:
    record = load_record(work_dir / TRIALS / name)
    assert record is not None
    return record

"""What finished sweeps over the same keys have found: evaluated points that a search learns from."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

from rdistill.core.differences import differences, refusals
from rdistill.core.errors import UserError
from rdistill.core.files import read_json
from rdistill.core.storage import open_work_dir
from rdistill.core.words import counted
from rdistill.schemas.mappings import PlainConfig
from rdistill.schemas.trial import StudyRecord
from rdistill.sweeps.study.records import RECORD, SEARCHED, STUDY, TRIALS, TrialRecord, load_records
from rdistill.sweeps.study.search_space import Evaluated, SearchSpace
from rdistill.sweeps.study.starts import encoded

# Keys of a config in which two sweeps may differ although their scores can be compared.
NO_TRAINING = ("work_dir", "tracking", "default_hooks", "log_processor", "visualizer", "vis_backends", "log_level")


def earlier_trials(
    folders: Sequence[str], space: SearchSpace, objectives: Sequence[str]
) -> tuple[list[Evaluated], list[str]]:
    """The finished trials of some sweeps, and a line for the user about each sweep.

    Args:
        folders: work dirs, or URIs.
        space: of this search; a trial that lies outside it is left out.
        objectives: of this search.
    """
    trials: list[Evaluated] = []
    notes = []
    for folder in folders:
        with open_work_dir(folder, STUDY, f"{TRIALS}/*/{RECORD}") as there:
            records = [record for record in load_records(there.folder) if _counts(record)]
        inside = [trial for record in records if (trial := _evaluated(record, folder, space, objectives)) is not None]
        trials += inside
        left = len(records) - len(inside)
        outside = f"; {left} more outside the space" if left else ""
        notes.append(f"from      {folder}: {counted(len(inside), 'trial')} known already{outside}")
    return trials, notes


def require_comparable(folders: Sequence[str], study: StudyRecord, may_differ: bool) -> None:
    """Makes sure that scores of earlier sweeps say something about this one.

    Args:
        folders: work dirs, or URIs.
        study: of this sweep, as its ``study.json`` will have it: the keys ``sweep`` and ``config``.
        may_differ: whether teacher, data and schedule need not agree; the swept keys must in any case.

    Raises:
        UserError: naming the folder and what is different.
    """
    problems = []
    for folder in folders:
        where = f"search.from: {folder}"
        with open_work_dir(folder, STUDY, f"{TRIALS}/*/{RECORD}") as there:
            if not (there.folder / STUDY).is_file():
                problems.append(f"{where}: holds no sweep; name the work dir of one that has finished")
                continue
            recorded = read_json(there.folder / STUDY, "leave it out of search.from, or copy it from a backup")
            if not any(_counts(record) for record in load_records(there.folder)):
                problems.append(f"{where}: none of its trials has finished; leave it out")
                continue
        keys, own = set(recorded["sweep"]["space"]), set(study["sweep"]["space"])
        if keys != own:
            alone = [f"{key} only there" for key in sorted(keys - own)] + [
                f"{key} only here" for key in sorted(own - keys)
            ]
            problems.append(f"{where}: has swept other keys: {', '.join(alone)}; leave it out, or sweep the same")
        elif not may_differ:
            changed = _changes(recorded["config"], study["config"], own)
            problems += refusals(where, changed, "leave this other study out, or set search.from_differs: true")
    if problems:
        raise UserError(*problems)


def _changes(earlier: PlainConfig, own: PlainConfig, swept: set[str]) -> list[str]:
    """What differs between two configs, apart from what is swept in both."""
    lines = differences(
        {key: value for key, value in earlier.items() if key not in NO_TRAINING},
        {key: value for key, value in own.items() if key not in NO_TRAINING},
        into_lists=True,
    )
    prefixes = tuple(key.lstrip("+") for key in swept)
    return [line for key, line in lines.items() if not any(_is_at(key, prefix) for prefix in prefixes)]


def _is_at(key: str, prefix: str) -> bool:
    return key == prefix or key.startswith((f"{prefix}.", f"{prefix}["))


def _counts(record: TrialRecord) -> bool:
    """Whether a trial's score is that of a whole training."""
    return record.phase == SEARCHED and record.status == "finished" and bool(record.best)


def _evaluated(record: TrialRecord, folder: str, space: SearchSpace, objectives: Sequence[str]) -> Evaluated | None:
    params, problems = encoded(record.values, space, "", "")
    values = scores_of(record, objectives)
    missing = [key for key in space.in_order() if key not in params and space.holds(key, params)]
    if problems or missing or values is None:
        return None
    return Evaluated(params, tuple(values), f"{Path(folder).name}/{record.id}")


def scores_of(record: TrialRecord, objectives: Sequence[str]) -> list[float] | None:
    """What a trial has come to, in the order of the objectives; None where one of them is not known."""
    scores = {**record.objectives, "mIoU": record.best.get("mIoU")}
    values = [scores.get(name) for name in objectives]
    numbers = [float(value) for value in values if isinstance(value, int | float) and math.isfinite(value)]
    return numbers if len(numbers) == len(values) else None

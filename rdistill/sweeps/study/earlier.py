"""The trials of finished sweeps over the same keys, from which a search learns."""

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
from rdistill.sweeps.study.starts import encode_start

# Keys of a config in which two sweeps may differ although their scores can be compared.
NO_TRAINING = ("work_dir", "tracking", "default_hooks", "log_processor", "visualizer", "vis_backends", "log_level")


def earlier_trials(
    folders: Sequence[str], space: SearchSpace, objectives: Sequence[str]
) -> tuple[list[Evaluated], list[str]]:
    """Loads the finished trials of earlier sweeps.

    Args:
        folders: the sweeps' work dirs or URIs.
        space: the space of this search; a trial outside it is left out.
        objectives: the objectives of this search.

    Returns:
        The trials, and a line for the user about each sweep.
    """
    trials: list[Evaluated] = []
    notes = []
    for folder in folders:
        with open_work_dir(folder, STUDY, f"{TRIALS}/*/{RECORD}") as earlier:
            records = [record for record in load_records(earlier.folder) if _has_full_score(record)]
        inside = [trial for record in records if (trial := _evaluated(record, folder, space, objectives)) is not None]
        trials += inside
        outside = len(records) - len(inside)
        rest = f"; {outside} more outside the space" if outside else ""
        notes.append(f"from      {folder}: {counted(len(inside), 'trial')} known already{rest}")
    return trials, notes


def require_comparable(folders: Sequence[str], study: StudyRecord, may_differ: bool) -> None:
    """Checks that scores of earlier sweeps can be compared with those of this sweep.

    Args:
        folders: the earlier sweeps' work dirs or URIs.
        study: this sweep's record, as ``study.json`` will hold it: the keys ``sweep`` and ``config``.
        may_differ: whether teacher, data and schedule may differ; the swept keys must agree in any case.

    Raises:
        UserError: the message names the folder and the differences.
    """
    problems = []
    for folder in folders:
        where = f"search.from: {folder}"
        with open_work_dir(folder, STUDY, f"{TRIALS}/*/{RECORD}") as earlier:
            if not (earlier.folder / STUDY).is_file():
                problems.append(f"{where}: holds no sweep; name the work dir of one that has finished")
                continue
            recorded = read_json(earlier.folder / STUDY, "leave it out of search.from, or copy it from a backup")
            if not any(_has_full_score(record) for record in load_records(earlier.folder)):
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
    """The differences between two configs, apart from the swept keys."""
    lines = differences(
        {key: value for key, value in earlier.items() if key not in NO_TRAINING},
        {key: value for key, value in own.items() if key not in NO_TRAINING},
        into_lists=True,
    )
    prefixes = tuple(key.lstrip("+") for key in swept)
    return [line for key, line in lines.items() if not any(_is_at(key, prefix) for prefix in prefixes)]


def _is_at(key: str, prefix: str) -> bool:
    return key == prefix or key.startswith((f"{prefix}.", f"{prefix}["))


def _has_full_score(record: TrialRecord) -> bool:
    """Whether a record is of a searched trial that has trained to its end and has a score."""
    return record.phase == SEARCHED and record.status == "finished" and bool(record.best)


def _evaluated(record: TrialRecord, folder: str, space: SearchSpace, objectives: Sequence[str]) -> Evaluated | None:
    params, problems = encode_start(record.values, space, "", "")
    values = scores_of(record, objectives)
    missing = [key for key in space.in_order() if key not in params and space.holds(key, params)]
    if problems or missing or values is None:
        return None
    return Evaluated(params, tuple(values), f"{Path(folder).name}/{record.id}")


def scores_of(record: TrialRecord, objectives: Sequence[str]) -> list[float] | None:
    """A trial's scores, in the order of the objectives; None if one of them is not known."""
    scores = {**record.objectives, "mIoU": record.best.get("mIoU")}
    values = [scores.get(name) for name in objectives]
    numbers = [float(value) for value in values if isinstance(value, int | float) and math.isfinite(value)]
    return numbers if len(numbers) == len(values) else None

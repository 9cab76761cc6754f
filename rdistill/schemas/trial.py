"""One trial of a sweep: its place in Ray Tune's config, and the entries of its record ``trial.json``."""

from __future__ import annotations

from typing import TypedDict

from rdistill.schemas.exported import ExportedStudent
from rdistill.schemas.mappings import ConfigValues, PlainConfig, SweepFile
from rdistill.schemas.run import Scores


class TrialEntry(Scores, total=False):
    """One validation in a trial's record."""

    iter: int
    seconds: float  # time spent in training since the trial began, over all attempts


class TrialFile(TypedDict, total=False):
    """``trial.json``: the fields of :class:`rdistill.sweeps.study.records.TrialRecord`, which says what they are."""

    id: str
    values: ConfigValues
    seed: int
    phase: str
    of: str
    attempts: int
    status: str
    reason: str
    cause: str
    effective: ConfigValues
    history: list[TrialEntry]
    losses: list[dict[str, float]]
    teacher_mIoU: float | None
    cost: dict[str, float]
    iterations: int | None
    rival: str
    objectives: dict[str, float]
    test: Scores | None
    exported: ExportedStudent | None


class StudyRecord(TypedDict, total=False):
    """``study.json``: what a sweep was begun with."""

    sweep: SweepFile
    config: PlainConfig  # that all trials start from
    grown: int  # how often its search was given more to do


class TrialReport(TypedDict, total=False):
    """What Ray Tune gets of a validation and passes on, beside keys of its own and the sweep's other objectives."""

    iter: int
    mIoU: float  # percent, as is the next
    best_mIoU: float  # the best so far
    by_image: list[float]  # mIoU of each image, for a scheduler that compares them


class _TrialConfig(TypedDict):
    id: str
    phase: str
    of: str  # the id of the trial whose configuration a confirmation run repeats
    seed: int
    values: ConfigValues  # those that the searcher chose


class TrialConfig(_TrialConfig, total=False):
    """One trial as Ray Tune has it in its config."""

    iterations: int  # how long its training is, where that is not the config's length
    rival: str  # the id of the trial whose configuration cost as much as this baseline

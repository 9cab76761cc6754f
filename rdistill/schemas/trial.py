"""The types of one trial of a sweep: its config in Ray Tune, and the entries of its record ``trial.json``."""

from __future__ import annotations

from typing import TypedDict

from rdistill.schemas.exported import ExportedStudent
from rdistill.schemas.mappings import ConfigValues, PlainConfig, SweepFile
from rdistill.schemas.run import Scores


class TrialEntry(Scores, total=False):
    """One validation in a trial's record."""

    iter: int
    seconds: float  # seconds of training since the trial started, over all attempts


class TrialFile(TypedDict, total=False):
    """``trial.json``; :class:`rdistill.sweeps.study.records.TrialRecord` explains the keys."""

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
    """``study.json``: the sweep file and the config that a sweep was started with."""

    sweep: SweepFile
    config: PlainConfig  # the config that all trials start from
    grown: int  # how often the search was extended


class TrialReport(TypedDict, total=False):
    """A trial's report to Ray Tune about a validation; Tune adds keys, and there may be further objectives."""

    iter: int
    mIoU: float  # percent
    best_mIoU: float  # best mIoU so far, in percent
    by_image: list[float]  # mIoU of each image, for a scheduler that compares them


class _TrialConfig(TypedDict):
    id: str
    phase: str
    of: str  # the id of the trial whose configuration a confirmation run repeats
    seed: int
    values: ConfigValues  # config key -> value that the searcher chose


class TrialConfig(_TrialConfig, total=False):
    """The config of one trial in Ray Tune."""

    iterations: int  # length of the training, if it differs from the config's
    rival: str  # a baseline at equal cost has the id of the trial whose configuration took as many seconds

"""Selects what a sweep confirms: the best configurations and the best baseline, to train again on fresh seeds.

This module needs neither torch nor Ray.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from rdistill.core.files import read_json, write_json
from rdistill.schemas.run import Scores
from rdistill.schemas.trial import TrialConfig
from rdistill.sweeps.proof.decision import Looks
from rdistill.sweeps.study.records import (
    BASELINE,
    CONFIRMED,
    EQUAL_COST,
    SEARCHED,
    TRIALS,
    TrialRecord,
    load_record,
    pareto,
    ranked,
    trial,
)
from rdistill.sweeps.study.seconds import REAL
from rdistill.sweeps.study.spec import BaselineSpec, ConfirmSpec

SELECTION = "confirm.json"  # a file in the work dir, with the selection
# The form in which students are scored, `confirm.of` in the sweep file: PyTorch's model, or an exported file.
PYTORCH = "pytorch"
PRECISIONS = {"onnx": "float32", "fp16": "fp16", "int8": "int8"}  # other form -> precision of the exported file
FILES = {"onnx": "ONNX files", "fp16": "float16 files", "int8": "INT8 files"}  # other form -> its name in messages


def exported_kind(form: str) -> str:
    """``INT8 files`` if exported files are scored; an empty text if PyTorch's models are."""
    return "" if form == PYTORCH else FILES.get(form, f"{form} files")


def counts_name(form: str, split: str) -> str:
    """The name of the file with each image's counts: ``val``, or ``val_int8`` for exported files."""
    return split if form == PYTORCH else f"{split}_{form}"


def scores_getter(form: str, split: str = "val") -> Callable[[TrialRecord], Scores | None]:
    """A function that returns the scores of a run that the confirmation compares; None for a run without them.

    Args:
        form: ``pytorch``, ``onnx``, ``fp16`` or ``int8``.
        split: ``val`` for the scores of the best validation, or ``test`` for those on the test split.
    """

    def scores(run: TrialRecord) -> Scores | None:
        if form == PYTORCH:
            return run.best if split == "val" else run.test
        exported = run.exported or {}
        return exported.get("val") if split == "val" else exported.get("test")

    return scores


@dataclass(frozen=True)
class Selection:
    """What is confirmed, and how. It is chosen once: a resume must not choose again after it has seen results."""

    baseline: str | None  # trial id of the best baseline; None if no baseline has a score
    configurations: list[str]  # trial ids of the best configurations, the best first
    seeds: list[int]  # all seeds; with looks at the results, the confirmation may end before the last
    cost: str = "iterations"  # what the baselines have in equal number: 'iterations', 'seconds' or 'both'
    seconds: str = REAL  # which seconds count, REAL or ALONE
    first: int = 0  # number of seeds at the first look; 0: there is one look, after the last seed
    margin: float = 0.0  # mIoU by which a configuration has to be better
    chosen_from: int = 1  # number of different configurations with a score; 1 also if all of them are confirmed
    grown: int = 0  # how often seeds were added
    # An entry for each time that seeds were added after a look: [seeds at that look, seeds planned before].
    replanned: list[list[int]] = field(default_factory=list)
    of: str = PYTORCH  # the form that is scored: PYTORCH, or a key of PRECISIONS

    @property
    def at_equal_iterations(self) -> bool:
        return self.baseline is not None and self.cost != "seconds"

    @property
    def at_equal_cost(self) -> bool:
        return self.baseline is not None and self.cost != "iterations"

    @property
    def looks(self) -> Looks:
        """The looks of a confirmation that adds seeds until it is decided."""
        replanned = tuple((at, planned) for at, planned in self.replanned)
        return Looks(self.first, len(self.seeds), self.margin, self.chosen_from, replanned)

    @property
    def questions(self) -> int:
        """Number of differences that are tested."""
        return len(self.configurations) * (self.at_equal_iterations + self.at_equal_cost)

    def runs(self, work_dir: Path, seeds: Sequence[int] | None = None) -> list[TrialConfig]:
        """The trial configs for some seeds (default: all): all arms on the first seed, then on the next."""
        alone = [self.baseline] if self.baseline is not None and self.at_equal_iterations else []
        values = {name: _record(work_dir, name).values for name in (*alone, *self.configurations)}
        return [
            trial(f"{name}-s{seed}", CONFIRMED, seed, values[name], of=name)
            for seed in (self.seeds if seeds is None else seeds)
            for name in values
        ]

    def equal_cost_runs(self, work_dir: Path, seeds: Sequence[int], iterations: Mapping[str, int]) -> list[TrialConfig]:
        """The trial configs of the student alone at equal cost: one for each configuration and seed.

        Args:
            work_dir: the sweep's folder.
            seeds: training seeds.
            iterations: configuration -> number of iterations that the student alone trains in the same time.
        """
        if self.baseline is None:
            return []
        values = _record(work_dir, self.baseline).values
        return [
            trial(
                f"{self.baseline}-as-{name}-s{seed}", EQUAL_COST, seed, values,
                of=self.baseline, rival=name, iterations=iterations[name],
            )
            for seed in seeds
            for name in self.configurations
            if name in iterations
        ]  # fmt: skip


def select(
    records: Sequence[TrialRecord],
    confirm: ConfirmSpec,
    objectives: Sequence[str],
    baseline_spec: BaselineSpec | None = None,
    searched_seed: int = 0,
) -> Selection:
    """Selects the best baseline and the best configurations by the validation scores of the search.

    With several objectives, the trials on the Pareto front come first. A configuration that was tried twice counts
    once.

    Args:
        records: records of the search.
        confirm: the section of the sweep file: how many configurations, on which seeds.
        objectives: the sweep's objectives.
        baseline_spec: says whether the baselines have equal iterations, equal seconds or both; by default iterations.
        searched_seed: the seed of the search, which the confirmation must not use.
    """
    scored = [record for record in ranked(records) if record.best]
    baseline = next((record.id for record in scored if record.phase == BASELINE), None)
    searched = [record for record in scored if record.phase == SEARCHED]
    front = pareto(searched, objectives) if len(objectives) > 1 else []
    searched.sort(
        key=lambda record: record.id not in front
    )  # the sort is stable: within a group, the order is by score
    different: dict[str, str] = {}
    for record in searched:
        different.setdefault(json.dumps(record.values, sort_keys=True), record.id)
    return Selection(
        baseline,
        list(different.values())[: confirm.top],
        confirm.fresh_seeds(searched_seed),
        baseline_spec.cost if baseline_spec is not None else "iterations",
        baseline_spec.seconds if baseline_spec is not None else REAL,
        confirm.first if confirm.seeds is None else 0,
        confirm.margin or 0.0,
        len(different) if len(different) > confirm.top else 1,
        of=confirm.of,
    )


def load_selection(work_dir: Path) -> Selection | None:
    """The selection of an earlier start of the sweep; None if there is none."""
    file = work_dir / SELECTION
    content = read_json(file) if file.is_file() else None
    return Selection(**content) if content else None  # the file is emptied when the search is extended


def with_more_seeds(
    selection: Selection, confirm: ConfirmSpec, searched_seed: int = 0, looked_at: int = 0
) -> Selection:
    """The selection with the seeds that the sweep file has gained since; the same object if there are none.

    Args:
        selection: the selection.
        confirm: the section of the sweep file.
        searched_seed: the seed of the search, which the confirmation must not use.
        looked_at: number of seeds at the last look; 0 before the first look.
    """
    new = [seed for seed in confirm.fresh_seeds(searched_seed) if seed not in selection.seeds]
    if not new:
        return selection
    longer = replace(selection, seeds=[*selection.seeds, *new], grown=selection.grown + 1)
    if selection.first and looked_at:
        longer = replace(longer, replanned=[*selection.replanned, [looked_at, len(selection.seeds)]])
    return longer


def save_selection(work_dir: Path, selection: Selection) -> None:
    write_json(work_dir / SELECTION, asdict(selection))


def _record(work_dir: Path, name: str) -> TrialRecord:
    record = load_record(work_dir / TRIALS / name)
    assert record is not None
    return record

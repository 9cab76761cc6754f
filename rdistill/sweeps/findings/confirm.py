"""What a sweep confirms: the best configurations and the best baseline again, on seeds of their own.

Needs neither torch nor ray.
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

SELECTION = "confirm.json"
PYTORCH = "pytorch"  # what is scored by default: the student itself
PRECISIONS = {"onnx": "float32", "fp16": "fp16", "int8": "int8"}  # what else may be: the file of this precision
FILES = {"onnx": "ONNX files", "fp16": "float16 files", "int8": "INT8 files"}  # what these are called


def files_called(of: str) -> str:
    """``INT8 files``, where exported files are what is confirmed; else nothing."""
    return "" if of == PYTORCH else FILES.get(of, f"{of} files")


def counts_of(of: str, split: str) -> str:
    """The name of each image's counts: ``val``, or ``val_int8`` of the exported files."""
    return split if of == PYTORCH else f"{split}_{of}"


def scores_of(of: str, split: str = "val") -> Callable[[TrialRecord], Scores | None]:
    """What is confirmed of a run: the scores of its best validation, of its exported file, or those on the test split.

    Args:
        of: ``pytorch``, ``onnx``, ``fp16`` or ``int8``.
        split: ``val`` or ``test``.
    """

    def scores(run: TrialRecord) -> Scores | None:
        if of == PYTORCH:
            return run.best if split == "val" else run.test
        exported = run.exported or {}
        return exported.get("val") if split == "val" else exported.get("test")

    return scores


@dataclass(frozen=True)
class Selection:
    """What is confirmed. Once chosen it stays: a resume must not choose again by what it has seen since."""

    baseline: str | None  # trial id of the best baseline; None where none was scored
    configurations: list[str]  # trial ids of the best others, the best first
    seeds: list[int]  # all; with looks at the results between them, not all may be needed
    cost: str = "iterations"  # what the baselines have equal: 'iterations', 'seconds' or 'both'
    seconds: str = REAL  # which count
    first: int = 0  # seeds at the first look at the results; 0: there is one look, after the last seed
    margin: float = 0.0  # mIoU by which a configuration has to be better
    chosen_from: int = 1  # different configurations that were scored; 1 also where all of them are confirmed
    grown: int = 0  # how often it was given more seeds
    # Each time that a confirmation with looks was given more: seeds of the last look before, and how many there were.
    replanned: list[list[int]] = field(default_factory=list)
    of: str = PYTORCH  # what is scored: PYTORCH, or one of PRECISIONS

    @property
    def at_equal_iterations(self) -> bool:
        return self.baseline is not None and self.cost != "seconds"

    @property
    def at_equal_cost(self) -> bool:
        return self.baseline is not None and self.cost != "iterations"

    @property
    def looks(self) -> Looks:
        """At its results, where it adds seeds until it is decided."""
        replanned = tuple((at, planned) for at, planned in self.replanned)
        return Looks(self.first, len(self.seeds), self.margin, self.chosen_from, replanned)

    @property
    def questions(self) -> int:
        """How many differences are looked at."""
        return len(self.configurations) * (self.at_equal_iterations + self.at_equal_cost)

    def runs(self, work_dir: Path, seeds: Sequence[int] | None = None) -> list[TrialConfig]:
        """The trials of some seeds, as Tune takes them: all configurations on the first seed, then on the next."""
        alone = [self.baseline] if self.baseline is not None and self.at_equal_iterations else []
        values = {name: _record(work_dir, name).values for name in (*alone, *self.configurations)}
        return [
            trial(f"{name}-s{seed}", CONFIRMED, seed, values[name], of=name)
            for seed in (self.seeds if seeds is None else seeds)
            for name in values
        ]

    def equal_cost_runs(self, work_dir: Path, seeds: Sequence[int], iterations: Mapping[str, int]) -> list[TrialConfig]:
        """The student alone on some seeds, as Tune takes it, once for each configuration that it costs as much as.

        Args:
            work_dir: of the sweep.
            seeds: of training.
            iterations: configuration -> how many the student alone does in the same time.
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
    """Chooses by the validation scores of the search: the best baseline, and the best of the others.

    With several objectives those of the Pareto front come first. A configuration that was tried twice counts once.

    Args:
        records: of the search.
        confirm: how many, on which seeds.
        objectives: of the sweep.
        baseline_spec: in what the baselines of the confirmation are equal; by default in iterations.
        searched_seed: of the search, which is no seed of the confirmation.
    """
    scored = [record for record in ranked(records) if record.best]
    baseline = next((record.id for record in scored if record.phase == BASELINE), None)
    searched = [record for record in scored if record.phase == SEARCHED]
    front = pareto(searched, objectives) if len(objectives) > 1 else []
    searched.sort(key=lambda record: record.id not in front)  # stable: by score within
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
    """What an earlier start of the sweep has chosen, or None."""
    file = work_dir / SELECTION
    content = read_json(file) if file.is_file() else None
    return Selection(**content) if content else None  # emptied where the search has grown since


def with_more_seeds(
    selection: Selection, confirm: ConfirmSpec, searched_seed: int = 0, looked_at: int = 0
) -> Selection:
    """A selection that is confirmed on the seeds that its sweep was given since it was chosen.

    Args:
        selection: as it was chosen.
        confirm: of the sweep.
        searched_seed: of the search, which is no seed of the confirmation.
        looked_at: seeds of the last look at its results; 0 before the first.
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

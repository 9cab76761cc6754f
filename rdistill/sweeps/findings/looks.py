"""The looks at a confirmation that adds seeds until it is decided. Each look is saved before it has any effect.

The thresholds of :mod:`rdistill.sweeps.proof.sequential` allow one look at each number of seeds. So a confirmation that
was killed after a look goes on with the answers of that look, and does not test the same seeds again.

This module needs neither torch nor Ray.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from rdistill.core.files import read_json, write_json
from rdistill.schemas.summary import (
    Answer,
    Arm,
    Difference,
    Evidence,
    LookDifference,
    LookRecord,
    LooksRecord,
)
from rdistill.sweeps.findings.confirm import Selection, load_selection
from rdistill.sweeps.findings.statistics import question

LOOKS_FILE = "looks.json"  # a file in the work dir, with all looks
CLAIMS = ("better", "worse")


@dataclass(frozen=True)
class Look:
    """The result of one look."""

    seeds: int  # number of seeds, the first ones of the selection
    answers: dict[str, Answer]  # question -> answer
    differences: dict[str, LookDifference]  # question -> mean, low, high and pairs at this look
    over: bool  # whether the confirmation ends with this look

    def as_json(self) -> LookRecord:
        """The look in the form of the file."""
        return {
            "seeds": self.seeds,
            "answers": self.answers,
            "differences": self.differences,
            "over": self.over,
        }


@dataclass(frozen=True)
class LookHistory:
    """All looks so far.

    Attributes:
        looks: the looks, in order.
        reopened_at: number of seeds at the look after which seeds were last added to the sweep file; 0 if none were.
    """

    looks: tuple[Look, ...] = field(default=())
    reopened_at: int = 0

    @property
    def seeds(self) -> int:
        """Number of seeds at the last look; 0 before the first look."""
        return self.looks[-1].seeds if self.looks else 0

    @property
    def over(self) -> bool:
        """Whether no further look is due."""
        return bool(self.looks) and self._ends(self.looks[-1])

    def _ends(self, look: Look) -> bool:
        """Whether a look is the last one. A look with futile answers is not, if seeds were added after it."""
        decided = all(answer in CLAIMS for answer in look.answers.values())
        return look.over and (decided or look.seeds > self.reopened_at)

    @property
    def settled(self) -> dict[str, Answer]:
        """Question -> final answer: claims are final at once, and all other answers after the last look."""
        answers: dict[str, Answer] = {}
        for look in self.looks:
            for name, answer in look.answers.items():
                if answer in CLAIMS or self._ends(look):
                    answers.setdefault(name, answer)
        return answers

    def as_summary(self, selection: Selection) -> LooksRecord:
        """The looks in the form of ``summary.json``."""
        return {
            "seeds": self.seeds,
            "first": selection.first,
            "most": len(selection.seeds),
            "replanned": selection.replanned,
            "margin": selection.margin,
            "over": self.over,
            "each": [look.as_json() for look in self.looks],
        }


def load_looks(work_dir: Path) -> LookHistory:
    file, selection = work_dir / LOOKS_FILE, load_selection(work_dir)
    if not file.is_file():
        return LookHistory()
    replanned = selection.replanned if selection is not None else []
    return LookHistory(tuple(Look(**look) for look in read_json(file)["looks"]), replanned[-1][0] if replanned else 0)


def add_look(work_dir: Path, look: Look) -> LookHistory:
    """Saves a look and returns all looks. Nothing may act on a look before it is saved."""
    before = load_looks(work_dir)
    if look.seeds <= before.seeds:
        raise AssertionError(f"a look at {look.seeds} seeds after one at {before.seeds}")
    looks = LookHistory((*before.looks, look), before.reopened_at)
    write_json(work_dir / LOOKS_FILE, {"looks": [each.as_json() for each in looks.looks]})
    return looks


def take_look(confirmed: Evidence, seeds: int, selection: Selection, settled: Mapping[str, Answer]) -> Look:
    """Takes a look: the answer to each question after a number of seeds.

    Args:
        confirmed: the result of :func:`rdistill.sweeps.findings.statistics.evidence`.
        seeds: number of seeds so far.
        selection: what is confirmed.
        settled: question -> claim of an earlier look.
    """
    differences = _differences(confirmed["configurations"], selection)
    left = len(selection.seeds) - seeds
    answers: dict[str, Answer] = dict(settled)
    for name, difference in differences.items():
        if name in settled:
            continue
        pairs = difference["n"] if difference is not None else 0
        if pairs >= selection.first and difference is not None:
            answers[name] = difference["answer"]
        else:  # too few seeds have a score on both sides; futile if the remaining seeds cannot make them enough
            answers[name] = "open" if pairs + left >= selection.first else "futile"
    if not left:
        answers = {name: "futile" if answer == "open" else answer for name, answer in answers.items()}
    kept: dict[str, LookDifference] = {
        name: {"n": difference["n"], "mean": difference["mean"], "low": difference["low"], "high": difference["high"]}
        for name, difference in differences.items()
        if difference is not None
    }
    return Look(seeds, answers, kept, all(answer != "open" for answer in answers.values()))


def _differences(configurations: Sequence[Arm], selection: Selection) -> dict[str, Difference | None]:
    """Question -> difference; None without enough pairs."""
    differences: dict[str, Difference | None] = {}
    for entry in configurations:
        if selection.at_equal_iterations:
            differences[question(entry["id"], "iterations")] = entry["difference"]
        if "equal_cost" in entry:
            differences[question(entry["id"], "cost")] = entry["equal_cost"]["difference"]
    return differences

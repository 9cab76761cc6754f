"""The looks at a confirmation that adds seeds until it is decided. Each is on disk before anything follows from it.

The thresholds of :mod:`rdistill.sweeps.proof.sequential` allow one look at each number of seeds. A confirmation that
was killed after a look goes on from the answers of that look; it does not look again at the same seeds, whatever has
changed since.

Needs neither torch nor ray.
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

LOOKS_FILE = "looks.json"  # stands in the work dir
CLAIMS = ("better", "worse")


@dataclass(frozen=True)
class Look:
    """What was seen after a number of seeds."""

    seeds: int  # how many of the selection, from the first on
    answers: dict[str, Answer]  # question -> answer
    differences: dict[str, LookDifference]  # question -> mean, low, high and pairs as they were then
    over: bool  # whether the confirmation ends with it

    def as_json(self) -> LookRecord:
        """As the file has it."""
        return {
            "seeds": self.seeds,
            "answers": self.answers,
            "differences": self.differences,
            "over": self.over,
        }


@dataclass(frozen=True)
class LooksSoFar:
    """All looks, in order.

    Attributes:
        reopened_at: seeds of the look after which the confirmation was last given more of them; 0: it was not.
    """

    looks: tuple[Look, ...] = field(default=())
    reopened_at: int = 0

    @property
    def seeds(self) -> int:
        """That were looked at; 0 before the first look."""
        return self.looks[-1].seeds if self.looks else 0

    @property
    def over(self) -> bool:
        return bool(self.looks) and self._ends(self.looks[-1])

    def _ends(self, look: Look) -> bool:
        """Whether it was the last look: one that left nothing but the futile is not, once there are more seeds."""
        decided = all(answer in CLAIMS for answer in look.answers.values())
        return look.over and (decided or look.seeds > self.reopened_at)

    @property
    def settled(self) -> dict[str, Answer]:
        """The claims, which stay whatever later seeds say; after the last look, every answer."""
        answers: dict[str, Answer] = {}
        for look in self.looks:
            for name, answer in look.answers.items():
                if answer in CLAIMS or self._ends(look):
                    answers.setdefault(name, answer)
        return answers

    def shown(self, selection: Selection) -> LooksRecord:
        """For the summary."""
        return {
            "seeds": self.seeds,
            "first": selection.first,
            "most": len(selection.seeds),
            "replanned": selection.replanned,
            "margin": selection.margin,
            "over": self.over,
            "each": [look.as_json() for look in self.looks],
        }


def load_looks(work_dir: Path) -> LooksSoFar:
    file, selection = work_dir / LOOKS_FILE, load_selection(work_dir)
    if not file.is_file():
        return LooksSoFar()
    replanned = selection.replanned if selection is not None else []
    return LooksSoFar(tuple(Look(**look) for look in read_json(file)["looks"]), replanned[-1][0] if replanned else 0)


def add_look(work_dir: Path, look: Look) -> LooksSoFar:
    """Records a look; whoever acts on it must have seen this return."""
    before = load_looks(work_dir)
    if look.seeds <= before.seeds:
        raise AssertionError(f"a look at {look.seeds} seeds after one at {before.seeds}")
    looks = LooksSoFar((*before.looks, look), before.reopened_at)
    write_json(work_dir / LOOKS_FILE, {"looks": [each.as_json() for each in looks.looks]})
    return looks


def look_at(confirmed: Evidence, seeds: int, selection: Selection, settled: Mapping[str, Answer]) -> Look:
    """What the evidence says after some seeds.

    Args:
        confirmed: as :func:`rdistill.sweeps.findings.statistics.evidence` gives it.
        seeds: that it is of.
        selection: what is confirmed.
        settled: claims of earlier looks.
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
        else:  # too few pairs have trained on both sides; and where they cannot become enough, it stays so
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
    """Question -> difference as shown, or None."""
    differences: dict[str, Difference | None] = {}
    for entry in configurations:
        if selection.at_equal_iterations:
            differences[question(entry["id"], "iterations")] = entry["difference"]
        if "equal_cost" in entry:
            differences[question(entry["id"], "cost")] = entry["equal_cost"]["difference"]
    return differences

"""The standing of a sweep: its verdict in a few words with a colour, and what to do next."""

from __future__ import annotations

import math
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from rdistill.report.load import Sweep, mapping, number
from rdistill.report.text import short
from rdistill.schemas.summary import Arm, Difference
from rdistill.sweeps.findings.verdict import chance_in_words, images_leave_open, is_better, is_futile, is_worse

# "futile" is not decided either, and more seeds would very probably not show a gain.
Decided = Literal["better", "worse", "futile", "open"]
UNDECIDED = ("futile", "open")
COLOURS: dict[str, str] = {"better": "best", "worse": "bad"}  # decision -> colour of the theme; others are MUTED
MUTED = "muted"
NOTHING_LEARNED = (
    "Train for longer (`--iters`), or with a higher learning rate or weights for rare classes: too few runs learned "
    "more than one class to be compared, and more seeds would not change that."
)
EDGE = 0.05  # a value in this outer fraction of a range is at its edge


@dataclass(frozen=True)
class Standing:
    """The verdict in a few words."""

    word: str
    colour: str = MUTED  # a name of the theme


@dataclass(frozen=True)
class Step:
    """One thing to do next."""

    text: str
    command: str = ""


def decided(gap: Difference | None) -> Decided | None:
    """The decision about a confirmed difference, by the rule of the verdict; None without a difference."""
    values: Difference = mapping(gap)
    if number(values.get("mean")) is None:
        return None
    if number(values.get("low")) is None or number(values.get("high")) is None:
        return "open"
    values.setdefault("p_adjusted", values.get("p", 0.0))  # an older version adjusted nothing
    if is_better(values):
        return "better"
    return "worse" if is_worse(values) else "futile" if is_futile(values) else "open"


def colour_of(gap: Difference | None) -> str:
    """The theme's colour for the decision about a confirmed difference."""
    return COLOURS.get(decided(gap) or "", MUTED)


def standing(sweep: Sweep) -> Standing:
    """The standing of a sweep, which may still be running."""
    if not sweep.records:
        return Standing("No result yet")
    first, second = answers(sweep.winner)
    if sweep.running or sweep.summary.get("status") == "running":
        return Standing("Still running")
    if sweep.summary.get("status") == "interrupted":
        return Standing("Interrupted")
    if not sweep.confirmed:
        return Standing("Searched, not confirmed")
    if first is None and second is None:
        return Standing("Not confirmed: nothing to compare")
    if "worse" in (first, second):
        if first == "better":
            return Standing("Better at equal iterations, worse at equal cost", "bad")
        return Standing("Worse than the student alone", "bad")
    if first == "better" and second in UNDECIDED:
        return Standing("Better at equal iterations, not decided at equal cost", "best")
    if "better" in (first, second):
        return Standing("Better than the student alone", "best")
    if "open" not in (first, second):
        return Standing("Not decided; more seeds would hardly show a gain")
    return Standing("Not decided")


def answers(arm: Arm) -> tuple[Decided | None, Decided | None]:
    """The decisions about a configuration at equal iterations and at equal cost."""
    return decided(arm.get("difference")), decided(mapping(arm.get("equal_cost")).get("difference"))


def next_steps(sweep: Sweep) -> list[Step]:
    """What to do next, the most useful step first."""
    if sweep.running or not sweep.records:
        return [Step("Wait for its end, then write this page again.", f"rdistill report {_quoted(sweep)}")]
    status = sweep.summary.get("status")
    if status in ("interrupted", "running"):
        return [Step("It was interrupted: let it go on.", _resumed(sweep))]
    steps = _after_confirmation(sweep) if sweep.winner else _after_search(sweep)
    if edges := _at_an_edge(sweep):
        text = f"Widen {', '.join(edges)} and search on: the best lies at the edge of what was searched."
        steps.append(Step(text, _resumed(sweep)))
    return steps


def _after_search(sweep: Sweep) -> list[Step]:
    if sweep.best is None or sweep.best.id in sweep.never_trained:
        return [Step("No student has learned: look at its log and its losses, then at a higher learning rate.")]
    if sweep.confirmed:
        return [Step("Look at the runs that never left one class; then confirm on more seeds.", _resumed(sweep))]
    section = "confirm: {top: 2, seeds: auto}"
    return [Step(f"Confirm it on fresh seeds: write `{section}` into the sweep file and go on.", _resumed(sweep))]


def _after_confirmation(sweep: Sweep) -> list[Step]:
    first, second = answers(sweep.winner)
    if first is None and second is None:
        return [Step(NOTHING_LEARNED if _one_class_runs(sweep) else "Look at the runs that failed, then go on.")]
    at_iterations = mapping(sweep.winner.get("difference"))
    at_cost = mapping(mapping(sweep.winner.get("equal_cost")).get("difference"))
    if first == "better" and second == "worse":
        return [Step("Train the student alone for longer: for the same cost it gets further than under this teacher.")]
    if "worse" in (first, second):
        return [Step("Use the student alone, or another teacher; `Why` on this page says what is in the way.")]
    if first != "better" and second != "better":
        # More seeds can show a gain where the answer is open, whatever they would do at the other cost.
        use_cost = first is None or (first == "futile" and second == "open")
        return [_to_decide(sweep, at_cost if use_cost else at_iterations)]
    steps = []
    if second in UNDECIDED:
        steps.append(_to_decide(sweep, at_cost))
    if not sweep.summary.get("test"):
        steps.append(Step("Score it once on a test split, whose images have chosen nothing (docs/proof.md)."))
    if (sweep.folder / "best.pth").is_file():
        names = ("best.py", "best.pth", "best.onnx")
        files = [str(sweep.folder / name) for name in names]
        steps.append(Step("Hand it over.", shlex.join(["rdistill", "export", *files])))
    return steps


def _one_class_runs(sweep: Sweep) -> int:
    """The number of confirmed runs, distilled and alone, that never left one class."""
    arms = (sweep.winner, mapping(sweep.confirmed.get("baseline")))
    return sum(int(number(arm.get("one_class_runs")) or 0) for arm in arms)


def _to_decide(sweep: Sweep, gap: Difference) -> Step:
    """The step that may decide an open difference: more seeds, or more images if seeds cannot help."""
    images = gap.get("images")
    if images_leave_open(gap):
        return Step(f"Validate on more images: with {images} of them more seeds would not decide it.")
    looks = mapping(sweep.confirmed.get("looks"))
    most, seeds = number(looks.get("most")), number(gap.get("n"))
    if is_futile(gap):
        reason = f"more seeds would very probably not show a gain ({chance_in_words(gap)})"
        return Step(f"Use the student alone, or change the teacher or the losses: {reason}.")
    if gap.get("answer") == "futile" and most is not None:
        used = seeds is not None and seeds >= most
        reason = (
            f"all {most:.0f} planned seeds are used"
            if used
            else f"that a gain would be shown by seed {most:.0f} had become unlikely, so no more were added"
        )
        return Step(f"Use the student alone, or change the teacher or the losses: {reason}.")
    if images and gap.get("binds") == "images":
        return Step("More validation images would narrow the interval most; then more seeds.", _resumed(sweep))
    return Step(
        "Confirm on more seeds: `confirm: {seeds: auto, max: 16}` adds them until it is decided.", _resumed(sweep)
    )


def _at_an_edge(sweep: Sweep) -> list[str]:
    """Keys whose value in the best trial is at the edge of the searched range."""
    keys = []
    for key, dimension in mapping(sweep.spec.get("space")).items():
        bounds = mapping(dimension)
        low, high = number(bounds.get("low")), number(bounds.get("high"))
        value = number(sweep.chosen.values.get(key)) if sweep.chosen is not None else None
        if low is None or high is None or value is None or low >= high:
            continue
        if bounds.get("type") == "loguniform" and min(low, value) > 0:
            low, high, value = math.log(low), math.log(high), math.log(value)
        if not EDGE < (value - low) / (high - low) < 1 - EDGE:
            keys.append(short(key, sweep.keys))
    return keys


def _quoted(sweep: Sweep) -> str:
    return shlex.quote(str(sweep.folder))


def command_of(sweep: Sweep) -> str:
    """The command that the sweep was started with; an empty text if it is not recorded."""
    summary: Mapping[str, object] = sweep.summary
    command = mapping(sweep.summary.get("environment")).get("command") or summary.get("command")
    return shlex.join(map(str, command)) if isinstance(command, list) else str(command or "")


def _resumed(sweep: Sweep) -> str:
    command = command_of(sweep) or f"rdistill sweep SWEEP.yaml --work-dir {_quoted(sweep)}"
    return command if "--resume" in command.split() else f"{command} --resume"

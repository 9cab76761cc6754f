"""What a sweep says of its confirmation at its end: the table, the warnings, and the verdict last."""

from __future__ import annotations

import io
import re

from rich.console import Console

from rdistill.schemas.summary import Arm, Confirmed, Difference, EqualCostArm, Summary, Tested
from rdistill.sweeps.findings.print_verdict import print_verdict

GAP: Difference = {"n": 3, "mean": 4.1, "low": 2.0, "high": 6.2, "p": 0.01, "p_adjusted": 0.02, "answer": "better"}
SMALL: Difference = {"n": 3, "mean": -0.25, "low": -1.0, "high": 0.5, "p": 0.3, "p_adjusted": 0.31, "answer": "futile"}


def arm(name: str, mean: float | None, **more: object) -> Arm:
    whole: Arm = {"id": name, "label": f"label of {name}", "n": 3, "mean": mean, "sd": 0.5, "share_of_teacher": 90.0}
    return whole | more  # type: ignore[return-value,operator]


def longer(mean: float) -> EqualCostArm:
    return {"id": "baseline", "iterations": 1500, "n": 3, "mean": mean, "sd": 0.4, "difference": SMALL}


def summary(confirmed: Confirmed | None, test: Tested | None = None, warnings: list[str] | None = None) -> Summary:
    return {"confirmed": confirmed, "test": test, "warnings": warnings or [], "verdict": "The answer."}


def printed(content: Summary) -> list[str]:
    """The lines without their padding, each run of spaces as one."""
    text = io.StringIO()
    print_verdict(Console(file=text, width=120, soft_wrap=True, color_system=None), content)
    return [" ".join(line.split()) for line in text.getvalue().splitlines() if line.strip(" ─")]


def test_nothing_confirmed_leaves_warnings_and_the_verdict() -> None:
    lines = printed(summary(None, warnings=["the baseline was not tuned", "t0002 [failed]"]))
    assert lines == ["warning: the baseline was not tuned", "warning: t0002 [failed]", "verdict The answer."]


def test_the_baseline_comes_first_then_the_highest_mean() -> None:
    arms = [arm("t0001", 70.0, difference=None), arm("t0002", 74.1, difference=GAP)]
    lines = printed(summary({"baseline": arm("baseline", 70.0), "configurations": arms}))
    assert lines[:2] == [
        "Confirmed on fresh seeds (validation); differences are paired",
        "trial n mIoU sd difference 95 % interval adj. p % teacher",
    ]
    assert lines[2:5] == [
        "baseline 3 70.00 0.50 90.0",
        "t0002 3 74.10 0.50 +4.10 +2.00 to +6.20 0.02 90.0",
        "t0001 3 70.00 0.50 90.0",
    ]
    # What each is, in the order of the search; a label may hold brackets, which are no markup of the console's.
    assert lines[5:] == ["baseline label of baseline", "t0001 label of t0001", "t0002 label of t0002",
                         "verdict The answer."]  # fmt: skip


def test_runs_that_never_left_one_class_are_counted_apart() -> None:
    stuck = arm("baseline", 50.0, never_trained=[2], mean_trained=70.0, sd_trained=1.25)
    lines = printed(summary({"baseline": stuck, "configurations": []}))
    assert "baseline 2 of 3 70.00 1.25 90.0" in lines


def test_at_equal_cost_each_configuration_has_a_line_below_it() -> None:
    configuration = arm("t0001", 74.1, difference=GAP, equal_cost=longer(74.35))
    content = summary({"baseline": arm("baseline", 70.0), "configurations": [configuration], "seconds": "alone"})
    lines = printed(content)
    at = lines.index("t0001 3 74.10 0.50 +4.10 +2.00 to +6.20 0.02 90.0")
    assert lines[at + 1] == "- 1,500 it. 3 74.35 0.40 -0.25 -1.00 to +0.50 0.31"
    (note,) = (line for line in lines if line.startswith("A line that begins with '-'"))
    assert "(alone seconds)" in note


def test_a_study_without_baseline_and_scores() -> None:
    empty = arm("t0001", None, n=0, sd=None, share_of_teacher=None, difference=None)
    lines = printed(summary({"baseline": None, "configurations": [empty]}))
    assert lines[2] == "t0001" and not any(re.search("None|nan", line) for line in lines)


def test_the_test_split_has_a_table_of_its_own() -> None:
    confirmed: Confirmed = {"baseline": arm("baseline", 70.0), "configurations": [arm("t0001", 74.1, difference=GAP)]}
    test: Tested = {"baseline": arm("baseline", 68.5), "configurations": [arm("t0001", 72.0, difference=SMALL)]}
    lines = printed(summary(confirmed, test))
    titles = [line for line in lines if line.startswith("Confirmed on fresh seeds")]
    assert titles == [
        "Confirmed on fresh seeds (validation); differences are paired",
        "Confirmed on fresh seeds (test split, scored once); differences are paired",
    ]
    assert "baseline 3 68.50 0.50 90.0" in lines and lines[-1] == "verdict The answer."

"""Why a configuration gains, or does not: the right sentence for hand-made runs."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
from diagnosed_runs import FIGURES, run

from rdistill.report.load import Sweep
from rdistill.report.page import Section
from rdistill.report.why import why_section
from rdistill.sweeps.findings.why import state_of, why
from rdistill.sweeps.study.records import TrialRecord


def texts(*runs: TrialRecord, baseline: float = 55.0) -> dict[str, tuple[str, bool]]:
    found = why(runs, baseline)["t0001"]
    return {sentence["about"]: (sentence["text"], sentence["warning"]) for sentence in found["sentences"]}


def test_a_sentence_about_each_figure_and_nothing_to_worry_about() -> None:
    assert texts(run()) == {
        "agreement": ("Student and teacher give 91.0 % of the pixels the same class.", False),
        "errors": (
            "The student repeats 60 % of the teacher's errors; the teacher is right on 55 % of the student's.",
            False,
        ),
        "gradient size": (
            "The gradient of the distillation is 0.5 times that of the task (0.5 at the first validation, 0.5 at the "
            "last).",
            False,
        ),
        "gradient direction": (
            "The gradient of the distillation points the way of that of the task (cosine 0.60; 0.60 at the first "
            "validation, 0.60 at the last).",
            False,
        ),
        "loss logits": ("The loss logits goes from 1 to 0.2, and still moves at the end.", False),
        "confidence": (
            "The teacher is 97.0 % sure on average and right on 96.0 % of the pixels (calibration error 1.5 %).",
            False,
        ),
        "temperature logits": (
            "At logits's temperature 1 the teacher's outputs have 12% of the largest possible entropy.",
            False,
        ),
        "teacher's lead": ("The teacher is 10.00 mIoU above the student alone.", False),
        "plateau": ("The score stood still in the last quarter of training (+0.10).", False),
    }


@pytest.mark.parametrize(
    ("changed", "about", "said"),
    [
        ({"errors_to_learn": 10.0}, "errors", "it can show the student little"),
        ({"gradient_ratio": 0.01}, "gradient size", "too small to steer; raise the losses' weights"),
        ({"gradient_ratio": 50.0}, "gradient size", "the task has no say; lower the losses' weights"),
        ({"gradient_cosine": -0.4}, "gradient direction", "against that of the task"),
        ({"losses": [1.0, 1.01, 0.99, 1.0, 1.0]}, "loss logits", "never moves"),
        ({"losses": [1.0, 2.0, 3.0, 9.0, 10.0]}, "loss logits", "explodes, from 1 to 10"),
        ({"teacher_confidence": 99.5, "teacher_error": 10.0}, "confidence", "too sure of itself"),
        (
            {"teacher_entropy": {"1": 0.01, "2": 0.03, "4": 0.2}},
            "temperature logits",
            "all but hard labels; a temperature of 4 shows more (20%)",
        ),
        ({"teacher": 55.4}, "teacher's lead", "at +0.40 mIoU against the student alone: hardly better"),
        ({"scores": (50.0, 51.0, 52.0, 54.0)}, "plateau", "still rose by 2.00 in the last quarter"),
    ],
)
def test_what_may_be_why_there_is_no_gain(changed: dict[str, Any], about: str, said: str) -> None:
    found = texts(run(**changed))
    assert said in found[about][0] and found[about][1]
    assert [name for name, (_, warning) in found.items() if warning] == [about]


def test_each_of_several_teachers_has_its_sentences_by_its_number() -> None:
    sure = {**FIGURES, "agreement": 70.0, "errors_to_learn": 10.0, "teacher_confidence": 99.9, "teacher_error": 20.0}
    sure["teacher_entropy"] = {"1": 0.01}
    other_classes: dict[str, Any] = {}
    runs = [run(teachers=[FIGURES, sure, other_classes])]
    runs[0].effective["distill.losses.logits.teacher"] = 1
    reasons = why(runs, 55.0, [65.0, 55.5, 70.0])["t0001"]
    figures, said = reasons["figures"], {each["about"]: each["text"] for each in reasons["sentences"]}
    assert [each["agreement"] for each in figures["teachers"]] == [91.0, 70.0, None]
    assert [each["teacher_lead"] for each in figures["teachers"]] == [10.0, 0.5, 15.0]
    assert said["agreement 0"] == "Student and teacher 0 give 91.0 % of the pixels the same class."
    assert said["errors 1"].startswith("The student repeats 60 % of the errors of teacher 1; that is right on 10 %")
    assert said["confidence 1"].startswith("Teacher 1 is 99.9 % sure") and said["confidence 1"].endswith("itself.")
    assert said["teacher's lead 1"].startswith("Teacher 1 is at +0.50 mIoU")
    assert said["teacher's lead 2"] == "Teacher 2 is 15.00 mIoU above the student alone."
    assert "1% of the largest possible entropy" in said["temperature logits"]  # that of the loss's own teacher
    assert not {"agreement 2", "errors 2", "confidence 2", "agreement", "confidence"} & set(said)
    warnings = [each["about"] for each in reasons["sentences"] if each["warning"]]
    assert warnings == ["errors 1", "confidence 1", "temperature logits", "teacher's lead 1"]
    (table,) = [each for each in section_of({"t0001": reasons}).tables if each.caption == "Figures of each teacher"]
    assert [[item.text for item in row][:3] for row in table.rows[:2]] == [
        ["t0001", "0", "91.00"],
        ["t0001", "1", "70.00"],
    ]


def test_means_are_over_runs_and_the_gradient_over_training() -> None:
    first = run(entries=[{**FIGURES, "gradient_ratio": ratio} for ratio in (2.0, 1.0, 1.0, 0.4)])
    second = run("t0001-s2", entries=[{**FIGURES, "gradient_ratio": ratio} for ratio in (4.0, 1.0, 1.0, 0.6)])
    figures = why([first, second], 55.0)["t0001"]["figures"]
    assert figures["gradient_ratio"] == {"first": 3.0, "last": 0.5, "mean": pytest.approx(1.375)}
    assert figures["teacher_lead"] == 10.0 and figures["late_rise"] == pytest.approx(0.1)


def test_how_a_loss_goes() -> None:
    assert state_of(1.0, 0.6, 0.3) == "moves"
    assert state_of(1.0, 0.301, 0.3) == "saturated"
    assert state_of(1.0, 1.2, 1.0) == "flat"
    assert state_of(1.0, 2.0, 3.5) == "explodes"
    assert state_of(1.0, 2.0, math.nan) == "explodes"


def test_what_was_not_measured_is_left_out() -> None:
    """Validations that failed, runs without entries, other phases, and figures that there are none of."""
    failed = {"iter": 10, "problem": "RuntimeError: out of memory"}
    partly = run(entries=[failed, FIGURES, FIGURES, failed])
    assert why([partly], None)["t0001"]["figures"]["agreement"] == 91.0
    assert why([run(entries=[failed] * 4)], None) == {}
    assert why([run(entries=[None] * 4)], None) == {}
    searched = run()
    searched.phase = "search"
    assert why([searched], None) == {}
    other_classes = {key: FIGURES[key] for key in ("gradient_ratio", "gradient_cosine", "terms")}
    assert set(texts(run(entries=[other_classes] * 4))) == {
        "gradient size", "gradient direction", "loss logits", "teacher's lead", "plateau",
    }  # fmt: skip


def section_of(reasons: Any) -> Section:
    return why_section(Sweep(Path("s"), {}, [], [], {"why": reasons}, {}))


def test_the_report_has_every_sentence() -> None:
    section = section_of(why([run(gradient_ratio=0.01)], 55.0))
    notes = {row[0].text: row[1].note for row in section.tables[0].rows}
    assert len(notes) == 9 and notes["gradient size"] == "may be why" and not notes["agreement"]
    assert [cell.text for cell in section.tables[1].rows[0]][:3] == ["t0001", "91.00", "60.00"]
    assert section_of({}).empty and section_of({"t0001": "of another version"}).empty

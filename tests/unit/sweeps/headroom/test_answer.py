"""From scores to what binds and what to do first."""

from __future__ import annotations

import pytest

from rdistill.report.headroom import headroom_section
from rdistill.sweeps.headroom.answer import answer

Scores = dict[str, dict[int, float]]


def scores(alone: float, longer: float, half: float, hard: float, distilled: float, spread: float = 0.1) -> Scores:
    """Two seeds of each; a difference on one seed varies by about ``spread``."""
    signs = {"alone": 1, "longer": -1, "half": 1, "hard": -1, "distilled": 1}
    means = {"alone": alone, "longer": longer, "half": half, "hard": hard, "distilled": distilled}
    return {arm: {0: mean + signs[arm] * spread / 4, 1: mean - signs[arm] * spread / 4} for arm, mean in means.items()}


def test_figures() -> None:
    found = answer(scores(50.0, 53.0, 48.5, 51.0, 50.5), {}, 60.0, 500)
    assert found["gap"] == {"short": pytest.approx(10.0), "long": pytest.approx(7.0)}
    means = {name: effect["mean"] for name, effect in found["effects"].items()}
    assert means == {"longer": 3.0, "labels": 1.5, "hard_labels": 1.0, "distilled": 0.5}
    assert found["arms"]["longer"]["iterations"] == 1000 and found["arms"]["alone"]["mean"] == 50.0


def test_iterations_bind_where_twice_as_many_bring_most() -> None:
    found = answer(scores(50.0, 53.0, 48.5, 51.0, 50.5), {}, 60.0, 500)
    assert found["binds"] == "iterations"
    assert found["recommendation"].startswith("train longer first: twice the iterations bring +3.0 without any teacher")


def test_labels_bind_where_twice_as_many_bring_most() -> None:
    found = answer(scores(50.0, 50.4, 46.0, 51.0, 50.5), {}, 60.0, 500)
    assert found["binds"] == "labels"
    assert found["recommendation"].startswith("worth sweeping: up to 9.6 points, ")
    assert "labels bind (twice as many brought +4.0)" in found["recommendation"]


def test_the_capacity_binds_where_more_of_the_same_does_not_help() -> None:
    found = answer(scores(50.0, 50.4, 49.8, 51.0, 50.5), {}, 54.9, 500)
    needed = found["seeds_needed"]["+2"]["seeds"]
    assert found["binds"] == "capacity"
    assert found["recommendation"].startswith(f"worth sweeping: up to 4.5 points, {needed} seeds to show +2; ")


def test_the_teacher_binds_where_it_is_hardly_better() -> None:
    found = answer(scores(50.0, 53.0, 48.5, 51.0, 50.5), {}, 53.2, 500)
    assert found["binds"] == "teacher"
    assert found["recommendation"].startswith("get a better teacher: it is at +0.2 mIoU")
    worse = answer(scores(50.0, 53.0, 48.5, 51.0, 50.5), {}, 48.0, 500)
    assert worse["binds"] == "teacher" and "it is at -5.0 mIoU" in worse["recommendation"]


def test_what_chance_may_have_brought_binds_nothing() -> None:
    """+3 with differences that vary by 8: not clear, though it is a third of the gap."""
    found = answer(scores(50.0, 53.0, 49.9, 50.0, 50.0, spread=8.0), {}, 80.0, 500)
    assert found["effects"]["longer"]["mean"] == pytest.approx(3.0)
    assert found["binds"] == "capacity"


def test_a_run_that_never_left_one_class_counts_in_no_mean() -> None:
    table = scores(50.0, 53.0, 48.5, 51.0, 50.5)
    table["alone"][1] = 30.0
    found = answer(table, {"alone": [1]}, 60.0, 500)
    assert found["arms"]["alone"]["mean"] == table["alone"][0]
    assert found["arms"]["alone"]["one_class_seeds"] == [1]
    assert found["effects"]["longer"]["n"] == 1
    assert found["spread"]["freedom"] == 2  # the arm with a seed less is left out: longer, hard, distilled


def test_a_student_that_never_trains_is_to_be_mended_first() -> None:
    found = answer(scores(30.0, 53.0, 30.0, 51.0, 50.5), {"alone": [0, 1]}, 60.0, 500)
    assert found["binds"] is None
    assert found["recommendation"].startswith("make the student train first: alone it never left one class on 2 seeds")


def test_without_scores_there_is_no_answer() -> None:
    found = answer({"alone": {}, "longer": {}, "half": {}, "hard": {}, "distilled": {}}, {}, 60.0, 500)
    assert (found["binds"], found["spread"]) == (None, None)
    assert found["recommendation"].startswith("no answer")


def test_the_report_has_it() -> None:
    found = answer(scores(50.0, 53.0, 48.5, 51.0, 50.5), {"half": [1]}, 60.0, 500)
    section = headroom_section({"iterations": 500, "seeds": [0, 1], **found, "failed": []})
    assert section.notes[0].startswith("Advice: train longer first: twice the iterations bring +3.0")
    rows = [[cell.text for cell in row] for row in section.tables[0].rows]
    assert rows[1] == [
        "alone, twice as long",
        "1000",
        "2",
        "53.00",
        "0.04",
        "+3.00",
        "over alone",
        "52.98",
        "53.02",
    ]
    assert section.tables[0].rows[2][0].note == "one class only on seed 1"
    assert headroom_section({}).empty
    assert headroom_section({"recommendation": "of another version"}).notes == [
        "headroom.json is of another version and is left out."
    ]

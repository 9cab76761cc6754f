"""The one rule of which runs never left one class."""

from __future__ import annotations

from typing import Any

import pytest

from rdistill.core.one_class import is_one_class, never_left_one_class, trained_of, when_trained

PLATEAU = 48.87  # (97.74 + 0) / 2: every pixel background, where 2.26 % are disc


def scores(
    miou: float, disc: float = 50.0, left: float | None = 90.0, trivial: float | None = PLATEAU
) -> dict[str, Any]:
    beside = {} if trivial is None else {"trivial": {"mIoU": trivial, "left": left}}
    return {"mIoU": miou, "IoU": {"background": 97.0, "disc": disc}, **beside}


@pytest.mark.parametrize(
    ("ious", "expected"),
    [
        ({"background": 98.0, "optic disc": 0.0}, True),
        ({"background": 98.0, "optic disc": 0.99}, True),
        ({"background": 98.0, "optic disc": 1.0}, False),
        ({"a": 0.0, "b": 40.0, "c": None}, True),  # c never occurs
        ({"a": 10.0, "b": 40.0, "c": 0.0}, False),
        ({"a": 0.0, "b": 0.0}, True),
        ({"a": 90.0}, False),
        ({}, False),
    ],
)
def test_one_class_by_what_is_seen(ious: dict[str, float | None], expected: bool) -> None:
    assert is_one_class({"mIoU": 49.0, "IoU": ious}) is expected


@pytest.mark.parametrize(("left", "expected"), [(0.0, True), (4.9, True), (5.0, False), (None, False)])
def test_one_class_by_what_is_predicted(left: float | None, expected: bool) -> None:
    """Percent of as many pixels of other classes as there are; None: there are none."""
    assert is_one_class(scores(60.0, left=left)) is expected


@pytest.mark.parametrize("trivial", [PLATEAU, None])
def test_a_run_just_off_the_plateau_has_not_trained(trivial: float | None) -> None:
    """49.51 beside a plateau of 48.87: 2 % of the way to 75; its disc has an IoU above the 1 % of one class."""
    runs = {
        "a": scores(75.48, trivial=trivial),
        "b": scores(75.47, trivial=trivial),
        "c": scores(49.51, 1.4, trivial=trivial),
        "d": scores(PLATEAU, 0.0, 0.0, trivial=trivial),
        "e": scores(60.0, trivial=trivial),
    }
    assert never_left_one_class(runs) == {"c", "d"}  # older files are judged by the score of the run of one class
    del runs["d"]
    assert never_left_one_class(runs) == ({"c"} if trivial else frozenset())


def test_what_counts_as_near_goes_by_the_spread_of_the_healthy() -> None:
    """Healthy runs at 70 and 80 vary by 7.07, so 54 is near to 48.87; at 74.9 and 75.1, 54 has trained."""

    def stuck(*mious: float) -> set[float]:
        return set(never_left_one_class({miou: scores(miou) for miou in mious}))

    assert stuck(70.0, 80.0, 54.0) == {54.0}
    assert stuck(74.9, 75.1, 54.0) == set()
    assert stuck(74.9, 75.1, 51.0) == {51.0}
    assert stuck(52.0) == set() and stuck() == set()
    assert stuck(48.0, 47.0) == set()  # nobody is above it
    assert stuck(75.0, float("nan")) == set()


def test_an_arm_is_shown_by_its_runs_that_trained() -> None:
    arm = {"n": 3, "mean": 57.95, "sd": 15.2, "never_trained": [1, 2], "mean_trained": 75.48, "sd_trained": None}
    assert when_trained(arm) == {"n": 1, "of": 3, "mean": 75.48, "sd": None} and trained_of(arm) == "1 of 3"
    older = {"n": 3, "mean": 70.0, "sd": 1.0}
    assert when_trained(older) == {"n": 3, "of": 3, "mean": 70.0, "sd": 1.0} and trained_of(older) == "3"
    assert when_trained({}) == {"n": None, "of": None, "mean": None, "sd": None} and trained_of({}) == ""

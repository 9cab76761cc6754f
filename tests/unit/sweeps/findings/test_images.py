"""The images a sweep draws at its end: which images and runs, and what is painted where."""

from __future__ import annotations

import numpy as np
import pytest

from rdistill.sweeps.findings.images import (
    BOTH,
    ONLY_BASELINE,
    ONLY_BEST,
    errors,
    image_iou,
    overlay,
    typical_pair,
)
from rdistill.sweeps.study.records import TrialRecord


def run(name: str, score: float, **more: object) -> TrialRecord:
    return TrialRecord(
        name, {}, status="finished", history=[{"iter": 1, "seconds": 1.0, "mIoU": score}], **{"seed": 0, **more}
    )


def test_iou_of_an_image() -> None:
    truth = np.array([[0, 0, 1, 1], [0, 0, 1, 255]])
    predicted = np.array([[0, 0, 1, 0], [0, 0, 1, 1]])
    assert image_iou(predicted, truth, 3) == pytest.approx((4 / 5 + 2 / 3) / 2 * 100)  # class 2 does not occur
    assert image_iou(truth, truth, 2) == 100
    assert image_iou(predicted, np.full_like(truth, 255), 2) is None
    assert image_iou(np.full_like(truth, 2), truth, 3) == 0


def test_a_class_is_its_colour_over_the_photograph() -> None:
    photo = np.full((1, 3, 3), 100, np.uint8)
    painted = overlay(photo, np.array([[0, 1, 255]]), np.array([[0, 0, 0], [255, 215, 0]]))
    assert painted[0].tolist() == [[100, 100, 100], [185, 163, 45], [100, 100, 100]]


def test_errors_are_coloured_by_whose_they_are() -> None:
    photo = np.zeros((1, 4, 3), np.uint8)
    best, alone = np.array([[True, False, True, False]]), np.array([[False, True, True, False]])
    painted = errors(photo, best, alone)[0].tolist()
    assert [tuple(pixel) for pixel in painted[:3]] == [ONLY_BEST, ONLY_BASELINE, BOTH] and painted[3] == [166] * 3
    assert tuple(errors(photo, best, None)[0, 2].tolist()) == ONLY_BEST


def test_which_runs_are_compared() -> None:
    searched = [run("baseline", 50), run("b0001", 55, phase="baseline"), run("t0001", 60), run("t0002", 70)]
    assert [record.id for record in typical_pair(searched) if record] == ["t0002", "b0001"]
    assert typical_pair([TrialRecord("t0001", {}, 0)]) == (None, None)
    assert typical_pair(searched[:1]) == (None, searched[0])


def test_of_confirmed_runs_the_seed_with_the_middle_gain() -> None:
    confirmed = [
        run(f"{of}-s{seed}", score, phase="confirm", of=of, seed=seed)
        for of, scores in (("baseline", (50, 50, 50)), ("t0001", (51, 59, 55)), ("t0002", (90, 40, 20)))
        for seed, score in enumerate(scores, start=1)
    ]
    best, alone = typical_pair([run("t0003", 99), run("baseline", 1), *confirmed])
    assert best is not None and alone is not None and (best.id, alone.id) == ("t0001-s3", "baseline-s3")

"""Counts of each image on disk, and the runs that never left one class by them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from rdistill.sweeps.proof.counts import (
    CountsOf,
    counts_file,
    load_counts,
    never_trained,
    one_class,
    save_counts,
    trivial_score,
)
from rdistill.sweeps.study.records import TRIALS, TrialRecord
from rdistill.training.evaluation import confusion


def run(name: str, score: float, disc: float = 50.0) -> TrialRecord:
    history = [{"iter": 1, "seconds": 1.0, "mIoU": score, "IoU": {"background": 97.0, "disc": disc}}]
    return TrialRecord(name, {}, 1, status="finished", history=history)


def total(hit: int, missed: int = 0, wrong: int = 0) -> np.ndarray:
    """10,000 pixels of which 226 are disc: all of background would score (97.74 + 0) / 2 = 48.87."""
    assert hit + missed == 226
    return np.array([[9774 - wrong, wrong], [missed, hit]])


def test_confusion_leaves_out_ignored_pixels() -> None:
    truth = torch.tensor([[0, 0, 1], [1, 255, 1]])
    predicted = torch.tensor([[0.0, 1.0, 1.0], [0.0, 1.0, 1.0]])  # a head of one channel gives floats
    assert confusion(predicted, truth, 2, 255).tolist() == [[1, 1], [1, 2]]


def test_counts_are_kept_whole_and_a_damaged_file_is_none(tmp_path: Path) -> None:
    counts = np.arange(12).reshape(3, 2, 2)
    save_counts(tmp_path, "val", counts, ["a.png", "b.png", "c.png"])
    kept = load_counts(tmp_path, "val")
    assert kept is not None and kept.tolist() == counts.tolist()
    assert load_counts(tmp_path, "test") is None
    file = tmp_path / counts_file("val")
    file.write_bytes(file.read_bytes()[:40])
    assert load_counts(tmp_path, "val") is None


def test_counts_are_read_again_only_when_they_are_written_again(tmp_path: Path) -> None:
    folder = tmp_path / TRIALS / "t0001-s1"
    folder.mkdir(parents=True)
    counts = np.array([[[90, 10], [5, 15]], [[80, 0], [10, 30]]])
    save_counts(folder, "val", counts, ["a", "b"])
    known = CountsOf(tmp_path, "val")
    assert known.total(run("t0001-s1", 70.0)).tolist() == [[170, 10], [15, 45]]  # type: ignore[union-attr]
    by_image = known.by_image(run("t0001-s1", 70.0))
    assert by_image is not None and by_image.shape == (2,)
    assert known.by_image(run("t0002-s1", 70.0)) is None


def test_the_trivial_score_is_that_of_all_background() -> None:
    assert trivial_score(total(226)) == pytest.approx(48.87)
    assert trivial_score(np.array([[60, 0, 0], [0, 40, 0], [0, 0, 0]])) == pytest.approx(30.0)  # c occurs nowhere


@pytest.mark.parametrize(
    ("counts", "expected"),
    [
        (total(0, 226), True),
        (total(5, 221, 3), True),  # 8 pixels of another class, of 226
        (total(20, 206, 3), False),
        (np.array([[100, 0], [0, 0]]), False),  # there is only one class
    ],
)
def test_one_class(counts: np.ndarray, expected: bool) -> None:
    assert one_class(counts) is expected


def test_a_run_just_off_the_plateau_has_not_trained() -> None:
    """49.51 beside a plateau of 48.87: 1.5 % of the way to 75; its disc has an IoU above the 1 % of one class."""
    runs = [run("a", 75.48), run("b", 75.47), run("c", 49.51, disc=1.4), run("d", 48.87, disc=0.0), run("e", 60.0)]
    assert never_trained(runs) == {"c", "d"}  # without counts, by the score of the run of one class
    counts = dict.fromkeys("abce", total(200, 26)) | {"d": total(0, 226)}
    assert never_trained(runs, lambda one: counts[one.id]) == {"c", "d"}
    # Without anything at the plateau: the trivial score follows from the counts.
    assert never_trained(runs[:3], lambda one: total(200, 26)) == {"c"}


def test_what_counts_as_near_goes_by_the_spread_of_the_healthy() -> None:
    """Trivial 48.87. Healthy runs at 70 and 80 vary by 7.07, so 54 is near; at 74.9 and 75.1, 54 has trained."""

    def found(*scores: float) -> set[str]:
        return set(never_trained([run(f"{s:g}", s) for s in scores], lambda one: total(200, 26)))

    assert found(70.0, 80.0, 54.0) == {"54"}
    assert found(74.9, 75.1, 54.0) == set()
    assert found(74.9, 75.1, 51.0) == {"51"}
    assert found(52.0) == set() and found() == set()


def test_nothing_is_above_the_trivial_score() -> None:
    assert never_trained([run("a", 48.0), run("b", 47.0)], lambda one: total(200, 26)) == frozenset()

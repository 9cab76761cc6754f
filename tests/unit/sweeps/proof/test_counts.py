"""Counts of each image on disk."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from rdistill.sweeps.proof.counts import SplitCounts, counts_file, load_counts, save_counts
from rdistill.sweeps.study.records import TRIALS, TrialRecord
from rdistill.training.evaluation import confusion


def run(name: str) -> TrialRecord:
    return TrialRecord(name, {}, 1, status="finished")


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
    known = SplitCounts(tmp_path, "val")
    by_image = known.by_image(run("t0001-s1"))
    assert by_image is not None and by_image.shape == (2,)
    assert known.by_image(run("t0002-s1")) is None

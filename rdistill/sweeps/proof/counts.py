"""The confusion counts of each image for each confirmed student.

The counts of an image are a matrix of classes x classes integers with the ground truth by row. They give the score over
all images and over any subset of them. They are kept compressed in the trial's folder, in one file for each split.

This module needs neither torch nor Ray.
"""

from __future__ import annotations

import io
import zipfile
from collections.abc import Callable, Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np

from rdistill.core.files import write_whole
from rdistill.sweeps.proof.two_way import pseudo_values
from rdistill.sweeps.study.records import TRIALS, TrialRecord

Counts = Callable[[TrialRecord], "np.ndarray | None"]  # a run -> the pseudo-value of each image


def counts_file(split: str) -> str:
    """The name of the file in a trial's folder; ``split`` is 'val' or 'test'."""
    return f"confusion_{split}.npz"


def stack_counts(by_image: Sequence[tuple[str, np.ndarray]] | None) -> tuple[np.ndarray | None, list[str]]:
    """Stacks the (file, classes x classes counts) of all images.

    Returns:
        The counts as images x classes x classes and the images' names; None and no names if no image was counted.
    """
    if not by_image:
        return None, []
    return np.stack([counts for _, counts in by_image]), [Path(file).name for file, _ in by_image]


def save_counts(folder: Path, split: str, counts: np.ndarray, images: Sequence[str]) -> None:
    """Writes the counts (images x classes x classes) and the images' names to a file, whole or not at all."""
    content = io.BytesIO()
    np.savez_compressed(content, counts=counts.astype(np.uint32), images=np.array(images, dtype=np.str_))
    write_whole(folder / counts_file(split), content.getvalue())


def load_counts(folder: Path, split: str) -> np.ndarray | None:
    """The counts (images x classes x classes) in a trial's folder; None if there is no file or it is damaged."""
    try:
        with np.load(folder / counts_file(split), allow_pickle=False) as content:
            counts = np.asarray(content["counts"])
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        return None
    return counts if counts.ndim == 3 and counts.shape[1] == counts.shape[2] else None


class SplitCounts:
    """The counts of a sweep's runs on one split; each file is read once.

    Args:
        work_dir: the sweep's folder.
        split: 'val' or 'test'.
    """

    def __init__(self, work_dir: Path, split: str) -> None:
        self.work_dir, self.split = work_dir, split

    def by_image(self, run: TrialRecord) -> np.ndarray | None:
        """The pseudo-value of each image, see :func:`rdistill.sweeps.proof.two_way.pseudo_values`."""
        folder = self.work_dir / TRIALS / run.id
        file = folder / counts_file(self.split)
        return _by_image(folder, self.split, file.stat().st_mtime_ns) if file.is_file() else None


@lru_cache(maxsize=1024)
def _by_image(folder: Path, split: str, written: int) -> np.ndarray | None:
    """``written``, the file's time of modification, is part of the cache key: a file that has changed is read again."""
    counts = load_counts(folder, split)
    return None if counts is None else pseudo_values(counts)[1]

"""Confusion counts of each image, of each confirmed student.

The counts of an image are classes x classes whole numbers, ground truth by row: from them follow the score over all
images and over any part of them. They are kept compressed in the trial's folder, a file for each split.

Needs neither torch nor ray.
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

Counts = Callable[[TrialRecord], "np.ndarray | None"]


def counts_file(split: str) -> str:
    """In a trial's folder; ``split`` is 'val' or 'test'."""
    return f"confusion_{split}.npz"


def gathered(by_image: Sequence[tuple[str, np.ndarray]] | None) -> tuple[np.ndarray | None, list[str]]:
    """Of each image its file and classes x classes counts -> images x classes x classes, and the images' names.

    None and no names where no image was counted.
    """
    if not by_image:
        return None, []
    return np.stack([counts for _, counts in by_image]), [Path(file).name for file, _ in by_image]


def save_counts(folder: Path, split: str, counts: np.ndarray, images: Sequence[str]) -> None:
    """Writes images x classes x classes counts, and the images' names, whole or not at all."""
    content = io.BytesIO()
    np.savez_compressed(content, counts=counts.astype(np.uint32), images=np.array(images, dtype=np.str_))
    write_whole(folder / counts_file(split), content.getvalue())


def load_counts(folder: Path, split: str) -> np.ndarray | None:
    """Images x classes x classes; None where there are none, or the file is damaged."""
    try:
        with np.load(folder / counts_file(split), allow_pickle=False) as content:
            counts = np.asarray(content["counts"])
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        return None
    return counts if counts.ndim == 3 and counts.shape[1] == counts.shape[2] else None


class CountsOf:
    """The counts of a sweep's runs on one split, and what is made of them; each file is read once.

    Args:
        work_dir: of the sweep.
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
    """``written`` (when the file was) makes a file that was written again another one."""
    counts = load_counts(folder, split)
    return None if counts is None else pseudo_values(counts)[1]

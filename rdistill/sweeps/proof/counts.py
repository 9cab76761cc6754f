"""Confusion counts of each image, of each confirmed student; and which students never left one class by them.

The counts of an image are classes x classes whole numbers, ground truth by row: from them follow the score over all
images and over any part of them. They are kept compressed in the trial's folder, a file for each split.

Needs neither torch nor ray.
"""

from __future__ import annotations

import io
import math
import zipfile
from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache
from pathlib import Path
from statistics import median, stdev

import numpy as np

from rdistill.core.files import write_whole
from rdistill.sweeps.proof.two_way import mean_iou, pseudo_values
from rdistill.sweeps.study.records import TRIALS, TrialRecord

FEW_PIXELS = 0.05  # of those of other classes in the ground truth: who predicts fewer has not left one class
NEAR = 0.1  # share of the usual distance to the trivial score, below which a run is at it, where that varies less
HALF = 0.5  # of that distance: nearer to it than to the trivial score is trained, however much that varies

Counts = Callable[[TrialRecord], "np.ndarray | None"]


def counts_file(split: str) -> str:
    """In a trial's folder; ``split`` is 'val' or 'test'."""
    return f"confusion_{split}.npz"


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

    def total(self, run: TrialRecord) -> np.ndarray | None:
        """Of all images together: classes x classes."""
        read = self._read(run)
        return None if read is None else read[0]

    def by_image(self, run: TrialRecord) -> np.ndarray | None:
        """The pseudo-value of each image, see :func:`rdistill.sweeps.proof.two_way.pseudo_values`."""
        read = self._read(run)
        return None if read is None else read[1]

    def _read(self, run: TrialRecord) -> tuple[np.ndarray, np.ndarray] | None:
        folder = self.work_dir / TRIALS / run.id
        file = folder / counts_file(self.split)
        return _summed(folder, self.split, file.stat().st_mtime_ns) if file.is_file() else None


@lru_cache(maxsize=1024)
def _summed(folder: Path, split: str, written: int) -> tuple[np.ndarray, np.ndarray] | None:
    """``written`` (when the file was) makes a file that was written again another one."""
    counts = load_counts(folder, split)
    return None if counts is None else (counts.sum(0, dtype=np.int64), pseudo_values(counts)[1])


# Runs that never left one class --------------------------------------------------------------------------------------


def trivial_score(total: np.ndarray) -> float:
    """mIoU in percent of who calls every pixel the class that is most frequent in the ground truth."""
    truth = total.sum(1)
    everywhere = np.zeros_like(total)
    everywhere[:, int(truth.argmax())] = truth
    return float(mean_iou(everywhere))


def one_class(total: np.ndarray) -> bool:
    """Whether, but for a few pixels, only one class is predicted; ``total`` is classes x classes, truth by row."""
    predicted, truth = total.sum(0), total.sum(1)
    main = int(predicted.argmax())
    others = truth.sum() - truth[main]
    return bool(others > 0 and predicted.sum() - predicted[main] < FEW_PIXELS * others)


def never_trained(runs: Iterable[TrialRecord], total: Counts = lambda run: None) -> frozenset[str]:
    """Ids of the runs that never left one class, or no more than a little.

    By the classes that they predict; and by how far their score is from the trivial one, against the runs that are far
    from it: nearer than these vary among each other (or than a tenth of their distance, where they vary less) is no
    training. A run on half of their way, or further, has trained, however much they vary.

    Args:
        runs: of one confirmation, scored on the same images.
        total: of a run, its counts over all images; None where they are not known: then the scores of its classes
            decide, and what runs of one class score is the trivial score.
    """
    scored = {run.id: (run, float(run.best["mIoU"])) for run in runs if run.best}
    stuck, trivial = set(), list[float]()
    for name, (run, score) in scored.items():
        counts = total(run)
        if counts is not None:
            trivial.append(trivial_score(counts))
        if run.one_class_only or (counts is not None and one_class(counts)):
            stuck.add(name)
            trivial += [] if counts is not None else [score]
    if not trivial:
        return frozenset(stuck)
    distance = {name: score - min(trivial) for name, (_, score) in scored.items()}
    reach = _reach([far for name, far in distance.items() if name not in stuck])
    return frozenset(stuck | {name for name, far in distance.items() if far < reach})


def _reach(distances: Sequence[float]) -> float:
    """How near to the trivial score a run has to be to count as not trained, in mIoU."""
    furthest = max(distances, default=0.0)
    healthy = [far for far in distances if far >= HALF * furthest]
    if furthest <= 0:
        return -math.inf
    usual = median(healthy)
    spread = stdev(healthy) if len(healthy) > 1 else 0.0
    return min(max(spread, NEAR * usual), HALF * usual)

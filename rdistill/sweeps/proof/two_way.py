"""Two sources of chance: seeds and images. How sure a difference of two configurations is when both count.

Training again with other seeds moves a score; other validation images would move it too, and no number of seeds shows
by how much. The standard error here covers both: the two-way cluster-robust variance (Cameron, Gelbach and Miller,
J. Bus. Econ. Stat. 2011) of the jackknife's pseudo-values (Efron 1982), which is the closed form of what Owen's
pigeonhole bootstrap (Ann. Appl. Stat. 2007) resamples: seeds and images at once. The bootstrap itself counts the
interaction three times, and its percentiles of four to sixteen seeds are too narrow; the closed form is neither.

With mean squares by seed (A), by image (B) and of the interaction (E), each over seeds x images, the variance of the
mean is A + B - E: that of the seeds, of the images and of the interaction, each counted once. How far such a sum can
be trusted follows from Satterthwaite's degrees of freedom (Biometrics Bulletin 1946): few seeds count for little only
as far as the seeds are what varies.

Pure functions of arrays; needs neither torch nor ray.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Errors:
    """Standard errors of a mean difference, in the unit of the scores (mIoU in percent)."""

    seeds: float  # if the images were the whole population
    images: float  # if the seeds were
    both: float  # never less than the larger of the two
    freedom: float  # degrees of freedom of `both`; at least those of the seeds, seeds - 1

    @property
    def images_alone(self) -> float:
        """The images' part of ``both``, without the interaction: what no number of seeds takes away."""
        return math.sqrt(max(0.0, self.both**2 - self.seeds**2))

    @property
    def binds(self) -> str:
        """Which of the two more of would help most: 'seeds' or 'images'."""
        return "images" if self.images > self.seeds else "seeds"


def mean_iou(confusion: np.ndarray) -> np.ndarray:
    """mIoU in percent of confusion counts (... x C x C, truth by row), without classes that occur nowhere."""
    return _mean_iou(*_hit_and_union(np.asarray(confusion)))


def _hit_and_union(confusion: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Of each class: ... x C."""
    whole = np.float64 if confusion.dtype.kind == "f" else np.int64
    hit = np.diagonal(confusion, axis1=-2, axis2=-1).astype(whole)
    return hit, confusion.sum(-1, dtype=whole) + confusion.sum(-2, dtype=whole) - hit


def _mean_iou(hit: np.ndarray, union: np.ndarray) -> np.ndarray:
    counted = union > 0
    iou = np.divide(hit, union, out=np.zeros(np.shape(hit), dtype=np.float64), where=counted)
    return 100 * iou.sum(-1) / np.maximum(1, counted.sum(-1))


def pseudo_values(confusion_by_image: np.ndarray) -> tuple[float, np.ndarray]:
    """A run's mIoU over all images, and the jackknife's pseudo-value of each image.

    Args:
        confusion_by_image: images x C x C.

    Returns:
        mIoU in percent, and one value an image; their mean is close to the mIoU, their variance over the number of
        images is the variance of the mIoU over other sets of images.
    """
    hit, union = _hit_and_union(np.asarray(confusion_by_image))  # many classes squared would not fit as floats
    images, hits, unions = len(hit), hit.sum(0), union.sum(0)
    whole = float(_mean_iou(hits, unions))
    if images < 2:
        return whole, np.full(images, whole)
    return whole, images * whole - (images - 1) * _mean_iou(hits - hit, unions - union)


def two_way_errors(differences: np.ndarray, by_image: np.ndarray) -> Errors:
    """Standard errors of the mean difference over seeds and images.

    Args:
        differences: of two configurations, one a seed (n).
        by_image: the differences of their pseudo-values (n x images); with 0 or 1 images the images' part is 0.
    """
    differences, by_image = np.asarray(differences, dtype=np.float64), np.asarray(by_image, dtype=np.float64)
    seeds, images = len(differences), by_image.shape[1] if by_image.ndim == 2 else 0
    of_seeds = float(differences.var(ddof=1)) / seeds if seeds > 1 else math.nan
    if images < 2 or seeds < 2:
        return Errors(math.sqrt(of_seeds), 0.0, math.sqrt(of_seeds), seeds - 1)
    of_images = float(by_image.mean(0).var(ddof=1)) / images
    # Both parts hold the interaction's share; it is taken off once.
    each = float(by_image.var(axis=1, ddof=1).mean()) / images
    shared = max(0.0, (each - of_images) / (seeds - 1))
    both = max(of_seeds + of_images - shared, of_seeds, of_images)
    freedom = _freedom(both, [(seeds - 1, of_seeds), (images - 1, of_images)], shared)
    return Errors(math.sqrt(of_seeds), math.sqrt(of_images), math.sqrt(both), freedom)


def _freedom(both: float, parts: Sequence[tuple[int, float]], shared: float) -> float:
    """Satterthwaite's degrees of freedom of a two-way variance.

    Args:
        both: the variance.
        parts: degrees of freedom and variance, by seed and by image; one that is all of ``both`` has the last word.
        shared: the interaction's variance, which has the product of their degrees of freedom.
    """
    for freedom, part in parts:
        if part >= both:
            return freedom
    squares = sum(part**2 / freedom for freedom, part in parts)
    return both**2 / (squares + shared**2 / math.prod(freedom for freedom, _ in parts))


def pigeonhole_errors(by_image: np.ndarray, resamples: int = 2000, seed: int = 0) -> float:
    """The standard error by Owen's pigeonhole bootstrap, to be compared with :func:`two_way_errors`.

    Args:
        by_image: differences of pseudo-values (n x images).
        resamples: how many times seeds and images are drawn again, independently, with replacement.
        seed: of the drawing.
    """
    random = np.random.default_rng(seed)
    rows, columns = by_image.shape
    means = np.empty(resamples)
    for index in range(resamples):
        row_weights = np.bincount(random.integers(rows, size=rows), minlength=rows) / rows
        column_weights = np.bincount(random.integers(columns, size=columns), minlength=columns) / columns
        means[index] = row_weights @ by_image @ column_weights
    return float(means.std(ddof=1))

"""The standard error of a difference between two configurations over two sources of variance: seeds and images.

Training with other seeds changes a score. Other validation images would change it too, and no number of seeds shows by
how much. The standard error here covers both: it is the two-way cluster-robust variance (Cameron, Gelbach and Miller,
J. Bus. Econ. Stat. 2011) of the jackknife's pseudo-values (Efron 1982). Owen's pigeonhole bootstrap (Ann. Appl. Stat.
2007), which resamples seeds and images at once, estimates the same variance, but it counts the interaction three times,
and its percentiles are too narrow with four to sixteen seeds. The closed form here has neither fault.

With the mean squares by seed (A), by image (B) and of the interaction (E), each divided by seeds x images, the variance
of the mean is A + B - E, which counts seeds, images and their interaction once each. Its degrees of freedom are
Satterthwaite's (Biometrics Bulletin 1946): a small number of seeds lowers them only as far as the variance comes from
the seeds.

This module has pure functions of arrays and needs neither torch nor Ray.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Errors:
    """Standard errors of a mean difference, in the unit of the scores (mIoU in percent)."""

    seeds: float  # error over other seeds, with the same images
    images: float  # error over other images, with the same seeds
    both: float  # error over both; never less than the larger of the two
    freedom: float  # degrees of freedom of `both`; at least the number of seeds - 1

    @property
    def images_alone(self) -> float:
        """The images' part of ``both`` without the interaction, which more seeds do not reduce."""
        return math.sqrt(max(0.0, self.both**2 - self.seeds**2))

    @property
    def binds(self) -> str:
        """The larger source of error, 'seeds' or 'images': more of it would reduce ``both`` the most."""
        return "images" if self.images > self.seeds else "seeds"


def mean_iou(confusion: np.ndarray) -> np.ndarray:
    """mIoU in percent from confusion counts (... x C x C, ground truth by row); absent classes do not count."""
    return _mean_iou(*_hit_and_union(np.asarray(confusion)))


def _hit_and_union(confusion: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Intersection and union of each class, each of shape ... x C."""
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
        confusion_by_image: confusion counts of each image, images x C x C.

    Returns:
        mIoU in percent, and one pseudo-value for each image. The mean of the pseudo-values is close to the mIoU; their
        variance divided by the number of images estimates the variance of the mIoU over other sets of images.
    """
    # Intersections and unions need images x C numbers; the counts as floats would not fit in memory with many classes.
    hit, union = _hit_and_union(np.asarray(confusion_by_image))
    images, hits, unions = len(hit), hit.sum(0), union.sum(0)
    whole = float(_mean_iou(hits, unions))
    if images < 2:
        return whole, np.full(images, whole)
    return whole, images * whole - (images - 1) * _mean_iou(hits - hit, unions - union)


def two_way_errors(differences: np.ndarray, by_image: np.ndarray) -> Errors:
    """Standard errors of the mean difference over seeds and images.

    Args:
        differences: difference of two configurations on each of n seeds.
        by_image: the differences of their pseudo-values (n x images); with 0 or 1 images the images' part is 0.
    """
    differences, by_image = np.asarray(differences, dtype=np.float64), np.asarray(by_image, dtype=np.float64)
    seeds, images = len(differences), by_image.shape[1] if by_image.ndim == 2 else 0
    of_seeds = float(differences.var(ddof=1)) / seeds if seeds > 1 else math.nan
    if images < 2 or seeds < 2:
        return Errors(math.sqrt(of_seeds), 0.0, math.sqrt(of_seeds), seeds - 1)
    of_images = float(by_image.mean(0).var(ddof=1)) / images
    # Both variances contain the interaction, so it is subtracted once.
    each = float(by_image.var(axis=1, ddof=1).mean()) / images
    shared = max(0.0, (each - of_images) / (seeds - 1))
    both = max(of_seeds + of_images - shared, of_seeds, of_images)
    freedom = _freedom(both, [(seeds - 1, of_seeds), (images - 1, of_images)], shared)
    return Errors(math.sqrt(of_seeds), math.sqrt(of_images), math.sqrt(both), freedom)


def _freedom(both: float, parts: Sequence[tuple[int, float]], shared: float) -> float:
    """Satterthwaite's degrees of freedom of a two-way variance.

    Args:
        both: the variance.
        parts: (degrees of freedom, variance) by seed and by image; if one of the variances equals ``both``, its degrees
            of freedom are the result.
        shared: the variance of the interaction, whose degrees of freedom are the product of the two.
    """
    for freedom, part in parts:
        if part >= both:
            return freedom
    squares = sum(part**2 / freedom for freedom, part in parts)
    return both**2 / (squares + shared**2 / math.prod(freedom for freedom, _ in parts))


def pigeonhole_errors(by_image: np.ndarray, resamples: int = 2000, seed: int = 0) -> float:
    """The standard error by Owen's pigeonhole bootstrap, to check :func:`two_way_errors`.

    Args:
        by_image: differences of pseudo-values (n x images).
        resamples: number of times that seeds and images are drawn again, independently, with replacement.
        seed: seed of the random numbers.
    """
    random = np.random.default_rng(seed)
    rows, columns = by_image.shape
    means = np.empty(resamples)
    for index in range(resamples):
        row_weights = np.bincount(random.integers(rows, size=rows), minlength=rows) / rows
        column_weights = np.bincount(random.integers(columns, size=columns), minlength=columns) / columns
        means[index] = row_weights @ by_image @ column_weights
    return float(means.std(ddof=1))

"""Seeds and images as sources of chance: values worked out by hand, and Owen's bootstrap beside the closed form."""

from __future__ import annotations

import warnings

import numpy as np
import pytest

from rdistill.sweeps.proof.decision import Looks, compare
from rdistill.sweeps.proof.two_way import Errors, mean_iou, pigeonhole_errors, pseudo_values, two_way_errors


def test_mean_iou_of_counts() -> None:
    """Class 0: 6 hits of a union of 6 + 2 + 1; class 1: 3 of 3 + 2 + 1; class 2 occurs nowhere."""
    counts = np.array([[6, 2, 0], [1, 3, 0], [0, 0, 0]])
    assert mean_iou(counts) == pytest.approx(100 * (6 / 9 + 3 / 6) / 2)


def test_mean_iou_of_several_counts_at_once() -> None:
    """Two confusions of two classes: 1 / 3 and 2 / 4 of the first, 1 and 1 of the second; nothing counted is 0."""
    counts = np.array([[[1, 0], [2, 2]], [[5, 0], [0, 7]], [[0, 0], [0, 0]]])
    assert mean_iou(counts).tolist() == pytest.approx([100 * (1 / 3 + 2 / 4) / 2, 100.0, 0.0])
    assert mean_iou(counts * 0.25).tolist() == pytest.approx(mean_iou(counts).tolist())  # parts of a pixel
    assert mean_iou(np.array([[5, 0], [0, 0]])) == 100.0  # the mean is over the one class that occurs


def test_mean_iou_of_many_pixels_in_small_numbers() -> None:
    """Sums that have no room in the counts' own numbers: 300 in 8 bits, 2^24 + 1 in a float of 32 bits."""
    assert mean_iou(np.array([[200, 100], [0, 0]], dtype=np.uint8)) == pytest.approx(100 * (200 / 300) / 2)
    many = np.array([[2**24, 1], [1, 0]], dtype=np.float32)
    assert mean_iou(many) == pytest.approx(100 * (2**24 / (2**24 + 2)) / 2, rel=1e-9)


def test_pseudo_values_of_one_and_of_two_images() -> None:
    images = np.array([[[8, 0], [0, 2]], [[6, 2], [1, 1]]])
    whole, values = pseudo_values(images[:1])
    assert values.tolist() == [whole] == [100.0]
    whole, values = pseudo_values(images)
    assert values.tolist() == pytest.approx([2 * whole - float(mean_iou(image)) for image in (images[1], images[0])])


def test_pseudo_values_by_hand() -> None:
    images = np.array([[[8, 0], [0, 2]], [[6, 2], [1, 1]], [[9, 1], [0, 0]]])
    whole, values = pseudo_values(images)
    total = images.sum(0)
    assert whole == pytest.approx(float(mean_iou(total)))
    assert values.tolist() == pytest.approx([3 * whole - 2 * float(mean_iou(total - image)) for image in images])


def test_only_seeds_vary() -> None:
    """Every image has the same difference: the error is that of the seeds, and seeds bind."""
    differences = np.array([1.0, 2.0, 3.0, 6.0])
    errors = two_way_errors(differences, np.repeat(differences[:, None], 50, axis=1))
    assert errors.seeds == pytest.approx(np.std(differences, ddof=1) / 2)
    assert errors.images == 0 and errors.both == pytest.approx(errors.seeds) and errors.binds == "seeds"


def test_only_images_vary() -> None:
    by_image = np.repeat(np.array([[0.0, 4.0, 8.0, 12.0]]), 5, axis=0)
    errors = two_way_errors(np.full(5, 6.0), by_image)
    assert errors.images == pytest.approx(np.std([0, 4, 8, 12], ddof=1) / 2)
    assert errors.seeds == 0 and errors.both == pytest.approx(errors.images) and errors.binds == "images"


def test_the_interaction_counts_once() -> None:
    """Seeds 2, images 2, nothing but interaction: parts of 1 and 1 share 1 (worked out from the definition)."""
    by_image = np.array([[1.0, -1.0], [-1.0, 1.0]])
    errors = two_way_errors(by_image.mean(1), by_image)
    assert errors.seeds == 0 and errors.images == 0 and errors.both == 0


def test_degrees_of_freedom_by_hand() -> None:
    """Rows of means 1 and 5, columns of means 2, 3 and 4, and an interaction of -1, 0, 1 and 1, 0, -1.

    Variance by seed 8 / 2 = 4; by image 1 / 3; of the interaction, with 2 degrees of freedom, 4 / 2 / 6 = 1 / 3. The
    sum is 4 + 1/3 - 1/3 = 4, that of the seeds alone: their single degree of freedom.
    """
    by_image = np.array([[-1.0, 1.0, 3.0], [5.0, 5.0, 5.0]])
    errors = two_way_errors(by_image.mean(1), by_image)
    assert (errors.both**2, errors.freedom, errors.images_alone) == (pytest.approx(4.0), 1, 0.0)
    # Columns of means -7, 3 and 13: by image 100 / 3, so 37 in all.
    wider = by_image + np.array([[-9.0, 0.0, 9.0]])
    errors = two_way_errors(wider.mean(1), wider)
    assert (errors.both**2, errors.images_alone**2) == (pytest.approx(37.0), pytest.approx(33.0))
    assert errors.freedom == pytest.approx(37**2 / (4**2 / 1 + (100 / 3) ** 2 / 2 + (1 / 3) ** 2 / 2))


@pytest.mark.parametrize(("of_seeds", "of_images"), [(2.0, 0.0), (1.0, 5.0), (0.5, 15.0)])
def test_the_interval_covers_as_often_as_it_says(of_seeds: float, of_images: float) -> None:
    """2,000 studies of 5 seeds and 100 images: seeds alone, both, images alone; the wider of the two intervals."""
    random, looks, held = np.random.default_rng(3), Looks(5, 5), 0
    for _ in range(2000):
        by_image = random.normal(0, of_seeds, (5, 1)) + random.normal(0, of_images, (1, 100))
        by_image += random.normal(0, 5, (5, 100))
        found = compare(by_image.mean(1).tolist(), by_image, looks)
        held += found.low <= 0 <= found.high
    assert 0.93 < held / 2000 < 0.97


def test_without_images_the_error_is_the_seeds() -> None:
    errors = two_way_errors(np.array([1.0, 3.0]), np.zeros((2, 0)))
    assert errors.both == errors.seeds == pytest.approx(1.0) and errors.images == 0


def test_a_single_image_or_seed() -> None:
    """One image says nothing of others; one seed has no spread."""
    errors = two_way_errors(np.array([1.0, 3.0, 5.0]), np.array([[1.0], [3.0], [5.0]]))
    assert errors == Errors(pytest.approx(2 / 3**0.5), 0.0, pytest.approx(2 / 3**0.5), 2)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # numpy's, about no degrees of freedom
        alone = two_way_errors(np.array([1.0]), np.array([[0.0, 2.0]]))
    assert np.isnan([alone.seeds, alone.both]).all() and (alone.images, alone.freedom) == (0.0, 0)
    assert two_way_errors(np.array([1.0, 3.0]), np.zeros(2)).images == 0.0  # no images at all, by any shape


def test_the_interaction_takes_nothing_from_the_images() -> None:
    """Rows [1, 3, 2] and [-1, 5, 2]: by seed 0; by image 4 / 3 with 2 degrees; the interaction would take some off."""
    by_image = np.array([[1.0, 3.0, 2.0], [-1.0, 5.0, 2.0]])
    errors = two_way_errors(by_image.mean(1), by_image)
    assert errors == Errors(0.0, pytest.approx((4 / 3) ** 0.5), pytest.approx((4 / 3) ** 0.5), 2)


def test_the_interaction_takes_nothing_from_the_seeds() -> None:
    """The same with the roles exchanged: columns of equal means, and rows of means 0, 4 and 2."""
    by_image = np.array([[1.0, -1.0], [3.0, 5.0], [2.0, 2.0]])
    errors = two_way_errors(by_image.mean(1), by_image)
    assert errors == Errors(pytest.approx((4 / 3) ** 0.5), 0.0, pytest.approx((4 / 3) ** 0.5), 2)


def test_two_seeds_and_two_images_are_enough_for_both_parts() -> None:
    """Rows of means 0 and 4, columns of means 1 and 3: 8 / 2 and 2 / 2, without an interaction."""
    by_image = np.array([[-1.0, 1.0], [3.0, 5.0]])
    errors = two_way_errors(by_image.mean(1), by_image)
    assert (errors.seeds, errors.images, errors.both**2) == (2.0, 1.0, pytest.approx(5.0))
    assert errors.freedom == pytest.approx(5**2 / (4**2 + 1**2))


def test_errors_are_computed_in_64_bits() -> None:
    by_image = np.random.default_rng(2).normal(50, 3, (5, 7)).astype(np.float32)
    differences = by_image.mean(1)
    expected = two_way_errors(differences.astype(np.float64), by_image.astype(np.float64))
    assert two_way_errors(differences, by_image) == expected


def test_what_binds_and_what_is_left_of_the_images() -> None:
    assert [Errors(1.0, images, 2.0, 3).binds for images in (0.9, 1.0, 1.1)] == ["seeds", "seeds", "images"]
    assert Errors(3.0, 4.0, 5.0, 3).images_alone == 4.0
    assert Errors(1.0, 0.0, 1.0 - 1e-12, 3).images_alone == 0.0  # rounding makes no root of less than nothing


def test_owens_bootstrap_draws_seeds_and_images_again() -> None:
    """The same drawing by hand: the mean over the drawn rows and columns, three times."""
    by_image, random = np.arange(12.0).reshape(3, 4) ** 2, np.random.default_rng(1)
    means = [by_image[random.integers(3, size=3)][:, random.integers(4, size=4)].mean() for _ in range(3)]
    assert pigeonhole_errors(by_image, 3, seed=1) == pytest.approx(np.std(means, ddof=1))
    assert pigeonhole_errors(by_image) == pigeonhole_errors(by_image, 2000, 0)


def test_owens_bootstrap_agrees() -> None:
    random = np.random.default_rng(5)
    by_image = random.normal(0, 2, (40, 1)) + random.normal(0, 3, (1, 60)) + random.normal(0, 1, (40, 60))
    by_formula = two_way_errors(by_image.mean(1), by_image).both
    assert pigeonhole_errors(by_image, 4000) == pytest.approx(by_formula, rel=0.06)


def test_the_error_is_that_of_repeated_studies() -> None:
    """The mean estimated variance is the variance of the mean over 3,000 studies drawn anew, seeds and images."""
    random = np.random.default_rng(11)
    means, variances = [], []
    for _ in range(3000):
        by_image = random.normal(0, 2, (6, 1)) + random.normal(0, 6, (1, 30)) + random.normal(0, 6, (6, 30))
        means.append(by_image.mean())
        variances.append(two_way_errors(by_image.mean(1), by_image).both ** 2)
    assert np.mean(variances) == pytest.approx(np.var(means), rel=0.12)

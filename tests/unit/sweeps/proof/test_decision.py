"""Better, worse, futile or open, and the whole study's error."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from rdistill.sweeps.proof.decision import Comparison, Looks, compare, decide, p_value, sign_flip_p
from rdistill.sweeps.proof.sequential import design

LOOKS = Looks(4, 12)


def compared(differences: list[float], looks: Looks = LOOKS) -> Comparison:
    return compare(differences, None, looks)


def test_a_fixed_number_of_seeds_gives_students_interval() -> None:
    """Differences 1 to 5: mean 3, t(0.975, 4) = 2.776445, standard error sqrt(0.5)."""
    actual = compared([1.0, 2.0, 3.0, 4.0, 5.0], Looks(5, 5))
    assert (actual.low, actual.high) == pytest.approx((3 - 2.776445 * 0.5**0.5, 3 + 2.776445 * 0.5**0.5), abs=1e-5)
    assert p_value(actual, Looks(5, 5)) == pytest.approx(0.013236, abs=2e-4)


def test_answers() -> None:
    answers = decide(
        {
            "better": compared([5.0, 5.2, 4.9, 5.1, 5.0]),
            "worse": compared([-5.0, -5.2, -4.9, -5.1, -5.0]),
            "open": compared([3.0, -1.0, 2.0, 4.0, 0.5]),
            "hopeless": compared([-3.0, -1.0, -2.0, 0.5, -2.5]),
        },
        LOOKS,
    )
    assert answers == {"better": "better", "worse": "worse", "open": "open", "hopeless": "futile"}


def test_at_the_last_look_nothing_stays_open() -> None:
    differences = [3.0, -1.0, 2.0, 4.0, 0.5, -2.0, 3.0, 1.0, -1.0, 2.0, -3.0, 4.0]
    assert decide({"a": compared(differences)}, LOOKS) == {"a": "futile"}


def test_a_margin_has_to_be_exceeded() -> None:
    differences = [1.0, 1.1, 0.9, 1.05, 0.95]
    assert decide({"a": compared(differences)}, LOOKS) == {"a": "better"}
    beyond = Looks(4, 12, margin=2.0)
    assert decide({"a": compared(differences, beyond)}, beyond) == {"a": "worse"}  # less than the margin, for sure


def test_the_same_difference_on_every_seed() -> None:
    assert decide({"none": compared([0.0] * 4), "one": compared([1.0] * 4)}, LOOKS) == {
        "none": "futile",
        "one": "better",
    }


def test_several_configurations_need_more(monkeypatch: pytest.MonkeyPatch) -> None:
    """A statistic between the thresholds at 5 % and at 2.5 % is a claim alone, and none beside a second comparison."""
    between = (design(4, 12, 0.05).threshold(6) + design(4, 12, 0.025).threshold(6)) / 2
    shape = np.array([-1.0, 1.0, -0.5, 0.5, -1.5, 1.5])
    differences = (shape + between * shape.std(ddof=1) / 6**0.5).tolist()
    first, second = compared(differences), compared([1.0, -1.0, 2.0, -2.0, 1.0, 0.5])
    assert decide({"a": first}, LOOKS)["a"] == "better"
    assert decide({"a": first, "b": second}, LOOKS)["a"] == "open"


def test_images_widen_the_interval_by_their_own_student() -> None:
    by_image = np.repeat(np.linspace(-10, 14, 25)[None], 6, axis=0)
    differences = [2.0] * 6
    actual = compare(differences, by_image, LOOKS)
    error = np.linspace(-10, 14, 25).std(ddof=1) / 5
    assert actual.high - actual.mean == pytest.approx(stats.t.ppf(0.975, 24) * error)
    assert actual.errors.binds == "images" and actual.low_seeds == actual.high_seeds == 2.0


def test_the_sign_flip_test_is_exact() -> None:
    assert sign_flip_p([1.0, 2.0, 3.0, 4.0, 5.0]) is None
    assert sign_flip_p([1.0, 2.0, 3.0, 4.0, 5.0, 6.0]) == pytest.approx(2 / 64)
    assert sign_flip_p([1.0, -1.0, 1.0, -1.0, 1.0, -1.0]) == 1.0

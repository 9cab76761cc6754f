"""Better, worse, futile or open, and the whole study's error."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from rdistill.sweeps.proof.decision import (
    Comparison,
    Looks,
    compare,
    decide,
    image_share,
    images_half_width,
    p_value,
    seeds_half_width,
    sign_flip_p,
    two_way_half_width,
)
from rdistill.sweeps.proof.quantiles import luck_quantile, normal_quantile, student_quantile, two_sided_p
from rdistill.sweeps.proof.sequential import chance_of_success, design
from rdistill.sweeps.proof.two_way import Errors

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


def test_after_a_single_look_the_looks_that_would_follow_decide_what_is_futile() -> None:
    """Without them no seed is left; with them it is futile only where more seeds would very probably show nothing."""
    promising, hopeless = [3.0, -1.0, 2.0, 4.0, 0.5], [-3.0, -1.0, -2.0, 2.0, -2.5]
    for looks, expected in (
        (Looks(5, 5), {"promising": "futile", "hopeless": "futile"}),
        (Looks(5, 5, would_follow=(4, 16)), {"promising": "open", "hopeless": "futile"}),
        (Looks(5, 5, would_follow=(2, 5)), {"promising": "futile", "hopeless": "futile"}),
    ):
        single = {"promising": compared(promising, looks), "hopeless": compared(hopeless, looks)}
        assert decide(single, looks) == expected
        assert (single["promising"].low, single["promising"].high) == pytest.approx(  # the interval is Student's
            (1.7 - 2.776445 * 0.888819, 1.7 + 2.776445 * 0.888819), abs=1e-4
        )


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


def between(narrow: float, wide: float, looks: Looks = LOOKS, pairs: int = 6) -> list[float]:
    """Differences whose t lies between the thresholds at two alphas."""
    t = sum(design(looks.first, looks.last, alpha).threshold(pairs) for alpha in (narrow, wide)) / 2
    shape = np.resize([-1.0, 1.0, -0.5, 0.5, -1.5, 1.5], pairs)
    return (shape - shape.mean() + t * shape.std(ddof=1) / pairs**0.5).tolist()


def test_each_claim_makes_the_next_one_easier() -> None:
    """Holm: the strongest of three at a third of 5 %, the next at a half, the last at 5 %, in whatever order."""
    third, half, full = between(0.05 / 3, 0.05 / 9), between(0.025, 0.05 / 3), between(0.05, 0.025)
    comparisons = {"full": compared(full), "third": compared(third), "half": compared([-value for value in half])}
    answers = decide(comparisons, LOOKS)
    assert answers == {"full": "better", "third": "better", "half": "worse"} and list(answers) == list(comparisons)
    # The next is at a half without the strongest, and claims; neither of two that need all of 5 % does.
    assert decide({"full": compared(full), "half": compared(half)}, LOOKS) == {"full": "better", "half": "better"}
    assert decide({"a": compared(full), "b": compared(full)}, LOOKS) == {"a": "open", "b": "open"}


def test_each_comparison_has_its_own_looks() -> None:
    """Failed runs have left one of them fewer pairs; a margin is that of its own looks."""
    clear = [1.0, 1.1, 0.9, 1.05, 0.95]
    looks = {"a": Looks(4, 12), "b": Looks(5, 5, margin=2.0)}
    comparisons = {name: compared(clear, each) for name, each in looks.items()}
    assert decide(comparisons, looks) == {"a": "better", "b": "worse"}


def test_at_the_last_look_even_a_sure_difference_that_holm_refuses_is_futile() -> None:
    """Alone either would be a claim, so that its chance is 1; beside each other they are none, and no seed is left."""
    looks = Looks(4, 6)
    comparison = compared(between(0.05, 0.025, looks), looks)
    assert comparison.chance == 1 and decide({"a": comparison}, looks) == {"a": "better"}
    assert decide({"a": comparison, "b": comparison}, looks) == {"a": "futile", "b": "futile"}


def test_what_a_comparison_holds() -> None:
    """Its chance is that of the design, from the mean and the spread seen so far."""
    looks = Looks(4, 12, margin=0.5)
    actual = compared([1.0, 2.0, 3.0, 4.0, 5.0], looks)
    assert (actual.pairs, actual.images, actual.mean, actual.sd) == (5, 0, 3.0, pytest.approx(2.5**0.5))
    assert actual.errors.seeds == actual.errors.both == pytest.approx(0.5**0.5)
    half = design(4, 12, 0.05).threshold(5) * 0.5**0.5
    assert (actual.low, actual.high) == (actual.low_seeds, actual.high_seeds)
    assert (actual.low, actual.high) == (pytest.approx(3 - half), pytest.approx(3 + half))
    assert actual.chance == chance_of_success(design(4, 12), 5, 3.0, actual.sd, 0.0, 0.5)


def test_a_p_value_is_of_the_distance_to_the_margin() -> None:
    """Differences 1 to 5 against 1: t = 2 / sqrt(0.5) = 2.8284 with 4 degrees; no distance is no evidence."""
    looks = Looks(5, 5, margin=1.0)
    assert p_value(compared([1.0, 2.0, 3.0, 4.0, 5.0], looks), looks) == pytest.approx(0.047421, abs=1e-4)
    assert p_value(compared([1.0] * 5, looks), looks) == 1.0
    assert p_value(compared([0.0] * 5, Looks(5, 5)), Looks(5, 5)) == 1.0


def test_the_images_share_of_the_luck_on_one_seed() -> None:
    """Seeds 3, both 5: the images' own part is 4; of two pairs 16 / (16 + 2 x 9). No spread is no luck."""
    assert image_share(Errors(3.0, 4.0, 5.0, 3), 2) == pytest.approx(16 / 34)
    assert image_share(Errors(0.0, 0.0, 0.0, 3), 2) == 0.0


@pytest.mark.parametrize("alpha", [0.05, 0.01])
def test_half_widths_of_two_images(alpha: float) -> None:
    """The fewest that say something of others, put together as the docstrings have it."""
    errors, pairs = Errors(3.0, 4.0, 5.0, 2.5), 5
    luck = luck_quantile(16 / (16 + 5 * 9), 1, alpha)
    images = images_half_width(errors, 2, pairs, LOOKS, alpha)
    assert images == pytest.approx(4 * student_quantile(two_sided_p(luck), 1))
    seeds = 3 * normal_quantile(two_sided_p(design(4, 12, alpha).threshold(pairs), 4))
    both = two_way_half_width(errors, 2, pairs, LOOKS, alpha)
    assert both == pytest.approx(5 * student_quantile(two_sided_p(math.hypot(seeds, 4 * luck) / 5), 2.5))


def test_no_spread_has_no_width_however_strict() -> None:
    still = Errors(0.0, 0.0, 0.0, 3)
    assert two_way_half_width(still, 5, 6, LOOKS, 0.05) == 0.0
    assert design(2, 8, 1e-5).threshold(2) == math.inf and seeds_half_width(still, 2, Looks(2, 8), 1e-5) == 0.0


def test_a_difference_of_just_the_margin_is_no_claim() -> None:
    looks = Looks(4, 12, margin=2.0)
    assert decide({"a": compared([1.9, 2.1, 2.0, 1.95, 2.05], looks)}, looks)["a"] in ("open", "futile")


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
    # No sampling, however many pairs: 2 of the 2^14 ways, where 9,999 drawn ones would give at least 2 / 10,000.
    assert sign_flip_p([float(value) for value in range(1, 15)]) == 2 / 2**14

"""A sentence for each question, and what a reader has to know besides."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from rdistill.sweeps.findings.equal_cost import EqualCost
from rdistill.sweeps.findings.statistics import EvidenceFacts, evidence
from rdistill.sweeps.findings.verdict import chance_in_words, is_futile, verdict
from rdistill.sweeps.study.records import CONFIRMED, EQUAL_COST, TrialRecord


def run(of: str, seed: int, score: float, rival: str = "", disc: float = 50.0) -> TrialRecord:
    history = [{"iter": 9, "seconds": 1.0, "mIoU": score, "IoU": {"background": 98.0, "disc": disc}}]
    phase, name = EQUAL_COST if rival else CONFIRMED, f"{of}-as-{rival}-s{seed}" if rival else f"{of}-s{seed}"
    return TrialRecord(name, {}, seed, phase=phase, of=of, rival=rival, status="finished", history=history)


def confirmed(
    ours: list[float], alone: list[float], longer: list[float], by_image: Any = None, stuck: tuple[str, ...] = ()
) -> dict[str, Any]:
    runs = [run("t0001", seed, score) for seed, score in enumerate(ours, 1)]
    runs += [run("baseline", seed, score) for seed, score in enumerate(alone, 1)]
    runs += [run("baseline", seed, score, "t0001") for seed, score in enumerate(longer, 1)]
    costs = {"t0001": EqualCost(1340, {"real": 13.4, "alone": 20.0}, {"real": 10.0, "alone": 10.0}, 3)}
    known = EvidenceFacts(costs=costs, never_trained=stuck, by_image=by_image or (lambda run: None))
    found = evidence(runs, "baseline", ["t0001"], 80.0, facts=known)
    found["configurations"][0]["label"] = "KL 3"
    return found


def test_better_at_equal_iterations_and_worse_at_equal_cost() -> None:
    found = confirmed([75.0, 76.9, 79.1], [70.0, 72.0, 74.0], [78.0, 80.0, 82.0])
    assert verdict(found, 1, tuned=True) == (
        "At equal iterations, KL 3 is better than the student alone: +5.00 mIoU (95 % interval +4.75 to +5.25, over 3 "
        "seeds). At equal cost, which gives the student alone 1,340 iterations, it is worse than the student alone: "
        "-3.00 mIoU (95 % interval -3.25 to -2.75, over 3 seeds); train the student alone for longer. "
        "KL 3 reaches 96.2 % of the teacher's mIoU."
    )


def test_p_is_adjusted_for_both_questions() -> None:
    found = confirmed([75.0, 76.9, 79.1], [70.0, 72.0, 74.0], [74.0, 77.0, 78.0])
    (entry,) = found["configurations"]
    first, second = entry["difference"], entry["equal_cost"]["difference"]
    assert first["p_adjusted"] == pytest.approx(2 * first["p"])
    # +0.67 with a spread of 0.67 on three seeds: more seeds may well show it, so it is open.
    assert second["p_adjusted"] == pytest.approx(second["p"]) and second["answer"] == "open"
    assert second["chance"] > 0.5
    assert "it is not shown to be better than the student alone: " in verdict(found, 1, tuned=True)
    assert entry["equal_cost"]["iterations"] == 1340 and entry["equal_cost"]["mean"] == pytest.approx(229 / 3)


def test_futile_on_a_fixed_list_says_what_more_seeds_would_do_and_not_that_there_is_no_gain() -> None:
    """A mean of -0.5 with a spread of 1: at 16 seeds it would have to be above 0."""
    ours = [69.5, 70.5, 68.5, 70.0, 69.0, 69.5]
    found = confirmed(ours, [70.0] * 6, [70.0] * 6)
    difference = found["configurations"][0]["difference"]
    assert difference["answer"] == "futile" and difference["chance"] < 0.05 and is_futile(difference)
    text = verdict(found, 1, tuned=True)
    assert "is not shown to be better than the student alone: -0.50 mIoU" in text
    assert text.count("More seeds would very probably not show a gain (a chance below 1 %).") == 2
    assert "no gain" not in text and "would help" not in text
    older = {key: value for key, value in difference.items() if key != "chance"}  # it called every open one futile
    assert not is_futile(older)


def test_a_chance_is_given_in_percent() -> None:
    assert [chance_in_words({"chance": chance}) for chance in (0.0001, 0.0099, 0.034)] == [
        "a chance below 1 %", "a chance below 1 %", "a chance of 3 %"
    ]  # fmt: skip


def test_too_few_images_are_what_binds() -> None:
    """+1 on every seed, to 0.1; but the 10 images say anything between -9 and +11."""
    images = np.array([-9.0, 11.0] * 5)

    def by_image(run: TrialRecord) -> np.ndarray:
        return 50 + (images if run.of == "t0001" else 0 * images)

    found = confirmed([71.0, 71.1, 70.9], [70.0, 70.0, 70.0], [70.0, 70.0, 70.0], by_image)
    difference = found["configurations"][0]["difference"]
    assert (difference["images"], difference["binds"]) == (10, "images")
    assert difference["low_seeds"] > 0 > difference["low"]  # the wider counts
    # Half by images: t(0.975, 9) = 2.262157 times the standard error of ten times -9 or 11, 10.541 / sqrt(10).
    assert difference["half_by_images"] == pytest.approx(2.262157 * 10.540926 / 10**0.5, abs=0.05)
    text = verdict(found, 1, tuned=True)
    assert "over 3 seeds and 10 images)" in text and "More seeds would not help: 10 images are too few." in text
    assert "is better" not in text


def test_seeds_that_differ_more_than_the_images_are_not_futile() -> None:
    """Five pairs of +2 to +4 and one of -8: the mean itself is unknown, so the images' smaller part decides nothing."""
    images = np.array([-3.0, 5.0] * 38)

    def by_image(run: TrialRecord) -> np.ndarray:
        return 50 + (images if run.of == "t0001" else 0 * images)

    found = confirmed([74.0, 72.0, 74.5, 62.0], [70.0, 70.0, 70.0, 70.0], [70.0, 70.0, 70.0, 70.0], by_image)
    difference = found["configurations"][0]["difference"]
    assert difference["binds"] == "seeds" and difference["half_by_images"] > abs(difference["mean"])
    text = verdict(found, 1, tuned=True)
    assert "More seeds would help more than more images." in text and "would not help" not in text


def test_a_difference_of_collapsed_runs_is_no_headline() -> None:
    """Of the demo's three pairs only one has a baseline that trained."""
    stuck = ("baseline-s1", "baseline-s2", "baseline-as-t0001-s1", "baseline-as-t0001-s2")
    found = confirmed([75.4, 75.6, 75.47], [48.87, 49.51, 75.48], [48.87, 48.87, 76.0], stuck=stuck)
    (entry,) = found["configurations"]
    assert entry["difference"] is None and entry["equal_cost"]["difference"] is None
    assert found["baseline"]["never_trained"] == [1, 2] and found["baseline"]["mean_trained"] == 75.48
    assert verdict(found, 1, tuned=True) == (
        "Not confirmed: on fewer than two seeds did both sides learn more than one class. The student alone learned "
        "more than one class in 1 of 3 runs (their mean mIoU: 75.48). KL 3 learned more than one class in 3 of 3 runs "
        "(their mean mIoU: 75.49)."
    )


def test_the_differences_are_of_the_pairs_that_trained() -> None:
    found = confirmed([75.0, 76.9, 79.1], [48.9, 72.0, 74.0], [72.0, 74.0, 76.0], stuck=("baseline-s1",))
    difference = found["configurations"][0]["difference"]
    assert (difference["n"], difference["mean"]) == (2, pytest.approx(5.0))
    assert verdict(found, 1, tuned=True).endswith(
        "The student alone learned more than one class in 2 of 3 runs (their mean mIoU: 73.00). "
        "The differences are of the seeds on which both sides did."
    )


def test_a_settled_claim_stays_and_the_seeds_are_counted() -> None:
    found = confirmed([75.0, 70.0, 79.1], [70.0, 72.0, 74.0], [70.0, 72.0, 74.0])
    found["configurations"][0]["difference"].update(settled=True, answer="better")
    found["looks"] = {"seeds": 6, "most": 16}
    text = verdict(found, 1, tuned=True)
    assert "KL 3 is better than the student alone" in text and text.endswith("Stopped after 6 of up to 16 seeds.")


def test_a_sign_flip_test_from_six_pairs_on() -> None:
    """All six differences positive: 2 of the 64 ways to swap are as far from zero."""
    six = confirmed([71.0, 72.0, 73.0, 74.0, 75.0, 76.0], [70.0] * 6, [70.0] * 6)
    assert six["configurations"][0]["difference"]["sign_flip_p"] == pytest.approx(2 / 64)
    three = confirmed([71.0, 72.0, 73.0], [70.0] * 3, [70.0] * 3)
    assert three["configurations"][0]["difference"]["sign_flip_p"] is None


@pytest.mark.parametrize(
    ("intervals", "sentence"),
    [
        ({"t0002": (1.0, -0.5, 2.5)}, "not shown to be better than t0002 (+1.00, -0.50 to +2.50)."),
        ({"t0002": (1.0, 0.5, 1.5)}, "shown to be better than t0002 (+1.00, +0.50 to +1.50)."),
        (
            {"t0002": (1.0, 0.5, 1.5), "t0003": (0.2, 0.0, 0.4)},
            "shown to be better than t0002 (+1.00, +0.50 to +1.50), and not shown to be better than t0003 (+0.20, "
            "+0.00 to +0.40).",
        ),
        (
            {"t0002": (1.0, 0.5, 1.5), "t0003": (2.0, 1.0, 3.0), "t0004": (3.0, 2.0, 4.0)},
            "shown to be better than t0002 (+1.00, +0.50 to +1.50), t0003 (+2.00, +1.00 to +3.00) and t0004 (+3.00, "
            "+2.00 to +4.00).",
        ),
        (
            {"t0002": (1.0, -0.5, 2.5), "t0003": (0.2, 0.0, 0.4)},
            "not shown to be better than t0002 (+1.00, -0.50 to +2.50) or t0003 (+0.20, +0.00 to +0.40).",
        ),
        (
            {f"t000{number}": (1.0, -1.0, 3.0) for number in range(2, 7)},
            "not shown to be better than t0002 (+1.00, -1.00 to +3.00), t0003 (+1.00, -1.00 to +3.00), t0004 (+1.00, "
            "-1.00 to +3.00) and 2 more.",
        ),
    ],
)
@pytest.mark.parametrize("turned", [False, True])
def test_the_best_of_several_configurations_against_the_others(
    intervals: dict[str, tuple[float, float, float]], sentence: str, turned: bool
) -> None:
    """Whichever of the two an entry names first; pairs of others are not in the verdict."""
    found = confirmed([75.0, 76.9, 79.1], [70.0, 72.0, 74.0], [71.0, 73.0, 75.0])
    found["configurations"] += [{**found["configurations"][0], "id": name, "mean": 60.0} for name in intervals]
    pairs = [{"first": "t0001", "second": name, "mean": mean, "low": low, "high": high}
             for name, (mean, low, high) in intervals.items()]  # fmt: skip
    if turned:
        pairs = [{"first": pair["second"], "second": "t0001", "mean": -pair["mean"], "low": -pair["high"],
                  "high": -pair["low"]} for pair in pairs]  # fmt: skip
    found["pairwise"] = [*pairs, {"first": "t0008", "second": "t0009", "mean": 9.0, "low": 8.0, "high": 10.0}]
    text = verdict(found, 1, tuned=True)
    count = len(intervals) + 1
    assert text.endswith(f" Of the {count} confirmed configurations, at equal iterations, t0001 is {sentence}")


def test_a_baseline_that_was_tuned_in_more() -> None:
    """It is said only where no gain is shown: with the same values the student under the teacher might do better."""
    reservation = (
        " The student alone has lr 0.016 (not 0.008), which no student under a teacher was tried with; search it in "
        "`space` too before you conclude."
    )
    both = confirmed([75.0, 76.9, 79.1], [70.0, 72.0, 74.0], [70.0, 72.0, 74.0])
    assert reservation not in verdict(both, 1, tuned=True, tuned_alone=["lr 0.016 (not 0.008)"])
    at_cost = confirmed([75.0, 76.9, 79.1], [70.0, 72.0, 74.0], [78.0, 80.0, 82.0])
    assert verdict(at_cost, 1, tuned=True, tuned_alone=["lr 0.016 (not 0.008)"]).endswith(reservation)
    assert reservation not in verdict(at_cost, 1, tuned=True)

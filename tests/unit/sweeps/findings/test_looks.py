"""Looks at a confirmation: what they answer, and that none is taken twice."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from rdistill.sweeps.findings.confirm import Selection, save_selection, with_more_seeds
from rdistill.sweeps.findings.equal_cost import EqualCost
from rdistill.sweeps.findings.looks import LOOKS_FILE, Look, add_look, load_looks, take_look
from rdistill.sweeps.findings.statistics import EvidenceFacts, evidence
from rdistill.sweeps.proof.decision import Looks
from rdistill.sweeps.study.records import CONFIRMED, EQUAL_COST, TrialRecord
from rdistill.sweeps.study.spec import ConfirmSpec

SELECTION = Selection("baseline", ["t0001"], list(range(1, 13)), "both", "real", 4)
LOOKS = Looks(4, 12)
ITERATIONS, COST = "t0001 at equal iterations", "t0001 at equal cost"


def records(differences: list[float], longer: list[float]) -> list[TrialRecord]:
    """A configuration at 70 and more, with these differences to the two baselines."""
    found = []
    for seed, (first, second) in enumerate(zip(differences, longer, strict=True), 1):
        for of, rival, score in (("t0001", "", 70.0), ("baseline", "", 70 - first), ("baseline", "t0001", 70 - second)):
            history = [{"iter": 9, "seconds": 1.0, "mIoU": score, "IoU": {"a": 90.0, "b": 50.0}}]
            name, phase = f"{of}{rival}-s{seed}", EQUAL_COST if rival else CONFIRMED
            more: dict[str, Any] = {"phase": phase, "of": of, "rival": rival, "status": "finished", "history": history}
            found.append(TrialRecord(name, {}, seed, **more))
    return found


def looked(differences: list[float], longer: list[float], settled: dict[str, Any] | None = None) -> Look:
    known = EvidenceFacts(LOOKS, settled or {}, {"t0001": EqualCost(150, {}, {}, 4)})
    found = evidence(records(differences, longer), "baseline", ["t0001"], None, facts=known)
    return take_look(found, len(differences), SELECTION, settled or {})


def test_a_clear_answer_to_both_questions_ends_it() -> None:
    look = looked([5.0, 5.2, 4.9, 5.1], [-3.0, -3.1, -2.9, -3.05])
    assert look.answers == {ITERATIONS: "better", COST: "worse"} and look.over
    assert look.differences[ITERATIONS]["mean"] == pytest.approx(5.05) and look.differences[COST]["n"] == 4


def test_an_open_question_goes_on_and_a_claim_stays() -> None:
    first = looked([5.0, 5.2, 4.9, 5.1], [3.0, -1.0, 2.0, 4.0])
    assert first.answers == {ITERATIONS: "better", COST: "open"} and not first.over
    later = looked([5.0, 5.2, 4.9, 5.1, -9.0], [3.0, -1.0, 2.0, 4.0, 0.5], {ITERATIONS: "better"})
    assert later.answers == {ITERATIONS: "better", COST: "open"}


def test_the_last_seed_ends_it() -> None:
    values = [3.0, -1.0, 2.0, 4.0, 0.5, -2.0, 3.0, 1.0, -1.0, 2.0, -3.0, 4.0]
    assert looked(values, values).answers == {ITERATIONS: "futile", COST: "futile"}


def test_seeds_on_which_a_side_failed_may_leave_too_few_pairs() -> None:
    few = [run for run in records([5.0] * 4, [5.0] * 4) if run.id != "baseline-s2"]
    known = EvidenceFacts(LOOKS, {}, {"t0001": EqualCost(150, {}, {}, 4)})
    look = take_look(evidence(few, "baseline", ["t0001"], None, facts=known), 4, SELECTION, {})
    assert look.answers[ITERATIONS] == "open"  # three pairs, where the first look needs four
    none = evidence([], "baseline", ["t0001"], None, facts=known)
    assert take_look(none, 11, SELECTION, {}).answers == {ITERATIONS: "futile", COST: "futile"}  # one seed is left


def test_without_baselines_of_equal_iterations_nobody_asks_about_them() -> None:
    known = EvidenceFacts(LOOKS, {}, {"t0001": EqualCost(150, {}, {}, 4)})
    found = evidence(records([5.0] * 4, [1.0, 1.1, 0.9, 1.0]), "baseline", ["t0001"], None, facts=known)
    seconds = Selection("baseline", ["t0001"], list(range(1, 13)), "seconds", "real", 4)
    assert set(take_look(found, 4, seconds, {}).answers) == {COST}


def test_more_seeds_open_again_what_was_futile_before_the_last_look(tmp_path: Path) -> None:
    """A claim stays; the error that was spent stays spent; seeds after a last look have none."""
    confirm = ConfirmSpec.model_validate({"seeds": "auto", "min": 4, "max": 16})
    save_selection(tmp_path, SELECTION)
    add_look(tmp_path, Look(6, {"a": "better", "b": "futile"}, {}, True))
    assert load_looks(tmp_path).over
    longer = with_more_seeds(SELECTION, confirm, 0, 6)
    assert longer.seeds == list(range(1, 17)) and longer.looks == Looks(4, 16, replanned=((6, 12),))
    save_selection(tmp_path, longer)
    looks = load_looks(tmp_path)
    assert not looks.over and looks.settled == {"a": "better"}
    assert add_look(tmp_path, Look(7, {"a": "better", "b": "futile"}, {}, True)).over
    assert load_looks(tmp_path).settled == {"a": "better", "b": "futile"}
    before_any_look = with_more_seeds(SELECTION, confirm, 0, 0)
    assert (before_any_look.seeds, before_any_look.replanned) == (longer.seeds, [])


def test_looks_are_recorded_and_none_is_taken_twice(tmp_path: Path) -> None:
    assert load_looks(tmp_path).seeds == 0 and not load_looks(tmp_path).over
    add_look(tmp_path, Look(4, {"a": "better", "b": "open"}, {}, False))
    with pytest.raises(AssertionError, match="a look at 4 seeds after one at 4"):
        add_look(tmp_path, Look(4, {"a": "worse", "b": "better"}, {}, True))
    add_look(tmp_path, Look(5, {"a": "better", "b": "futile"}, {"a": {"n": 5}}, True))
    looks = load_looks(tmp_path)
    assert (looks.seeds, looks.over, looks.settled) == (5, True, {"a": "better", "b": "futile"})
    assert [look["seeds"] for look in json.loads((tmp_path / LOOKS_FILE).read_text())["looks"]] == [4, 5]

"""What summary.json says of a search, of its confirmation, and what it warns of."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from confirmed_runs import RATE, WEIGHT, record, runs

from rdistill.sweeps.findings.confirm import Selection, save_selection
from rdistill.sweeps.findings.summary import (
    FINISHED,
    INTERRUPTED,
    RUNNING,
    SweepFacts,
    command_line,
    read_summary,
    tuned_alone,
    warnings_of,
    write_summary,
)
from rdistill.sweeps.study.records import ERROR, TRIALS
from rdistill.sweeps.study.spec import SweepSpec


def facts(**more: Any) -> SweepFacts:
    content = {
        "config": "a.py",
        "space": {WEIGHT: {"type": "uniform", "low": 1, "high": 9}},
        "search": {"num_trials": 2},
        **more,
    }
    images = {"training": 4, "without_masks": 9}
    scores = [{"mIoU": 80.0, "IoU": {"disc": 60.0}}]
    return SweepFacts(SweepSpec.model_validate(content), 2, 1, 10, scores, 2, images=images)


def test_the_summary_of_a_search_alone(tmp_path: Path) -> None:
    stopped = record("t0002", 62.0, values={WEIGHT: 2.0}, status="stopped")
    stopped.history[0]["iter"] = 4
    for each in (record("baseline", 60.0), record("t0001", 70.0, values={WEIGHT: 1.0}), stopped):
        each.save(tmp_path / TRIALS / each.id)
    write_summary(facts(), tmp_path, RUNNING)
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert summary["status"] == "running" and summary["environment"]["ended"] is None
    assert summary["verdict"] == (
        "Searched only, not confirmed: t0001 is best with 70.00 mIoU, 10.00 points above the student alone (60.00), "
        "each on one seed: a lead, not a result."
    )
    assert (summary["confirmed"], summary["test"], summary["pareto"]) == (None, None, None)
    searched = summary["searched"]
    assert (searched["trials"], searched["best"], searched["baseline"], searched["gain"]) == (
        2,
        "t0001",
        "baseline",
        10.0,
    )
    assert searched["status"] == {"finished": 2, "stopped": 1}
    assert summary["cost"]["iterations_saved_by_stopping"] == 6
    assert summary["cost"]["share_saved_by_stopping"] == 0.2
    assert summary["environment"]["seeds"]["confirm"] == [] and summary["environment"]["versions"]["torch"]
    assert summary["environment"]["images"] == {"training": 4, "without_masks": 9}


def test_the_summary_of_a_confirmation(tmp_path: Path) -> None:
    confirm = {"confirm": {"top": 1, "seeds": [1, 2]}}
    searched = [record("baseline", 60.0), record("t0001", 70.0, values={WEIGHT: 1.0})]
    again = [*runs("baseline", {1: 60.0, 2: 62.0}), *runs("t0001", {1: 70.0, 2: 72.1})]
    for each in (*searched, *again[:-1]):
        each.save(tmp_path / TRIALS / each.id)
    save_selection(tmp_path, Selection("baseline", ["t0001"], [1, 2]))
    first = facts(**confirm)
    assert (
        write_summary(first, tmp_path, INTERRUPTED)["verdict"]
        == "Not confirmed yet: 1 more run on fresh seeds to come."
    )
    again[-1].save(tmp_path / TRIALS / again[-1].id)
    later = facts(**confirm)
    later.started = "2030-01-01T00:00:00+00:00"
    write_summary(later, tmp_path, FINISHED)
    summary = read_summary(tmp_path)
    assert summary["confirmed"]["seeds"] == [1, 2]
    assert summary["confirmed"]["configurations"][0]["difference"]["mean"] == pytest.approx(10.05)
    assert [each["started"] for each in summary["environment"]["sessions"]] == [first.started, later.started]
    assert summary["environment"]["started"] == first.started and summary["environment"]["ended"]


def test_several_confirmed_configurations_are_compared(tmp_path: Path) -> None:
    trials = [
        record("baseline", 60.0),
        record("t0001", 70.0, values={WEIGHT: 1.0}),
        record("t0002", 69.0, values={WEIGHT: 2.0}),
    ]
    again = [
        *runs("baseline", {1: 60.0, 2: 62.0}),
        *runs("t0001", {1: 70.0, 2: 72.1}),
        *runs("t0002", {1: 69.0, 2: 70.0}),
    ]
    for each in (*trials, *again):
        each.save(tmp_path / TRIALS / each.id)
    for names in (["t0001"], ["t0001", "t0002"]):
        save_selection(tmp_path, Selection("baseline", names, [1, 2]))
        summary = write_summary(facts(confirm={"top": len(names), "seeds": [1, 2]}), tmp_path, FINISHED)
        sentence = (
            "Of the 2 confirmed configurations, at equal iterations, t0001 is not shown to be better than t0002 (+1.55,"
        )
        if len(names) == 1:
            assert "pairwise" not in summary["confirmed"] and sentence not in summary["verdict"]
        else:
            (pair,) = summary["confirmed"]["pairwise"]
            assert (pair["first"], pair["second"], pair["mean"]) == ("t0001", "t0002", pytest.approx(1.55))
            assert sentence in summary["verdict"]


def test_what_the_student_alone_was_tuned_in_alone(tmp_path: Path) -> None:
    """A key of the baselines' search alone counts where the best baseline has another value than the config."""
    rates, weights = {"type": "choice", "values": [0.1, 0.2]}, "+model.head.class_weight"
    search = {RATE: rates, weights: {"type": "choice", "values": [[1.0, 2.0], [1.0, 5.0]]}}
    unchanged = record("baseline", 60.0)
    unchanged.effective = {RATE: 0.1}
    best = record("b0001", 70.0, values={RATE: 0.2, weights: [1.0, 5.0]})
    trials = [unchanged, best, record("t0001", 65.0, values={WEIGHT: 1.0})]
    again = [*runs("b0001", {1: 70.0, 2: 72.0}), *runs("t0001", {1: 60.0, 2: 61.5})]
    for each in (*trials, *again):
        each.save(tmp_path / TRIALS / each.id)
    save_selection(tmp_path, Selection("b0001", ["t0001"], [1, 2]))
    own = facts(confirm={"top": 1, "seeds": [1, 2]}, baseline={"search": search})
    expected = "The student alone has lr 0.2 (not 0.1), class_weight [1, 5], which no student under a teacher was tried"
    summary = write_summary(own, tmp_path, FINISHED)
    assert expected.replace("[1, 5]", "[1.0, 5.0]") in summary["verdict"]
    confirmed = summary["confirmed"]
    assert tuned_alone(own.spec, [best], confirmed) == tuned_alone(own.spec, trials, None) == []
    best.values = {RATE: 0.1}
    assert tuned_alone(own.spec, trials, confirmed) == []
    both = facts(space={RATE: rates, WEIGHT: rates}, baseline={"search": search})
    best.values = {RATE: 0.2}
    assert tuned_alone(both.spec, trials, confirmed) == []  # students under a teacher were tried with it


def test_the_command_is_as_a_user_types_it() -> None:
    """Without this machine's folders, and runnable: of ``python -m rdistill`` the first argument is a file alone."""
    flags = ["sweep", "my sweep.yaml"]
    assert command_line(["/opt/env/bin/rdistill", *flags]) == "rdistill sweep 'my sweep.yaml'"
    assert command_line(["/opt/lib/rdistill/__main__.py", *flags]) == "python -m rdistill sweep 'my sweep.yaml'"
    assert command_line(["/home/me/run.py"]) == "/home/me/run.py"


def test_warnings(tmp_path: Path) -> None:
    spec = facts(space={RATE: {"type": "uniform", "low": 0.1, "high": 0.2}}).spec
    stuck, failed = record("baseline", 49.0, disc=0.0), record("t0001-s1", None, seed=1, status="failed", reason="NaN")
    rate, one_class, left_out = warnings_of(spec, [stuck, failed], tmp_path)
    assert rate.startswith(f"the baseline was not tuned, though {RATE} was searched")
    assert one_class == "baselines that never left one class: baseline"
    assert left_out == "t0001-s1 failed and is left out of its pairs: NaN"
    (tmp_path / TRIALS / "t0001-s1").mkdir(parents=True)
    (tmp_path / TRIALS / "t0001-s1" / ERROR).write_text("a traceback")
    assert warnings_of(spec, [failed], tmp_path)[-1] == f"{left_out}; see trials/t0001-s1/error.txt"
    tuned = facts(
        space={RATE: {"type": "uniform", "low": 0.1, "high": 0.2}},
        baseline={"search": {RATE: {"type": "uniform", "low": 0.1, "high": 0.2}}},
    ).spec
    assert warnings_of(tuned, [], tmp_path) == [] and warnings_of(facts().spec, [], tmp_path) == []

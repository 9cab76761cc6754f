"""What is confirmed: which of the search's configurations, which baseline, on which seeds."""

from __future__ import annotations

from pathlib import Path

from confirmed_runs import RATE, WEIGHT, record

from rdistill.sweeps.findings.confirm import Selection, load_selection, save_selection, select
from rdistill.sweeps.study.records import TRIALS, pareto
from rdistill.sweeps.study.spec import ConfirmSpec


def test_the_best_of_the_search_and_the_best_baseline_are_confirmed(tmp_path: Path) -> None:
    searched = [
        record("baseline", 60.0),
        record("b0001", 65.0, values={RATE: 0.1}),
        record("t0001", 70.0, values={WEIGHT: 1.0}),
        record("t0002", 72.0, values={WEIGHT: 2.0}),
        record("t0003", 72.5, values={WEIGHT: 2.0}),  # the same again
        record("t0004", None, values={WEIGHT: 4.0}, status="failed"),
        record("t0005", 80.0, values={WEIGHT: 5.0}, status="stopped"),
    ]
    selection = select(searched, ConfirmSpec(top=3, seeds=[7, 8]), ["mIoU"])
    assert selection == Selection("b0001", ["t0005", "t0003", "t0001"], [7, 8])
    for each in searched:
        each.save(tmp_path / TRIALS / each.id)
    planned = selection.runs(tmp_path)
    assert [run["id"] for run in planned] == [
        "b0001-s7", "t0005-s7", "t0003-s7", "t0001-s7", "b0001-s8", "t0005-s8", "t0003-s8", "t0001-s8",
    ]  # fmt: skip
    assert planned[1] == {"id": "t0005-s7", "phase": "confirm", "of": "t0005", "seed": 7, "values": {WEIGHT: 5.0}}
    assert load_selection(tmp_path) is None
    save_selection(tmp_path, selection)
    assert load_selection(tmp_path) == selection


def test_of_several_objectives_the_pareto_front_comes_first() -> None:
    sizes = {
        "t0001": (70.0, 9.0),
        "t0002": (60.0, 3.0),
        "t0003": (65.0, 9.0),
        "t0004": (50.0, 3.0),
        "t0005": (40.0, 1.0),
    }
    trials = [
        record(name, score, values={"k": name}, objectives={"params": size}) for name, (score, size) in sizes.items()
    ]
    assert pareto(trials, ["mIoU", "params"]) == ["t0001", "t0002", "t0005"]
    chosen = select(trials, ConfirmSpec(top=4, seeds=[1, 2]), ["mIoU", "params"])
    assert chosen.configurations == ["t0001", "t0002", "t0005", "t0003"] and chosen.baseline is None

"""How long the student alone trains to cost as much, and the runs that follow from it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rdistill.sweeps.findings.confirm import Selection, load_selection, select
from rdistill.sweeps.findings.equal_cost import EqualCost, equal_costs, load_equal_costs, save_equal_costs, seconds_of
from rdistill.sweeps.study.records import CONFIRMED, TRIALS, TrialRecord
from rdistill.sweeps.study.spec import BaselineSpec, ConfirmSpec

SELECTION = Selection("baseline", ["t0001"], [1, 2], "both", "real")


def run(of: str, seed: int, own: float, teacher: float = 0.0, alone: float = 0.0, **more: Any) -> TrialRecord:
    """100 iterations, with so many seconds of their own, of the teacher's share, and of a teacher alone."""
    cost = {"steps": 100, "steps_seconds": own, "teacher_seconds": teacher, "teacher_alone_seconds": alone}
    history = [{"iter": 100, "seconds": 1.0, "mIoU": 50.0}]
    options: dict[str, Any] = {"status": "finished", "history": history, "cost": cost, **more}
    return TrialRecord(f"{of}-s{seed}", {}, seed, phase=CONFIRMED, of=of, **options)


def test_as_many_iterations_as_fit_into_the_seconds() -> None:
    """Over both seeds: distilled 30 s, alone 20 s for 200 iterations; alone with a teacher for itself 50 s."""
    runs = [run("baseline", 1, 8.0), run("baseline", 2, 12.0)]
    runs += [run("t0001", 1, 9.0, 4.0, 14.0), run("t0001", 2, 13.0, 4.0, 14.0)]
    found = equal_costs(runs, SELECTION)
    assert found == {
        "t0001": EqualCost(150, {"real": 15.0, "alone": 25.0}, {"real": 10.0, "alone": 10.0}, 2),
    }
    counting_alone = Selection("baseline", ["t0001"], [1, 2], "both", "alone")
    assert equal_costs(runs, counting_alone)["t0001"].iterations == 250


def test_only_seeds_that_both_have_are_measured() -> None:
    runs = [run("baseline", 1, 10.0), run("t0001", 1, 20.0), run("t0001", 2, 99.0)]
    runs += [run("baseline", 2, 1.0, status="failed")]
    assert equal_costs(runs, SELECTION)["t0001"].iterations == 200
    assert equal_costs(runs[:1], SELECTION) == {}


def test_without_baselines_of_equal_iterations_the_searched_one_is_measured() -> None:
    alone = run("baseline", 0, 10.0)
    alone.id, alone.phase, alone.of = "baseline", "baseline", ""
    selection = Selection("baseline", ["t0001"], [1, 2], "seconds", "real")
    assert equal_costs([alone, run("t0001", 1, 20.0), run("t0001", 2, 40.0)], selection)["t0001"].iterations == 300


def test_its_runs_repeat_the_baseline_for_longer(tmp_path: Path) -> None:
    for name in ("b0001", "t0001", "t0002"):
        TrialRecord(name, {"lr": 0.1} if name == "b0001" else {"w": name}, 0).save(tmp_path / TRIALS / name)
    both = Selection("b0001", ["t0001", "t0002"], [1, 2], "both")
    assert len(both.runs(tmp_path)) == 6 and both.questions == 4
    runs = both.equal_cost_runs(tmp_path, [1], {"t0001": 150, "t0002": 170})
    assert runs == [
        {
            "id": f"b0001-as-{name}-s1", "phase": "equal-cost", "of": "b0001", "seed": 1, "values": {"lr": 0.1},
            "rival": name, "iterations": length,
        }
        for name, length in (("t0001", 150), ("t0002", 170))
    ]  # fmt: skip
    assert [TrialRecord(**trial).is_baseline for trial in runs] == [True, True]
    seconds_only = Selection("b0001", ["t0001"], [1, 2], "seconds")
    assert [trial["id"] for trial in seconds_only.runs(tmp_path)] == ["t0001-s1", "t0001-s2"]
    assert seconds_only.questions == 1


def test_what_was_measured_stays(tmp_path: Path) -> None:
    assert load_equal_costs(tmp_path) == {}
    costs = {"t0001": EqualCost(150, {"real": 15.0, "alone": 25.0}, {"real": 10.0, "alone": 10.0}, 2)}
    save_equal_costs(tmp_path, costs)
    assert load_equal_costs(tmp_path) == costs


def test_a_selection_of_an_older_version_is_of_equal_iterations(tmp_path: Path) -> None:
    (tmp_path / "confirm.json").write_text('{"baseline": "baseline", "configurations": ["t0001"], "seeds": [1, 2]}')
    selection = load_selection(tmp_path)
    assert selection is not None and selection.at_equal_iterations and not selection.at_equal_cost
    assert selection.first == 0


def test_the_selection_keeps_what_the_file_says() -> None:
    trials = [TrialRecord(name, {}, 0, history=[{"iter": 1, "mIoU": 1.0}]) for name in ("baseline", "t0001")]
    confirm = ConfirmSpec.model_validate({"top": 1, "seeds": "auto", "min": 3, "max": 5, "margin": 0.5})
    selection = select(trials, confirm, ["mIoU"], BaselineSpec(seconds="alone"), 2)
    assert selection == Selection("baseline", ["t0001"], [1, 3, 4, 5, 6], "both", "alone", 3, 0.5)


def test_mean_seconds() -> None:
    assert seconds_of([run("t0001", 1, 9.0, 1.0, 3.0), run("t0001", 2, 19.0, 1.0, 5.0)]) == {
        "real": 15.0,
        "alone": 18.0,
    }
    assert seconds_of([]) == {"real": None, "alone": None}

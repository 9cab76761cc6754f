"""What a sweep leaves on disk: records, the ranking, the table and its warnings."""

from __future__ import annotations

import csv
import json
import math
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import confirmed_runs
import pytest

from rdistill.core.files import DamagedFileError
from rdistill.sweeps.study.records import (
    BASELINE,
    DIAGNOSED,
    RECORD,
    TRIALS,
    TrialRecord,
    gain,
    gains,
    load_record,
    load_records,
    never_trained,
    pareto,
    ranked,
    twins,
    write_table,
)

WEIGHT, PAIR = "distill.losses.logits.weight", "distill.losses.hidden.pair"


def record(name: str, *scores: float, values: dict[str, Any] | None = None, **more: Any) -> TrialRecord:
    """A finished trial that was validated every 10 iterations; its disc's IoU is half its mIoU."""
    history = [
        {
            "iter": 10 * number,
            "seconds": 1.5 * number,
            "mIoU": score,
            "aAcc": 90.0,
            "IoU": {"background": 1.5 * score, "optic disc": 0.5 * score},
        }
        for number, score in enumerate(scores, start=1)
    ]
    return TrialRecord(name, values or {}, seed=7, **{"status": "finished", "history": history, **more})


def losses(*totals: float) -> list[dict[str, float]]:
    return [{"iter": 10 * number, "loss": total, "lr": 0.1} for number, total in enumerate(totals, start=1)]


def table(work_dir: Path, *records: TrialRecord) -> list[dict[str, str]]:
    path = write_table(work_dir, list(records))
    assert path == work_dir / "results.csv" and [file.name for file in work_dir.iterdir()] == ["results.csv"]
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def test_best_is_the_highest_validation() -> None:
    assert record("a", 50.0, 70.0, 60.0).best["iter"] == 20
    assert record("a").best == {}
    assert record("a", math.nan, 3.0, math.nan).best["iter"] == 20


def test_ranking() -> None:
    records = [record("none"), record("low", 40.0), record("nan", math.nan), record("high", 60.0, 50.0)]
    order = [each.id for each in ranked(records)]
    assert order[:2] == ["high", "low"] and set(order[2:]) == {"none", "nan"}


def test_gain_is_the_difference_of_the_bests() -> None:
    baseline, better, worse = record(BASELINE, 50.0, 52.0), record("t0001", 55.0, 53.0), record("t0002", 49.5)
    records = [baseline, better, worse, record("t0003")]
    assert [gain(each, records) for each in records] == [None, 3.0, -2.5, None]
    assert gain(better, [better, worse]) is None
    assert gain(better, [record(BASELINE), better]) is None


def test_the_front_is_of_those_whom_none_beats() -> None:
    """Looking at the front alone finds what looking at all pairs does, equal points and the order included."""
    draw = random.Random(0)
    trials = [
        record(
            f"t{number:04d}", draw.randrange(6), objectives={name: draw.randrange(6) for name in ("params", "flops")}
        )
        for number in range(60)
    ]
    points = {
        trial_record.id: (
            -trial_record.best["mIoU"],
            trial_record.objectives["params"],
            trial_record.objectives["flops"],
        )
        for trial_record in trials
    }
    expected = [
        name
        for name, own in points.items()
        if not any(all(a <= b for a, b in zip(point, own, strict=True)) and point != own for point in points.values())
    ]
    assert pareto(trials, ["mIoU", "params", "flops"]) == expected and len(expected) > 2


def test_no_gain_is_made_of_runs_that_never_left_one_class() -> None:
    """The demo's confirmation: two of its three baselines sit at 48.87 and 49.51."""

    def run(name: str, of: str, seed: int, score: float, disc: float = 50.0) -> TrialRecord:
        scores = {"mIoU": score, "IoU": {"background": 97.0, "disc": disc}, "trivial": {"mIoU": 48.87, "left": 90.0}}
        history = [{"iter": 1, "seconds": 1.0, **scores}]
        return TrialRecord(name, {}, seed, phase="confirm", of=of, status="finished", history=history)

    records = [
        *(run(f"t0001-s{seed}", "t0001", seed, score) for seed, score in enumerate((75.4, 75.6, 75.47), 1)),
        *(run(f"baseline-s{seed}", BASELINE, seed, score, 1.4) for seed, score in enumerate((48.87, 49.51), 1)),
        run("baseline-s3", BASELINE, 3, 75.48),
    ]
    assert never_trained(records) == {"baseline-s1", "baseline-s2"}
    found = {name: gain for name, gain in gains(records).items() if name.startswith("t")}
    assert found == {"t0001-s1": None, "t0001-s2": None, "t0001-s3": pytest.approx(-0.01)}


def test_no_gain_is_made_of_a_confirmation_run_that_has_not_finished(tmp_path: Path) -> None:
    """Killed amid the runs of equal cost, and amid those of equal iterations; each run has validated twice."""
    runs = [
        record("t0001-s1", 60.0, 61.0, phase="confirm", of="t0001"),
        record("baseline-s1", 55.0, 56.0, phase="confirm", of=BASELINE),
        record("baseline-as-t0001-s1", 57.0, 58.0, phase="equal-cost", of=BASELINE, rival="t0001"),
    ]

    def shown(*unfinished: int) -> tuple[str, str]:
        for index, run in enumerate(runs):
            run.status = "running" if index in unfinished else "finished"
        (row,) = (row for row in table(tmp_path, *runs) if row["id"] == "t0001-s1")
        return row["gain"], row["gain_equal_cost"]

    assert shown() == ("5.0", "3.0")
    assert shown(2) == ("5.0", "")
    assert shown(1) == ("", "3.0")
    assert shown(0) == ("", "")


def test_twins() -> None:
    first = record("t0001", values={WEIGHT: 1.0}, losses=losses(0.9, 0.8))
    same_values = record("t0002", values={WEIGHT: 1.0}, losses=losses(0.9, 0.8))
    third = record("t0003", values={WEIGHT: 2.0}, losses=losses(0.9, 0.8000001))
    twin = record("t0004", values={WEIGHT: 3.0}, losses=losses(0.9, 0.8))
    silent = [record("t0005", values={WEIGHT: 4.0}), record("t0006", values={WEIGHT: 5.0})]
    assert twins([first, same_values, third, *silent]) == []
    assert twins([first, same_values, third, twin, *silent]) == [("t0001", "t0004")]


def test_the_configured_baseline_and_a_search_that_sets_its_values_again_are_no_twins() -> None:
    rate = "optim_wrapper.optimizer.lr"
    configured = record(BASELINE, losses=losses(0.9), effective={rate: 0.01})
    again = record("b0001", values={rate: 0.01}, losses=losses(0.9), effective={rate: 0.01})
    without_effect = record("b0002", values={rate: 0.02}, losses=losses(0.9), effective={rate: 0.02})
    assert twins([configured, again]) == []
    assert twins([configured, without_effect]) == [(BASELINE, "b0002")]


def test_twins_show_in_the_table(tmp_path: Path) -> None:
    first = record("t0001", 50.0, values={WEIGHT: 1.0}, losses=losses(0.9))
    second = record("t0002", 50.0, values={WEIGHT: 2.0}, losses=losses(0.9))
    rows = table(tmp_path, first, second)
    assert [row["note"] for row in rows] == ["", "same losses as t0001 in spite of different values"]


def test_columns_and_values(tmp_path: Path) -> None:
    values = {WEIGHT: 3.0, PAIR: [0, 2]}
    effective = {WEIGHT: 3.0, PAIR: (0, 2), "distill.task_weight": 1.0}
    baseline = record(BASELINE, 50.0, 40.0)
    trial = record("t0001", 48.0, 52.5, values=values, effective=effective, teacher_mIoU=80.25)
    rows = table(tmp_path, baseline, trial)
    assert rows[0] == {
        "id": "t0001",
        "phase": "search",
        "of": "",
        "status": "finished",
        PAIR: "[0, 2]",
        WEIGHT: "3.0",
        "mIoU": "52.5",
        "gain": "2.5",
        "gain_equal_cost": "",
        "IoU background": "78.75",
        "IoU optic disc": "26.25",
        "best_iter": "20",
        "iterations": "20",
        "seconds": "3.0",
        "seconds_real": "3.0",
        "seconds_alone": "3.0",
        "seed": "7",
        "attempts": "0",
        "teacher_mIoU": "80.25",
        **dict.fromkeys(DIAGNOSED, ""),
        "note": "",
    }
    assert rows[1]["id"] == BASELINE
    assert [rows[1][key] for key in (WEIGHT, PAIR, "gain", "teacher_mIoU")] == [""] * 4
    assert (rows[1]["mIoU"], rows[1]["best_iter"], rows[1]["iterations"]) == ("50.0", "10", "20")


def test_a_diagnosed_run_has_the_figures_of_its_last_validation(tmp_path: Path) -> None:
    run = record("t0001-s1", 48.0, 52.5, 51.0)
    figures: dict[str, object] = {name: float(index) for index, name in enumerate(DIAGNOSED)}
    run.history[1]["diagnosis"] = {"iter": 20, **figures, "gradient_cosine": None}
    run.history[2]["diagnosis"] = {"iter": 30, "problem": "RuntimeError: out of memory"}
    row = table(tmp_path, run)[0]
    assert {name: row[name] for name in DIAGNOSED} == {
        "agreement": "0.0", "errors_repeated": "1.0", "errors_to_learn": "2.0", "gradient_ratio": "3.0",
        "gradient_cosine": "", "teacher_calibration_error": "5.0",
    }  # fmt: skip


def test_measured_weights_have_columns(tmp_path: Path) -> None:
    """Those of the best validation, in full; a trial whose weight is a number has none."""
    measured = record("t0001", 48.0, 52.5, 51.0, values={f"{WEIGHT}.share": 0.5}, effective={f"{WEIGHT}.share": 0.5})
    for entry, weight in zip(measured.history, (1.0, 1 / 3, 3.0), strict=True):
        entry["weights"] = {"logits": weight}
    rows = table(tmp_path, measured, record("t0002", 40.0, values={WEIGHT: 3.0}))
    columns = [name for name in rows[0] if "weight" in name]
    assert columns == [WEIGHT, f"{WEIGHT}.share", "weight/logits"]
    assert [[row[name] for name in columns] for row in rows] == [["", "0.5", str(1 / 3)], ["3.0", "", ""]]


def test_the_table_shows_what_was_used_rather_than_asked_for(tmp_path: Path) -> None:
    setting, used = {WEIGHT: 3.0}, {WEIGHT: 4.0}
    rows = table(tmp_path, record("t0001", 1.0, values=setting, effective=used), record("t0002", values=setting))
    assert [row[WEIGHT] for row in rows] == ["4.0", "3.0"]


def test_failed_stopped_and_running_rows(tmp_path: Path) -> None:
    rows = table(
        tmp_path,
        record("t0001", values={WEIGHT: 1.0}, status="failed", reason="iteration 2: loss is not finite, so"),
        record("t0002", 60.0, values={WEIGHT: 2.0}, status="stopped"),
        record("t0003", 50.0, 55.0, values={WEIGHT: 3.0}, status="running"),
        record(BASELINE, 0.5),
    )
    assert [(row["id"], row["status"], row["iterations"]) for row in rows] == [
        ("t0002", "stopped", "10"),
        ("t0003", "running", "20"),
        (BASELINE, "finished", "10"),
        ("t0001", "failed", "0"),
    ]
    failed = rows[-1]
    assert failed["note"] == "iteration 2: loss is not finite, so" and failed[WEIGHT] == "1.0"
    assert [failed[key] for key in ("mIoU", "gain", "IoU background", "best_iter", "seconds")] == [""] * 5
    assert rows[2]["note"] == "never left one class"


def test_a_class_that_never_occurs_has_an_empty_cell(tmp_path: Path) -> None:
    trial = record("t0001", 50.0)
    trial.history[0]["IoU"]["optic disc"] = None
    assert table(tmp_path, trial)[0]["IoU optic disc"] == ""


def test_no_trials(tmp_path: Path) -> None:
    assert table(tmp_path) == []


# ---------------------------------------------------------------------------------------------------------
# Records


def test_a_record_comes_back(tmp_path: Path) -> None:
    full = record("t0001", 50.0, values={PAIR: [0, 1], WEIGHT: 0.1}, losses=losses(0.5), teacher_mIoU=80.0)
    full.save(tmp_path / "t0001")
    assert load_record(tmp_path / "t0001") == full
    assert load_record(tmp_path / "none") is None


def test_nan_comes_back(tmp_path: Path) -> None:
    record("t0001", math.nan, 40.0, losses=losses(math.nan)).save(tmp_path)
    back = load_record(tmp_path)
    assert back is not None and math.isnan(back.history[0]["mIoU"]) and back.best["mIoU"] == 40.0
    assert math.isnan(back.losses[0]["loss"])


def test_a_record_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    record("t0001", 50.0).save(tmp_path)
    before = (tmp_path / RECORD).read_text()
    unwritable = record("t0001", 60.0, values={"k": object()})
    with pytest.raises(TypeError):
        unwritable.save(tmp_path)
    assert (tmp_path / RECORD).read_text() == before
    record("t0001", 70.0).save(tmp_path)
    assert json.loads((tmp_path / RECORD).read_text())["history"][0]["mIoU"] == 70.0
    assert [file.name for file in tmp_path.iterdir()] == [RECORD]


def test_records_of_a_sweep(tmp_path: Path) -> None:
    assert load_records(tmp_path) == []
    for name in ("t0002", BASELINE, "t0001"):
        record(name, 50.0).save(tmp_path / TRIALS / name)
    (tmp_path / TRIALS / "t0003").mkdir()  # killed before its first record
    (tmp_path / TRIALS / "t0004").mkdir()
    (tmp_path / TRIALS / "t0004" / f".{RECORD}.partial").write_text('{"id": "t00')
    assert [each.id for each in load_records(tmp_path)] == [BASELINE, "t0001", "t0002"]


def test_results_need_neither_torch_nor_ray() -> None:
    code = (
        "import sys, rdistill.sweeps.study.records\n"
        "heavy = {'torch', 'ray', 'mmengine', 'mmseg', 'optuna'} & set(sys.modules)\n"
        "sys.exit(', '.join(heavy) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


def test_a_spreadsheet_takes_no_text_for_a_formula(tmp_path: Path) -> None:
    values = {"a": "=cmd|' /C calc'!A0", "+b": -1.5, "c": "-1.5", "d": "@SUM(A1)", "e": [math.nan, -1], "f": "plain"}
    failed = record("t0001", 50.0, values=values, status="failed", reason="-> it broke")
    (row,) = table(tmp_path, failed)
    assert row["a"] == "'=cmd|' /C calc'!A0" and row["d"] == "'@SUM(A1)" and row["note"].startswith("'-> it broke")
    assert row["'+b"] == "-1.5" and row["c"] == "-1.5" and row["e"] == "[null, -1]" and row["f"] == "plain"


@pytest.mark.parametrize("content", ["", '{"id": "t0001", "val', "[]"])
def test_a_damaged_record_is_one_line_that_names_it(tmp_path: Path, content: str) -> None:
    record("t0001", 50.0).save(tmp_path / "trials" / "t0001")
    (tmp_path / "trials" / "t0001" / RECORD).write_text(content)
    with pytest.raises(
        DamagedFileError, match=r"trials/t0001/trial\.json: is damaged .*; copy it from a backup"
    ) as caught:
        load_records(tmp_path)
    assert len(caught.value.problems) == 1


def test_gain_is_over_the_best_baseline_and_of_a_confirmation_over_the_same_seeds() -> None:
    searched = [
        confirmed_runs.record("baseline", 60.0),
        confirmed_runs.record("b0001", 65.0),
        confirmed_runs.record("t0001", 70.0),
    ]
    again = [*confirmed_runs.runs("b0001", {1: 66.0, 2: 50.0}), *confirmed_runs.runs("t0001", {1: 69.0, 2: 70.0})]
    records = [*searched, *again]
    assert [gain(each, records) for each in records] == [None, None, 5.0, None, None, 3.0, 20.0]

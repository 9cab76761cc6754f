"""A confirmation at equal iterations and at equal cost, decided by looks, from the file to the report."""

from __future__ import annotations

import json
import math
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import Tiny

from e2e.conftest import TIMEOUT_S, Sandbox
from e2e.processes import under, wait_until, wait_until_gone
from rdistill.sweeps.proof.two_way import mean_iou

pytestmark = [pytest.mark.e2e, pytest.mark.slow]  # starts of Ray, and twenty small students

WEIGHT = "distill.losses.logits.weight"
Rows = Callable[[Path], dict[str, dict[str, str]]]
ITERATIONS, INTERVAL = 8, 4


@pytest.fixture(scope="module")
def command(tiny: Tiny, sandbox: Sandbox) -> Callable[..., list[object]]:
    """`sweep` of two students on generated images, whose test split is a copy of the validation images."""
    test_root = sandbox.root / "test-data"
    shutil.copytree(tiny.data_root, test_root)
    study = {
        "config": str(tiny.folder / "distill.py"),
        "set": {"test_dataloader.dataset.data_root": str(test_root)},
        "space": {WEIGHT: {"type": "loguniform", "low": 1.0, "high": 100.0}},
        "search": {"type": "random", "num_trials": 2},
    }
    data = ["--data-root", tiny.data_root, "--size", 32, "--batch-size", 2]
    data += ["--val-interval", INTERVAL, "--iters", ITERATIONS]

    def arguments(name: str, **more: Any) -> list[object]:
        return ["sweep", sandbox.sweep_file(name, {**study, **more}), "--work-dir", sandbox.root / name, *data]

    return arguments


def summary_of(work_dir: Path) -> dict[str, Any]:
    return dict(json.loads((work_dir / "summary.json").read_text()))


def test_both_baselines_of_a_list_of_seeds(sandbox: Sandbox, command: Callable[..., list[object]], rows: Rows) -> None:
    done = sandbox.run(*command("both", confirm={"top": 1, "seeds": [1, 2]}))
    work_dir = sandbox.root / "both"
    summary, found = summary_of(work_dir), rows(work_dir)
    (entry,) = summary["confirmed"]["configurations"]
    name, cost = entry["id"], entry["equal_cost"]
    again = {key for key, row in found.items() if row["phase"] in ("confirm", "equal-cost")}
    assert again == {f"{arm}-s{seed}" for arm in (name, "baseline", f"baseline-as-{name}") for seed in (1, 2)}

    # They are as long as the seconds say, on the same seeds, with as many validations.
    distilled = [found[f"{name}-s{seed}"] for seed in (1, 2)]
    alone = [found[f"baseline-s{seed}"] for seed in (1, 2)]
    expected = sum(float(row["seconds_real"]) for row in distilled) / sum(float(row["seconds_real"]) for row in alone)
    assert cost["iterations"] == pytest.approx(expected * ITERATIONS, abs=1)
    for seed in (1, 2):
        row, trial = (found[f"baseline-as-{name}-s{seed}"], work_dir / "trials" / f"baseline-as-{name}-s{seed}")
        assert (row["of"], row["seed"], int(row["iterations"])) == ("baseline", str(seed), cost["iterations"])
        record = json.loads((trial / "trial.json").read_text())
        assert len(record["history"]) == ITERATIONS // INTERVAL
        assert f"end={cost['iterations']}" in (trial / "trial.py").read_text()  # the schedule is stretched
        ours = found[f"{name}-s{seed}"]
        if "never left one class" in ours["note"] + row["note"]:  # no difference is made of such a run
            assert ours["gain_equal_cost"] == ""
        else:
            difference = float(ours["mIoU"]) - float(row["mIoU"])
            assert float(ours["gain_equal_cost"]) == pytest.approx(difference, abs=1e-3)
    # Alone, nobody shares: it is not cheaper.
    assert all(float(row["seconds_alone"]) >= float(row["seconds_real"]) for row in distilled)

    # The counts of each image are those of the student that was scored, on both splits.
    for trial in again:
        for split, score in (("val", float(found[trial]["mIoU"])), ("test", None)):
            with np.load(work_dir / "trials" / trial / f"confusion_{split}.npz", allow_pickle=False) as counts:
                assert counts["counts"].shape == (3, 2, 2) and len(set(counts["images"])) == 3
                if score is not None:
                    assert float(mean_iou(counts["counts"].sum(0))) == pytest.approx(score, abs=1e-3)
    verdict = summary["verdict"]
    assert verdict in done.stdout and (
        "At equal cost, which gives the student alone" in verdict or "more than one class" in verdict
    )
    card = (work_dir / "model_card.md").read_text()
    assert "equal cost" in card
    sandbox.run("report", work_dir)
    assert "At equal cost" in (work_dir / "report.html").read_text()


def test_seeds_are_added_until_it_is_decided_and_a_kill_looks_at_none_twice(
    sandbox: Sandbox, command: Callable[..., list[object]]
) -> None:
    work_dir, arguments = (
        sandbox.root / "auto",
        command("auto", confirm={"top": 1, "seeds": "auto", "min": 2, "max": 4}),
    )
    with sandbox.start(*arguments) as driver:  # killed in the first trial of a seed that the first look asked for
        waited_until = time.monotonic() + TIMEOUT_S
        looks = work_dir / "looks.json"
        while not looks.is_file() and driver.poll() is None:
            assert time.monotonic() < waited_until
            time.sleep(0.01)
        driver.send_signal(signal.SIGKILL)
        driver.communicate()
    time.sleep(5)  # the trials' own processes notice, and end
    first = json.loads(looks.read_text())["looks"]
    done = sandbox.run(*arguments, "--resume")
    each = json.loads(looks.read_text())["looks"]
    assert each[: len(first)] == first  # what was seen before the kill stays
    seeds = [look["seeds"] for look in each]
    assert seeds[0] == 2 and seeds == sorted(set(seeds)) and seeds[-1] <= 4
    assert [look["over"] for look in each] == [False] * (len(each) - 1) + [True]
    assert done.stdout.count("look      after 2 seeds") == 0  # what was seen before the kill is not looked at again
    summary = summary_of(work_dir)
    assert summary["status"] == "finished" and summary["confirmed"]["looks"]["seeds"] == seeds[-1]
    assert summary["confirmed"]["seeds"] == list(range(1, seeds[-1] + 1))
    (entry,) = summary["confirmed"]["configurations"]
    for difference in filter(None, (entry["difference"], entry["equal_cost"]["difference"])):
        assert difference["answer"] in ("better", "worse", "futile") and math.isfinite(difference["low"])
    again = sandbox.run(*arguments, "--resume")  # nothing is left to do, and nothing is looked at
    assert json.loads(looks.read_text())["looks"] == each and "look      " not in again.stdout


def test_a_confirmation_that_was_killed_between_looks_is_given_more_seeds(
    sandbox: Sandbox, command: Callable[..., list[object]]
) -> None:
    """What was seen stays, no seed is looked at or trained twice, and the error that was spent stays spent."""
    name, confirm = "more", {"top": 1, "seeds": "auto", "min": 2, "max": 3}
    work_dir, arguments = sandbox.root / name, command(name, confirm=confirm, headroom="off")
    looks, trials = work_dir / "looks.json", work_dir / "trials"

    def each_look() -> list[dict[str, Any]]:
        return list(json.loads(looks.read_text())["looks"])

    with sandbox.start(*arguments) as driver:
        wait_until(looks.is_file, driver)
        started = under(driver.pid)
        driver.send_signal(signal.SIGKILL)
        driver.communicate()
    wait_until_gone(started)
    first = each_look()
    assert [look["seeds"] for look in first] == [2] and not {"better", "worse"} & {*first[0]["answers"].values()}
    written = {file: file.stat().st_mtime_ns for file in trials.glob("*-s[12]/student.pth")}
    assert len(written) == 6  # both arms, and the student alone at equal cost

    more = command(name, confirm={**confirm, "max": 5}, headroom="off")
    done = sandbox.run(*more, "--resume")
    spent = [line for line in done.stdout.splitlines() if line.startswith("look      up to 5 seeds from now on: ")]
    assert len(spent) == 1 and "of the 5 % of error are spent, the rest is for the looks after 2 seeds" in spent[0]
    selection = json.loads((work_dir / "confirm.json").read_text())
    assert selection["seeds"] == [1, 2, 3, 4, 5] and selection["replanned"] == [[2, 3]]
    each = each_look()
    seeds = [look["seeds"] for look in each]
    assert each[0] == first[0] and seeds == sorted(set(seeds)) and 2 < seeds[-1] <= 5 and each[-1]["over"]
    assert done.stdout.count("look      after 2 seeds") == 0
    assert all(done.stdout.count(f"look      after {count} seeds") == 2 for count in seeds[1:])  # a line a question
    assert {file: file.stat().st_mtime_ns for file in written} == written
    shown = summary_of(work_dir)["confirmed"]["looks"]
    assert (shown["most"], shown["replanned"], shown["seeds"]) == (5, [[2, 3]], seeds[-1])

    again = sandbox.run(*more, "--resume")
    assert each_look() == each and "look      " not in again.stdout
    fewer = command(name, confirm=confirm, headroom="off")  # written again: the file is that of `more`
    refused = sandbox.run(*fewer, "--resume", status=2)
    assert refused.stderr == (
        f"error: {work_dir}: --resume: sweep.confirm.max was 5, is 3; "
        "set it back, or use another --work-dir for this other study\n"
    )


def test_a_kill_amid_the_baseline_of_equal_cost_changes_no_number(
    sandbox: Sandbox, command: Callable[..., list[object]], rows: Rows
) -> None:
    """Each run is afterwards the one that it is alone, from its own config to its end, and each seed was seen once."""
    work_dir = sandbox.root / "amid"
    arguments = command("amid", confirm={"top": 1, "seeds": "auto", "min": 2, "max": 3}, headroom="off")
    arguments += ["--iters", 60, "--val-interval", 20]
    trials, looks = work_dir / "trials", work_dir / "looks.json"

    def status_of(folder: Path) -> str:
        file = folder / "trial.json"
        return str(json.loads(file.read_text())["status"]) if file.is_file() else ""

    def longer() -> dict[str, str]:
        return {folder.name: status_of(folder) for folder in trials.glob("baseline-as-*")}

    with sandbox.start(*arguments) as driver:
        wait_until(lambda: "running" in longer().values(), driver)
        started = under(driver.pid)
        driver.send_signal(signal.SIGKILL)
        driver.communicate()
    wait_until_gone(started)
    assert set(longer().values()) != {"finished"} and not looks.is_file()  # ended amid them, before the first look
    kept = json.loads((work_dir / "equal_cost.json").read_text())
    done = sandbox.run(*arguments, "--resume")

    assert json.loads((work_dir / "equal_cost.json").read_text()) == kept  # the lengths are not measured again
    seeds = [look["seeds"] for look in json.loads(looks.read_text())["looks"]]
    assert seeds == sorted(set(seeds)) and seeds[0] == 2
    assert all(done.stdout.count(f"look      after {count} seeds") == 2 for count in seeds)  # a line a question
    table = {name: row for name, row in rows(work_dir).items() if row["phase"] in ("confirm", "equal-cost")}
    assert {row["status"] for row in table.values()} == {"finished"} and len(table) == 3 * seeds[-1]
    (iterations,) = {entry["iterations"] for entry in kept.values()}
    for name, row in table.items():
        if name.startswith("baseline"):  # those with a teacher compute it otherwise in a cohort
            assert int(row["iterations"] or 60) == (iterations if "-as-" in name else 60)
            alone = sandbox.root / f"alone-{name}"
            sandbox.run("train", trials / name / "trial.py", "--seed", row["seed"], "--work-dir", alone)
            assert json.loads((alone / "metrics.json").read_text())["mIoU"] == pytest.approx(
                float(row["mIoU"]), abs=1e-4
            )
    again = sandbox.run(*arguments, "--resume")
    assert [look["seeds"] for look in json.loads(looks.read_text())["looks"]] == seeds
    assert "look      after" not in again.stdout

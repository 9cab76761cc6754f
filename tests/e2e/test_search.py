"""Searches of tiny students that begin with what is known, grow when they are resumed, and learn from each other."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna
import pytest
from conftest import Tiny

from e2e.conftest import Sandbox

pytestmark = pytest.mark.e2e

LOGITS, HIDDEN, RATE = "distill.losses.logits.weight", "distill.losses.hidden", "optim_wrapper.optimizer.lr"
AT = {"type": "AT", "pair": [0, 0]}
Rows = Callable[[Path], dict[str, dict[str, str]]]
TrialJson = Callable[[Path, str], dict[str, Any]]


@pytest.fixture(scope="module")
def small(tiny: Tiny) -> list[object]:
    return ["--data-root", tiny.data_root, "--size", 32, "--batch-size", 2, "--val-interval", 2, "--iters", 4]


@pytest.fixture(scope="module")
def content(tiny: Tiny, sandbox: Sandbox) -> dict[str, Any]:
    return {
        "config": str(tiny.folder / "distill.py"),
        "space": {
            LOGITS: {"type": "loguniform", "low": 1.0, "high": 100.0},
            f"{HIDDEN}.weight": {"type": "int", "low": 1, "high": 50, "log": True},
            HIDDEN: {"type": "choice", "values": [None, AT]},
            RATE: {"type": "uniform", "low": 0.01, "high": 0.05, "step": 0.01},
        },
        "search": {
            "type": "auto",
            "num_trials": 2,
            "seed": 5,
            "start": [{LOGITS: 7.0, HIDDEN: None, RATE: 0.02}, "baseline"],
            "storage": f"sqlite:///{sandbox.root}/watched.db",
        },
        "baseline": {"search": {RATE: {"type": "uniform", "low": 0.01, "high": 0.05, "step": 0.01}}, "num_trials": 1},
        "headroom": "off",
        "confirm": {"top": 1, "seeds": [1, 2]},
    }


@pytest.fixture(scope="module")
def begun(sandbox: Sandbox, content: dict[str, Any], small: list[object]) -> Path:
    work_dir = sandbox.root / "a"
    done = sandbox.run("sweep", sandbox.sweep_file("a", content), "--work-dir", work_dir, *small)
    assert done.stderr == ""
    return work_dir


def watched(sandbox: Sandbox, work_dir: Path) -> dict[str, optuna.trial.FrozenTrial]:
    """The trials in the storage by id; all of them are over."""
    trials = optuna.load_study(study_name=work_dir.name, storage=f"sqlite:///{sandbox.root}/watched.db").trials
    assert {trial.state for trial in trials} == {optuna.trial.TrialState.COMPLETE}
    by_id = {trial.user_attrs["id"]: trial for trial in trials}
    assert len(by_id) == len(trials)
    return by_id


def values(work_dir: Path, trial_json: TrialJson, prefix: str) -> dict[str, dict[str, Any]]:
    names = sorted(folder.name for folder in (work_dir / "trials").iterdir())
    return {name: trial_json(work_dir, name)["values"] for name in names if name.startswith(prefix) and "-" not in name}


def test_a_search_begins_with_its_starts(begun: Path, trial_json: TrialJson) -> None:
    trials = values(begun, trial_json, "t")
    assert trials["t0001"] == {HIDDEN: None, LOGITS: 7.0, RATE: 0.02}
    scores = {name: trial_json(begun, name)["history"] for name in ("baseline", "b0001")}
    best = max(scores, key=lambda name: max(entry["mIoU"] for entry in scores[name]))
    rate = {**trial_json(begun, best)["values"]}.get(RATE)
    if rate is not None:  # the baseline as configured has the config's own rate, which a step may leave out
        assert trials["t0002"][RATE] == rate
    assert all((f"{HIDDEN}.weight" in trial) == (trial[HIDDEN] is not None) for trial in trials.values())


def test_others_can_read_a_search_in_its_storage(begun: Path, sandbox: Sandbox, trial_json: TrialJson) -> None:
    found = watched(sandbox, begun)
    assert sorted(found) == ["t0001", "t0002"]
    for name, trial in found.items():
        record = trial_json(begun, name)
        best = max(entry["mIoU"] for entry in record["history"])
        assert trial.value == trial.user_attrs["mIoU"] == pytest.approx(best)
        assert set(trial.intermediate_values) == {2, 4} and trial.params[RATE] == record["values"][RATE]
        assert trial.user_attrs[f"effective {RATE}"] == record["values"][RATE]
        assert trial.user_attrs["status"] == "finished" and trial.user_attrs["seconds"] > 0


def test_it_grows_when_it_is_resumed(
    begun: Path, sandbox: Sandbox, content: dict[str, Any], small: list[object], trial_json: TrialJson, rows: Rows
) -> None:
    """More trials, a wider range and a third seed: what is there is not trained again. Alone, without a cohort."""
    before = values(begun, trial_json, "t")
    times = {name: (begun / "trials" / name / "student.pth").stat().st_mtime_ns for name in before}
    start = {LOGITS: 150.0, HIDDEN: AT, f"{HIDDEN}.weight": 3, RATE: 0.03}
    more = {
        **content,
        "space": {**content["space"], LOGITS: {"type": "loguniform", "low": 1.0, "high": 200.0}},
        "search": {**content["search"], "num_trials": 4, "start": [*content["search"]["start"], start]},
        "confirm": {"top": 1, "seeds": [1, 2, 3]},
    }
    lower = {**more, "search": {**more["search"], "num_trials": 1}}
    refused = sandbox.run("sweep", sandbox.sweep_file("l", lower), "--work-dir", begun, *small, "--resume", status=2)
    assert refused.stderr == (
        f"error: {begun}: --resume: sweep.search.num_trials was 2, is 1; "
        "set it back, or use another --work-dir for this other study\n"
    )
    sandbox.run("sweep", sandbox.sweep_file("m", more), "--work-dir", begun, *small, "--resume")
    trials = values(begun, trial_json, "t")
    assert list(trials) == ["t0001", "t0002", "t0003", "t0004"]
    assert {name: trials[name] for name in before} == before
    assert trials["t0003"] == start and trials["t0004"] not in list(trials.values())[:3]
    assert {name: (begun / "trials" / name / "student.pth").stat().st_mtime_ns for name in before} == times
    confirmed = [row["seed"] for row in rows(begun).values() if row["phase"] == "confirm" and row["of"].startswith("t")]
    assert {"1", "2", "3"} <= set(confirmed)
    assert {row["status"] for row in rows(begun).values()} == {"finished"}
    assert sorted(watched(sandbox, begun)) == list(trials)


def test_it_learns_from_a_finished_sweep_without_trying_it_again(
    begun: Path, sandbox: Sandbox, content: dict[str, Any], small: list[object], trial_json: TrialJson
) -> None:
    search = {"type": "auto", "num_trials": 1, "from": [str(begun)], "start": [{LOGITS: 7.0, HIDDEN: None, RATE: 0.02}]}
    plain = {key: content[key] for key in ("config", "space", "headroom")}
    file = sandbox.sweep_file("f", {**plain, "search": search, "cohort": {"size": "off"}})
    longer = [*small[:-1], 6]
    refused = sandbox.run("sweep", file, "--work-dir", sandbox.root / "f", *longer, status=2)
    hint = "; leave this other study out, or set search.from_differs: true"
    differences = ("param_scheduler[0].end was 4, is 6", "train_cfg.max_iters was 4, is 6")
    lines = refused.stderr.removeprefix("error: ").splitlines()
    assert len(lines) == 2  # a line for each difference
    for line, difference in zip(lines, differences, strict=True):
        assert f"search.from: {begun}: {difference}{hint}" in line
    done = sandbox.run("sweep", file, "--work-dir", sandbox.root / "f", *small)
    assert f"from      {begun}: " in done.stdout and " trials known already" in done.stdout
    (trial,) = values(sandbox.root / "f", trial_json, "t").values()
    assert trial not in values(begun, trial_json, "t").values()


@pytest.mark.parametrize(
    ("search", "message"),
    [
        ({"start": [{LOGITS: 0.5}]}, f"search.start[0]: {LOGITS} is 0.5, and the space has 1 to 100; widen the space"),
        ({"from": ["nowhere"]}, "search.from: nowhere: holds no sweep; name the work dir of one that has finished"),
        ({"storage": "sqlite:////no/where.db"}, "search.storage: sqlite:////no/where.db: does not answer: "),
    ],
)
def test_a_mistake_is_one_line_before_any_trial(
    sandbox: Sandbox, content: dict[str, Any], small: list[object], search: dict[str, Any], message: str
) -> None:
    plain = {key: content[key] for key in ("config", "space")}
    file = sandbox.sweep_file("mistake", {**plain, "search": {"type": "auto", "num_trials": 2, **search}})
    done = sandbox.run("sweep", file, "--work-dir", sandbox.root / "mistake", *small, status=2)
    assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1 and message in done.stderr

"""The Python API: what a script or a notebook calls."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pandas
import pytest
from conftest import REPO, Run, Tiny

import rdistill
import rdistill.sweeps.run
import rdistill.training.run
from rdistill.core.errors import UserError
from rdistill.core.files import lock_folder
from rdistill.sweeps.study.records import TRIALS, TrialRecord, write_table

WEIGHT, PAIR, LOSS = "distill.losses.logits.weight", "distill.losses.hidden.pair", "distill.losses.hidden"


@pytest.mark.parametrize(
    "imports",
    [
        "import rdistill",
        "import rdistill.sweeps.study.spec; import rdistill",
        "from rdistill.sweeps.study import records; import rdistill",
        "import rdistill; import rdistill.sweeps.study; from rdistill.sweeps.study.spec import SweepSpec",
    ],
)
def test_the_functions_are_functions_whatever_was_imported(imports: str) -> None:
    """`rdistill.sweep` is a function, and its package `rdistill.sweeps`: no import makes the one the other."""
    code = f"{imports}\nimport sys, types\nassert isinstance(rdistill.sweep, types.FunctionType)\n"
    code += "assert isinstance(rdistill.train, types.FunctionType)\n"
    code += "assert not {'torch', 'ray', 'mmengine', 'pandas', 'rich'} & set(sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=REPO, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_also_after_the_heavy_modules() -> None:
    assert all(callable(getattr(rdistill, name)) for name in ("train", "sweep", "evaluate", "load_results"))
    assert rdistill.sweep is rdistill.api.sweep and rdistill.train is rdistill.api.train


def test_what_is_offered_is_documented_and_typed() -> None:
    assert (Path(rdistill.__file__).parent / "py.typed").is_file()
    page = (REPO / "docs" / "api.md").read_text()
    for name in set(rdistill.__all__) - {"__version__"}:
        assert f"rdistill.{name}" in page
        offered = getattr(rdistill, name)
        assert offered.__doc__
    tree = ast.parse((REPO / "rdistill" / "api.py").read_text())
    for function in (node for node in tree.body if isinstance(node, ast.FunctionDef)):
        arguments = [*function.args.args, *function.args.kwonlyargs]
        assert function.returns and all(argument.annotation for argument in arguments), function.name
        if not function.name.startswith("_"):
            doc = ast.get_docstring(function) or ""
            assert all(argument.arg in doc for argument in arguments), function.name


def test_a_loaded_config_loads_again(tiny: Tiny, teacher_run: Run) -> None:
    cfg = rdistill.load_config(
        tiny.folder / "distill.py", {WEIGHT: 7.0}, data_root=tiny.data_root, size="32x48", iters=9
    )
    assert (cfg.train_cfg.max_iters, cfg.distill.losses.logits.weight) == (9, 7.0)
    again = rdistill.load_config(cfg)
    assert again.pretty_text == cfg.pretty_text and again is not cfg


def test_mistakes_are_user_errors(tiny: Tiny, tmp_path: Path) -> None:
    with pytest.raises(rdistill.UserError, match="no such config file"):
        rdistill.train(tmp_path / "nowhere.py", quiet=True)
    with pytest.raises(rdistill.UserError, match="work_dir: is required"):
        rdistill.sweep({"config": "distill.py", "space": {}})
    with pytest.raises(rdistill.UserError, match=r"sweep: unknown key spaec; did you mean 'space'\?"):
        rdistill.sweep({"config": "distill.py", "spaec": {}}, tmp_path, quiet=True)
    with pytest.raises(rdistill.UserError, match="split: must be val or test, got 'train'"):
        rdistill.evaluate(tiny.folder / "student.py", "x.pth", split="train")
    with pytest.raises(rdistill.UserError, match="holds no sweep"):
        rdistill.load_results(tmp_path)


def entry(iteration: int, miou: float) -> dict[str, object]:
    return {"iter": iteration, "seconds": 2.5, "mIoU": miou, "IoU": {"background": 90.0, "disc": None}}


def test_results_have_types(tmp_path: Path) -> None:
    records = [
        TrialRecord("baseline", {}, 0, status="finished", history=[entry(9, 50.0)], teacher_mIoU=80.0),
        TrialRecord("t0001", {WEIGHT: 3.0, PAIR: [0, 1], LOSS: {"type": "CWD"}}, 0, history=[entry(6, 55.0)]),
        TrialRecord("t0002", {WEIGHT: 4, PAIR: [2, 1], LOSS: None}, 0, status="failed", reason="out of memory"),
    ]
    for record in records:
        record.save(tmp_path / TRIALS / record.id)
    frame = rdistill.load_results(tmp_path)  # the sweep still runs: there is no results.csv yet
    assert not (tmp_path / "results.csv").exists()
    assert list(frame["id"]) == ["t0001", "baseline", "t0002"]
    first, baseline, failed = (frame.iloc[number] for number in range(3))
    assert (first[WEIGHT], first[PAIR], first[LOSS]) == (3.0, [0, 1], {"type": "CWD"})
    assert first["gain"] == 5.0 and first["best_iter"] == 6 and first["status"] == "running"
    assert baseline[PAIR] is None and pandas.isna(baseline["gain"]) and baseline["note"] == ""
    assert failed["note"] == "out of memory" and pandas.isna(failed["mIoU"]) and pandas.isna(failed["best_iter"])
    assert {str(frame[name].dtype) for name in ("mIoU", "gain", "IoU disc", "seconds", WEIGHT)} == {"float64"}
    assert str(frame["iterations"].dtype) == "Int64"
    assert list(frame.columns) == write_table(tmp_path, records).read_text().splitlines()[0].split(",")


def test_two_runs_do_not_share_a_work_dir(tiny: Tiny, tmp_path: Path) -> None:
    message = "another run or sweep is at work in it"
    with lock_folder(tmp_path / "run", "run or sweep"), pytest.raises(UserError, match=message):
        rdistill.train(tiny.folder / "student.py", tmp_path / "run", data_root=tiny.data_root, size=32, quiet=True)
    assert list((tmp_path / "run").iterdir()) == []  # nothing was written, and the lock has gone with its holder

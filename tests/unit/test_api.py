"""The Python API: what a script or a notebook calls."""

from __future__ import annotations

import ast
import io
import multiprocessing
import os
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas
import pytest
import torch
from conftest import REPO, Run, Tiny
from mmengine.config import Config
from rich.console import Console

import rdistill
import rdistill.sweeps.run
import rdistill.training.run
from rdistill.config.distill_spec import DistillSpec
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


def test_train_and_evaluate(tiny: Tiny, tmp_path: Path) -> None:
    """On a Config, which stays as it is; with the options of the command line."""
    cfg = Config.fromfile(tiny.folder / "student.py")
    before = cfg.pretty_text
    options = dict(data_root=tiny.data_root, size=32)
    console = Console(file=io.StringIO())
    metrics = rdistill.train(
        cfg, tmp_path / "run", console=console, seed=3, iters=2, batch_size=2, val_interval=2, **options
    )
    assert cfg.pretty_text == before
    assert metrics["seed"] == 3 and metrics["iter"] == 2
    assert console.file.getvalue().splitlines()[-2].startswith("done      mIoU ")
    scores = rdistill.evaluate(cfg, tmp_path / "run" / "student.pth", **options)
    assert scores["mIoU"] == metrics["mIoU"] and scores["IoU"] == metrics["IoU"]


def test_the_process_is_left_as_it_was(tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A notebook goes on with its own environment, random numbers and threads after a run, and after a mistake."""
    for name in ("WANDB_MODE", "XDG_CACHE_HOME", "MPLCONFIGDIR", "OMP_NUM_THREADS"):
        monkeypatch.delenv(name, raising=False)

    def state() -> tuple[object, ...]:
        numbers = random.getstate(), np.random.get_state()[1].tolist(), torch.random.get_rng_state().tolist()
        method = multiprocessing.get_start_method(allow_none=True)
        return dict(os.environ), numbers, torch.get_num_threads(), cv2.getNumThreads(), method

    before = state()
    options: dict[str, Any] = dict(data_root=tiny.data_root, size=32, iters=1, batch_size=2, quiet=True)
    rdistill.train(tiny.folder / "student.py", tmp_path / "run", track="wandb", **options)
    assert state() == before
    with pytest.raises(UserError):
        rdistill.train(tiny.folder / "student.py", tmp_path / "run", **{**options, "iters": 0})
    assert state() == before


def test_a_run_parses_its_distill_section_once(tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From the file to the model card one parsed value travels: what was checked is what trains."""
    validate, parsed = DistillSpec.model_validate, []

    def counted(section: Any) -> DistillSpec:
        parsed.append(validate(section))
        return parsed[-1]

    monkeypatch.setattr(DistillSpec, "model_validate", counted)
    options: dict[str, Any] = dict(data_root=tiny.data_root, size=32, iters=2, batch_size=2, quiet=True)
    rdistill.train(tiny.folder / "distill.py", tmp_path / "run", **options)
    assert len(parsed) == 1


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

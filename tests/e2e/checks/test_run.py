"""A check in a process of its own says nothing but what it found, and a checked run is the same run."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from conftest import Run, Tiny
from mmengine.config import Config
from torch import Tensor

from rdistill.checks.run import check_run
from rdistill.distill.distiller import Distiller, build_distiller
from rdistill.training.run import train


@pytest.mark.e2e
def test_an_optimizer_with_options_of_single_parameters_is_checked_quietly(tiny: Tiny) -> None:
    """mmengine's logger would say a line for each parameter; in a process of its own, as the command runs."""
    code = f"""
from rdistill.config.load import Shortcuts, load_config
from rdistill.checks.run import check_optimizer
from rdistill.distill.distiller import build_distiller
cfg = load_config({str(tiny.folder / "student.py")!r}, {{"+optim_wrapper.paramwise_cfg": {{"norm_decay_mult": 0.5}}}},
                  Shortcuts(data_root={str(tiny.data_root)!r}))
assert check_optimizer(build_distiller(cfg, seed=0), cfg) == []
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert (done.stdout + done.stderr).strip() == ""


@pytest.mark.e2e
def test_a_checked_run_is_the_same_run(
    tiny: Tiny,
    distilled_run: Run,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    state_equal: Callable[[Mapping[str, Tensor], Mapping[str, Tensor]], bool],
) -> None:
    def build_and_check(cfg: Config, **options: Any) -> Distiller:
        distiller = build_distiller(cfg, **options)
        check_run(cfg, distiller=distiller, work_dir=tmp_path).raise_problems()
        return distiller

    monkeypatch.setattr("rdistill.training.run.build_distiller", build_and_check)
    train(tiny.load("distill"), tmp_path / "run")
    assert state_equal(Run(tmp_path / "run", {}).weights(), distilled_run.weights())

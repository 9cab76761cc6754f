"""A step of several workers, measured by what each of them does; groups themselves are tests/e2e's."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from conftest import Tiny

from rdistill.config.load import LoadedConfig
from rdistill.core.stopping import StopRequest
from rdistill.sweeps.study.spec import parse_sweep
from rdistill.sweeps.trial import group_step
from rdistill.sweeps.trial.group_step import measure_step_in_group
from rdistill.sweeps.trial.trial import Study
from rdistill.training.hooks import Silent
from rdistill.training.ray_train import Resources

SPACE = {"optim_wrapper.optimizer.lr": {"type": "choice", "values": [0.1]}}


def test_every_worker_builds_the_run_and_trains_its_first_steps(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def in_group(work: Any, cfg: Any, work_dir: Any, resources: Any) -> Any:
        assert (cfg, work_dir, resources.workers) == (study.base.cfg, str(tmp_path), 2)
        return work(Silent(), StopRequest())

    monkeypatch.setattr(group_step, "work_in_group", in_group)
    spec = parse_sweep({"config": "distill.py", "space": SPACE, "search": {"type": "grid"}}, "test")
    study = Study(LoadedConfig.of(tiny.load("distill")), spec, str(tmp_path), [], False)
    profile = measure_step_in_group(study, Resources(2))
    assert list(profile.seconds) == [1] and min(profile.seconds[1]) > 0 and profile.held_bytes > 0

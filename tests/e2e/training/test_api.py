"""The functions of rdistill in a notebook: they train, and leave the process as it was."""

from __future__ import annotations

import io
import multiprocessing
import os
import random
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from conftest import Tiny
from mmengine.config import Config
from rich.console import Console

import rdistill
import rdistill.sweeps.run
import rdistill.training.run
from rdistill.config.distill_spec import DistillSpec
from rdistill.core.errors import UserError


@pytest.mark.e2e
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


@pytest.mark.e2e
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


@pytest.mark.e2e
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

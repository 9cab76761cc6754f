"""Everything is put back, also when the call fails."""

from __future__ import annotations

import inspect
import multiprocessing
import os
import random
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from conftest import Run, Tiny
from mmengine.registry import DefaultScope
from mmseg.registry import MODELS

import rdistill
from rdistill import process_state
from rdistill.core.errors import UserError
from rdistill.process_state import leaves_process_as_it_was


def test_all_that_changes_is_put_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CHANGED", "before")
    monkeypatch.setenv("REMOVED", "before")
    monkeypatch.delenv("WANDB_MODE", raising=False)
    before = multiprocessing.get_start_method(allow_none=True)

    @leaves_process_as_it_was
    def changes() -> None:
        assert os.environ["WANDB_MODE"] == "offline"  # nothing may look for a network during the call
        os.environ.update(CHANGED="after", ADDED="after")
        del os.environ["REMOVED"]
        random.seed(1), np.random.seed(1), torch.manual_seed(1)
        torch.set_num_threads(3)
        cv2.setNumThreads(0)
        multiprocessing.set_start_method("spawn", force=True)
        torch.backends.cudnn.benchmark = True
        raise RuntimeError("within the call")

    threads = torch.get_num_threads(), cv2.getNumThreads(), torch.backends.cudnn.benchmark
    numbers = random.getstate(), float(np.random.random()), torch.random.get_rng_state()
    np.random.seed(5)
    expected = np.random.RandomState(5).random()
    with pytest.raises(RuntimeError, match="within the call"):
        changes()
    assert os.environ["CHANGED"] == os.environ["REMOVED"] == "before"
    assert "ADDED" not in os.environ and "WANDB_MODE" not in os.environ
    assert random.getstate() == numbers[0] and np.random.random() == expected
    assert torch.equal(torch.random.get_rng_state(), numbers[2])
    assert threads == (torch.get_num_threads(), cv2.getNumThreads(), torch.backends.cudnn.benchmark)
    assert multiprocessing.get_start_method(allow_none=True) == before


@pytest.mark.parametrize("before", ["mmengine", "mmdet"])
def test_mmseg_has_its_names_in_a_notebook_of_another_package(before: str) -> None:
    def build() -> object:
        return MODELS.build(dict(type="OhemCrossEntropy"))

    with DefaultScope.overwrite_default_scope(before):
        assert type(leaves_process_as_it_was(build)()).__name__ == "OhemCrossEntropy"
        assert DefaultScope.get_current_instance().scope_name == before


def test_reading_a_config_leaves_the_scope_of_the_notebook(tiny: Tiny) -> None:
    with DefaultScope.overwrite_default_scope("mmdet"):
        cfg = rdistill.load_config(tiny.folder / "student.py", data_root=tiny.data_root)
        assert cfg.model.type == "EncoderDecoder" and DefaultScope.get_current_instance().scope_name == "mmdet"


FUNCTIONS = {name: getattr(rdistill, name) for name in rdistill.__all__ if inspect.isfunction(getattr(rdistill, name))}
# What each is called with to end in a mistake, after it has set whatever it sets.
MISTAKES: Mapping[str, tuple[Any, ...]] = {
    "evaluate": ("nowhere.py", "nowhere.pth"),
    "headroom": ("nowhere.py",),
    "load_config": ("nowhere.py",),
    "load_results": ("nowhere",),
    "sweep": ("nowhere.yaml",),
    "train": ("nowhere.py",),
}
READS_ALONE = {"load_results"}  # runs nothing for which anything would have to be set
SET = ("XDG_CACHE_HOME", "MPLCONFIGDIR", "TORCH_HOME", "WANDB_MODE")


@pytest.fixture
def notebook(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[[], list[Any]]:
    """What a notebook has of its own: an environment without any of the variables, its threads and random numbers."""
    monkeypatch.chdir(tmp_path)
    for name in SET:
        monkeypatch.delenv(name, raising=False)

    def state() -> list[Any]:
        numbers = random.getstate(), float(np.random.get_state()[1][0]), torch.get_rng_state().tolist()
        threads = torch.get_num_threads(), cv2.getNumThreads(), multiprocessing.get_start_method(allow_none=True)
        return [dict(os.environ), *numbers, *threads]

    return state


@pytest.mark.parametrize("name", FUNCTIONS)
def test_no_function_of_the_library_leaves_anything_behind(
    name: str, notebook: Callable[[], list[Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """All that `rdistill` offers: during the call the variables are set, after it they are gone again."""
    keep, during = process_state.keep_to_the_work_dir, dict[str, str]()

    def kept() -> None:
        keep()
        during.update(os.environ)

    monkeypatch.setattr(process_state, "keep_to_the_work_dir", kept)
    before = notebook()
    with pytest.raises(UserError, match="nowhere"):
        FUNCTIONS[name](*MISTAKES[name])
    assert notebook() == before and not set(SET) & set(os.environ)
    assert set(SET) <= set(during) or name in READS_ALONE


def test_a_call_that_ends_well_leaves_nothing_behind(
    notebook: Callable[[], list[Any]], tiny: Tiny, distilled_run: Run
) -> None:
    before = notebook()
    scores = rdistill.evaluate(distilled_run.folder / "student.py", distilled_run.folder / "student.pth")
    cfg = rdistill.load_config(tiny.folder / "student.py", data_root=tiny.data_root)
    assert scores["mIoU"] > 0 and cfg.model.type == "EncoderDecoder"
    assert notebook() == before

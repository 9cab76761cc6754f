"""Everything is put back, also when the call fails."""

from __future__ import annotations

import multiprocessing
import os
import random

import cv2
import numpy as np
import pytest
import torch
from conftest import Tiny
from mmengine.registry import DefaultScope
from mmseg.registry import MODELS

import rdistill
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

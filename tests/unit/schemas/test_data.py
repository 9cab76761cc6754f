"""Images on their way into a model are what their types say."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from conftest import Run, Tiny
from mmseg.structures import SegDataSample
from typed_files import unlike

from rdistill.schemas.data import Batch, DatasetMeta


def test_a_batch_of_the_stream(tiny_without_teacher: Tiny, stream_batches: Callable[..., list[Any]]) -> None:
    (batch,) = stream_batches(tiny_without_teacher.load("student"), 1)
    assert unlike(batch, Batch) == [] and len(batch["inputs"]) == len(batch["data_samples"]) == 2
    assert all(isinstance(sample, SegDataSample) for sample in batch["data_samples"])


def test_what_a_checkpoint_says_of_its_data(distilled_run: Run) -> None:
    meta = torch.load(distilled_run.folder / "student.pth", weights_only=False)["meta"]["dataset_meta"]
    assert unlike(meta, DatasetMeta) == [] and list(meta["classes"]) == ["background", "optic disc"]
    assert unlike({"classes": "background"}, DatasetMeta) == [".classes: 'background' instead of a list"]

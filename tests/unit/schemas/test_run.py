"""``metrics.json`` and what a checkpoint keeps of a run are what their types say."""

from __future__ import annotations

import pytest
import torch
from conftest import Run
from typed_files import unlike

from rdistill.schemas.data import DatasetMeta
from rdistill.schemas.run import CheckpointMeta, RunMetrics


def test_the_metrics_of_a_run_with_a_teacher_and_of_one_without(distilled_run: Run, teacher_run: Run) -> None:
    for run in (distilled_run, teacher_run):
        assert unlike(run.written_metrics(), RunMetrics) == []
    without = {key: value for key, value in distilled_run.metrics.items() if key != "IoU"}
    assert unlike({**without, "IuO": {}}, RunMetrics) == [".IuO: is no key of RunMetrics"]


@pytest.mark.parametrize("name", ["last.pth", "best.pth", "student.pth"])
def test_what_a_checkpoint_keeps(distilled_run: Run, name: str) -> None:
    """mmengine adds keys of its own to ``meta``, and mmseg to what it says of a data set: these are left out here."""
    meta = torch.load(distilled_run.folder / name, weights_only=False)["meta"]
    ours = {key: value for key, value in meta.items() if key in CheckpointMeta.__annotations__}
    data = ours["dataset_meta"]
    ours["dataset_meta"] = {key: value for key, value in data.items() if key in DatasetMeta.__annotations__}
    assert unlike(ours, CheckpointMeta) == [] and {"iter", "seed", "dataset_meta"} <= set(ours)

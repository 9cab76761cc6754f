"""A type has one name, however a config writes it."""

from __future__ import annotations

import pytest

from rdistill.config.types import replace_types_by_names
from rdistill.config.walk import kind_of


@pytest.mark.parametrize(
    ("written", "name"),
    [
        ("mmseg.IoUMetric", "IoUMetric"),
        ("mmseg::IoUMetric", "IoUMetric"),
        ("mmseg.evaluation.IoUMetric", "IoUMetric"),
        ("mmcv.LoadImageFromFile", "LoadImageFromFile"),
        ("mmcv.transforms.LoadImageFromFile", "LoadImageFromFile"),
        ("mmcv.Resize", "mmengine.Resize"),  # another class than mmseg's own
        ("mmengine.dataset.ConcatDataset", "ConcatDataset"),
        ("mmdet.SomeHead", "mmdet.SomeHead"),
        ("mmseg.Nonsense", "mmseg.Nonsense"),
    ],
)
def test_a_type_has_one_name(written: str, name: str) -> None:
    section = {"a": [{"type": written}]}
    replace_types_by_names(section)
    assert section["a"][0]["type"] == name and kind_of(section["a"][0]) == name.rpartition(".")[2]

"""A label map on the command line and in a config: read strictly, put before each step that loads masks."""

from __future__ import annotations

from typing import Any

import pytest
from conftest import Tiny
from mmengine.config import Config

from rdistill.config.label_map import parse_label_map
from rdistill.config.load import read_config_file
from rdistill.config.plain_config import plain_config
from rdistill.config.render import config_source
from rdistill.core.errors import UserError


@pytest.mark.parametrize("value", ["255=1,128=0", " 255 = 1 , 128=0 ", {255: 1, 128: 0}, [[255, 1], [128, 0]]])
def test_forms(value: Any) -> None:
    assert parse_label_map(value, "--label-map") == {255: 1, 128: 0}


@pytest.mark.parametrize("value", ["", "255", "255=", "255=x", "256=1", "1=-1", "1=1=1", "1=0,1=2", {}, [1], 5, None])
def test_what_is_none(value: Any) -> None:
    with pytest.raises(UserError, match=r"^--label-map: must be VALUE=LABEL"):
        parse_label_map(value, "--label-map")


def steps(dataset: Any) -> list[Any]:
    return [(step.type, step.get("label_map")) for step in dataset.pipeline if "L" in step.type][:3]


def test_every_pipeline(tiny_without_teacher: Tiny, tmp_path: Any) -> None:
    cfg = tiny_without_teacher.load("student", label_map="255=1")
    mapped = [("LoadImageFromFile", None), ("MapLabels", [[255, 1]]), ("LoadAnnotations", None)]
    for name in ("train", "val", "test"):
        assert steps(cfg[f"{name}_dataloader"].dataset) == mapped
    (tmp_path / "config.py").write_text(config_source(cfg))
    again = read_config_file(tmp_path / "config.py")
    assert steps(again.val_dataloader.dataset) == mapped


def test_another_map_takes_the_place(tiny_without_teacher: Tiny) -> None:
    from rdistill.config.load import Shortcuts, load_config

    cfg = load_config(tiny_without_teacher.load("student", label_map="255=1"), None, Shortcuts(label_map={7: 1}))
    assert [step for step in steps(cfg.train_dataloader.dataset) if step[1]] == [("MapLabels", [[7, 1]])]


def test_a_pipeline_without_masks(tiny_without_teacher: Tiny) -> None:
    cfg = tiny_without_teacher.load("student")
    cfg.val_dataloader.dataset.pipeline = [dict(type="LoadImageFromFile"), dict(type="PackSegInputs")]
    from rdistill.config.load import Shortcuts, load_config

    with pytest.raises(UserError, match=r"--label-map: the pipelines of val_dataloader.dataset have no"):
        load_config(cfg, None, Shortcuts(label_map="255=1"))


def test_the_students_config_for_plain_mmseg(tiny_without_teacher: Tiny) -> None:
    """Images are read without rdistill; only scoring and training need its step."""
    plain: Config = plain_config(tiny_without_teacher.load("student", label_map="255=1"), on_gpu=False)
    assert "MapLabels" not in str(plain.test_pipeline) and "MapLabels" in str(plain.val_dataloader)
    assert plain.custom_imports == dict(imports=["rdistill.data.datasets"], allow_failed_imports=True)
    assert "custom_imports" not in plain_config(tiny_without_teacher.load("student"), on_gpu=False)

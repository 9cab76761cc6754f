"""A label map on the command line and in a config: read strictly, put before each step that loads masks."""

from __future__ import annotations

from typing import Any

import pytest
from conftest import Tiny
from mmengine.config import Config

from rdistill.config.label_map import parse_label_map
from rdistill.config.load import Shortcuts, load_config, read_config_file
from rdistill.config.plain_config import plain_config
from rdistill.config.render import config_source
from rdistill.core.errors import UserError
from rdistill.models.quiet_mmseg import DATASETS


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


def with_tuples(node: Any) -> Any:
    """Every list of sections as a tuple: mmengine builds the same from either."""
    if isinstance(node, dict):
        return {key: with_tuples(value) for key, value in node.items()}
    if isinstance(node, (list, tuple)):
        changed = [with_tuples(item) for item in node]
        return tuple(changed) if any(isinstance(item, dict) for item in changed) else changed
    return node


def test_pipelines_that_are_tuples(tiny_without_teacher: Tiny) -> None:
    """The same config comes of tuples as of lists, through every shortcut; and the dataset reads mapped masks."""
    cfg = tiny_without_teacher.load("student")
    tuples = Config(with_tuples(cfg._cfg_dict.to_dict()))
    assert isinstance(tuples.train_dataloader.dataset.pipeline, tuple) and isinstance(tuples.param_scheduler, tuple)
    shortcuts = Shortcuts(  # every one but a teacher's
        data_root=str(tiny_without_teacher.data_root),
        size="24",
        iters=20,
        batch_size=4,
        val_interval=5,
        num_data_workers=0,
        label_map={0: 1, 1: 0},
    )
    from_lists, from_tuples = (load_config(config, None, shortcuts) for config in (cfg, tuples))
    assert with_tuples(from_lists._cfg_dict.to_dict()) == with_tuples(from_tuples._cfg_dict.to_dict())
    with DATASETS.switch_scope_and_registry("mmseg"):
        plain, mapped = (DATASETS.build(loaded.val_dataloader.dataset)[0] for loaded in (cfg, from_tuples))
    before, after = (item["data_samples"].gt_sem_seg.data for item in (plain, mapped))
    assert after.shape == before.shape and before.any() and (after == 1 - before).all()
    assert set(plain_config(from_tuples, on_gpu=False)) == set(plain_config(from_lists, on_gpu=False))


def test_another_map_takes_the_place(tiny_without_teacher: Tiny) -> None:
    cfg = load_config(tiny_without_teacher.load("student", label_map="255=1"), None, Shortcuts(label_map={7: 1}))
    assert [step for step in steps(cfg.train_dataloader.dataset) if step[1]] == [("MapLabels", [[7, 1]])]


def test_a_pipeline_without_masks(tiny_without_teacher: Tiny) -> None:
    cfg = tiny_without_teacher.load("student")
    cfg.val_dataloader.dataset.pipeline = [dict(type="LoadImageFromFile"), dict(type="PackSegInputs")]
    with pytest.raises(UserError, match=r"--label-map: the pipelines of val_dataloader.dataset have no"):
        load_config(cfg, None, Shortcuts(label_map="255=1"))


def test_the_students_config_for_plain_mmseg(tiny_without_teacher: Tiny) -> None:
    """Images are read without rdistill; only scoring and training need its step."""
    plain: Config = plain_config(tiny_without_teacher.load("student", label_map="255=1"), on_gpu=False)
    assert "MapLabels" not in str(plain.test_pipeline) and "MapLabels" in str(plain.val_dataloader)
    assert plain.custom_imports == dict(imports=["rdistill.data.datasets"], allow_failed_imports=True)
    assert "custom_imports" not in plain_config(tiny_without_teacher.load("student"), on_gpu=False)

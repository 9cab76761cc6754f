"""A student's config for plain mmseg holds what the run trained."""

from __future__ import annotations

import pytest
from conftest import Tiny
from mmengine.config import Config

from rdistill.config.plain_config import config_text, plain_config, replace_header


def test_a_students_config_holds_the_same(tiny_without_teacher: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file that is handed over: a class, the data's folder and a line of its header with such a name."""
    monkeypatch.setenv("WANDB_API_KEY", "secret")
    cfg = tiny_without_teacher.load("student")
    root = str(tiny_without_teacher.data_root) + "/{{$WANDB_API_KEY:none}}"
    cfg.train_dataloader.dataset.data_root = root
    cfg.train_dataloader.dataset["metainfo"] = dict(classes=["{{$WANDB_API_KEY:none}}", "b\nimport os"])
    plain = plain_config(cfg, on_gpu=True)
    text = config_text(plain, ["IoU: {{$WANDB_API_KEY:none}} 3", "b\nimport os"])
    for written in (text, replace_header(text, ["{{$WANDB_API_KEY:none}}\nimport os"])):
        assert "{{" not in written and "\nimport os" not in written
        read = Config.fromstring(written, ".py")
        assert "secret" not in read.text and read.data_root == root
        assert read.train_dataloader.to_dict() == plain.train_dataloader.to_dict()

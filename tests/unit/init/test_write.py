"""The files of a study as text: each loads, and says what was decided."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import yaml
from mmengine.config import Config

from rdistill.init.models import Task, fit
from rdistill.init.write import FILES, LR, TRANSFORMER_LR, Study, sweep_text, texts
from rdistill.sweeps.study.spec import parse_sweep

PREFIX = {"img_path": "images", "seg_map_path": "masks"}


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Study:
    """Of two classes, with test images and a label map; student and teacher are the same small model."""
    model = fit("fpn_r18-w12", Task(2, (64, 64)), "--student")
    out = tmp_path_factory.mktemp("study")
    split: dict[str, Any] = {"data_prefix": PREFIX, "img_suffix": ".jpg", "seg_map_suffix": ".png"}
    return Study(
        out, out / "runs", "my data", ("a", "it's"), ((0, 0, 0), (1, 2, 3)),
        dict.fromkeys(("train", "val", "test"), split), 64, (96, 64), {"type": "LoadImageFromFile"}, 4, 2, 200, model,
        model, label_map={0: 0, 255: 1},
        features=(("backbone.layer3", "backbone.layer4"), ("backbone.layer3", "backbone.layer4")),
        pairs=((0, 0), (1, 1)), decisions=(("size", "64: half the images"), ("aspect", "kept")),
    )  # fmt: skip


def loaded(study: Study, name: str) -> Config:
    for file, text in texts(study).items():
        (study.out / file).write_text(text)
    return Config.fromfile(str(study.out / name))


def test_all_files_of_a_study_and_what_was_decided(study: Study) -> None:
    written = texts(study)
    assert tuple(written) == FILES
    assert "# - size: 64: half the images\n# - aspect: kept\n" in written["base.py"]


def test_the_configs_load_as_they_were_meant(study: Study) -> None:
    cfg = loaded(study, "distill.py")
    assert cfg.train_cfg.max_iters == 200 and cfg.train_cfg.val_interval == 20
    assert cfg.train_dataloader.batch_size == 4 and cfg.val_dataloader.batch_size == 2
    assert [step["type"] for step in cfg.train_pipeline] == [
        "LoadImageFromFile", "MapLabels", "LoadAnnotations", "RandomResize", "RandomCrop", "RandomFlip",
        "PackSegInputs",
    ]  # fmt: skip
    assert [step["type"] for step in cfg.test_pipeline] == [
        "LoadImageFromFile", "Resize", "MapLabels", "LoadAnnotations", "PackSegInputs",
    ]  # fmt: skip
    dataset = cfg.train_dataloader.dataset
    assert dataset.data_root == "my data" and dataset.metainfo.classes == ("a", "it's")
    assert dataset.data_prefix == PREFIX and "test_mode" not in dataset and cfg.val_dataloader.dataset.test_mode
    section = cfg.distill
    assert section.features.student == ["backbone.layer3", "backbone.layer4"]
    assert section.teachers[0].checkpoint == str(study.work / "teacher" / "best.pth")
    assert section.losses.logits.weight == {"share": 1.0}


def test_without_test_images_those_of_validation_are_scored(study: Study) -> None:
    two = replace(study, datasets={name: study.datasets[name] for name in ("train", "val")})
    cfg = loaded(two, "base.py")
    assert cfg.test_dataloader == cfg.val_dataloader
    assert loaded(study, "base.py").test_dataloader.batch_size == study.val_batch


def test_the_sweep_is_one_and_searches_the_last_pair(study: Study) -> None:
    content = yaml.safe_load(sweep_text(study))
    spec = parse_sweep(content, "sweep.yaml")
    assert spec.config == str(study.out / "distill.py") and spec.confirm is not None and spec.confirm.seeds == [1, 2, 3]
    assert content["space"]["distill.losses.hidden"]["values"][1]["pair"] == [1, 1]
    assert "distill.losses.hidden" not in yaml.safe_load(sweep_text(replace(study, pairs=())))["space"]


@pytest.mark.parametrize("is_transformer", [True, False])
def test_transformers_learn_at_a_smaller_rate(study: Study, is_transformer: bool) -> None:
    backbone = {**study.student.model["backbone"], "type": "MixVisionTransformer" if is_transformer else "ResNetV1c"}
    model = {**study.student.model, "backbone": backbone}
    changed = replace(study, student=replace(study.student, model=model))
    lr = TRANSFORMER_LR if is_transformer else LR
    rate = yaml.safe_load(sweep_text(changed))["space"]["optim_wrapper.optimizer.lr"]
    assert (rate["low"], rate["high"]) == (pytest.approx(lr / 4), pytest.approx(lr * 4))
    assert loaded(changed, "student.py").optim_wrapper.optimizer.lr == lr

"""A model by its name is fitted to the data: classes, channels, weights, what it cannot do."""

from __future__ import annotations

from pathlib import Path

import pytest

from rdistill.core.errors import UserError
from rdistill.init.models import Task, build, features_of, fit
from rdistill.models.segmentor import input_channels

TASK = Task(classes=3, size=(64, 64), class_weight=(1.0, 2.0, 3.0))


@pytest.mark.parametrize("name", ["bisenetv2", "stdc1", "encnet", "fast-scnn", "ddrnet"])
def test_heads_have_the_datas_classes_and_weights(name: str) -> None:
    """But for the boundary head of STDC, whose classes are its own, and EncNet's loss of classes in an image."""
    fitted = fit(name, TASK, "--student")
    heads = [fitted.model["decode_head"]]
    auxiliary = fitted.model.get("auxiliary_head") or []
    heads += auxiliary if isinstance(auxiliary, list) else [auxiliary]
    for head in heads:
        losses = head["loss_decode"] if isinstance(head["loss_decode"], list) else [head["loss_decode"]]
        if head["type"] == "STDCHead":
            assert head["num_classes"] == 2 and losses[0]["use_sigmoid"]
            continue
        assert head["num_classes"] == 3
        assert all(loss["class_weight"] == [1.0, 2.0, 3.0] for loss in losses)
        assert not any(loss.get("use_sigmoid") for loss in losses)
        assert "loss_se_decode" not in head or head["loss_se_decode"]["use_sigmoid"]
    assert "Pretrained" not in repr(fitted.model) and fitted.model["data_preprocessor"]["size"] == (64, 64)


@pytest.mark.parametrize("name", ["segformer_mit-b0", "bisenetv1_r18", "icnet", "stdc1", "unet", "deeplabv3plus_r18"])
def test_models_of_other_channels(name: str) -> None:
    task = Task(classes=2, size=(64, 64), channels=5, mean=(1.0,), std=(2.0,))
    fitted = fit(name, task, "--student")
    assert input_channels(build(fitted)) == 5
    assert fitted.model["data_preprocessor"]["mean"] == [1.0] and not fitted.model["data_preprocessor"]["bgr_to_rgb"]


@pytest.mark.parametrize("name", ["mobilenet-v3", "mobilenet-v2", "fpn_efficientnet-lite0"])
def test_models_of_three_channels_only_say_so(name: str) -> None:
    task = Task(classes=2, size=(64, 64), channels=5, mean=(1.0,), std=(2.0,))
    with pytest.raises(UserError, match=r"^--teacher: .* accepts only 3 channels, and these images have 5; choose"):
        fit(name, task, "--teacher")


def test_a_model_that_needs_what_is_absent_says_so() -> None:
    with pytest.raises(UserError, match=r"needs mmcv's compiled operators"):
        fit("ccnet_r50-d8", TASK, "--teacher")


def test_the_zoos_weights_are_kept_where_they_are_wanted() -> None:
    plain, kept = (fit("pspnet_r18", Task(2, (64, 64), pretrained=wanted), "--student") for wanted in (False, True))
    assert plain.pretrained_files == kept.pretrained_files == ["open-mmlab://resnet18_v1c"]
    assert "pretrained" not in plain.model and kept.model["pretrained"] == "open-mmlab://resnet18_v1c"


def test_a_config_of_ones_own(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text("_base_ = ['mmseg::_base_/models/fast_scnn.py']\n")
    fitted = fit(str(tmp_path / "mine.py"), TASK, "--student")
    assert fitted.name == "mine" and fitted.model["decode_head"]["num_classes"] == 3


@pytest.mark.parametrize(("name", "count"), [("fpn_r18-w12", 4), ("ddrnet", 2), ("unet", 5), ("pidnet-s", 3)])
def test_features_are_maps_the_finest_first(name: str, count: int) -> None:
    model = build(fit(name, TASK, "--student"))
    assert len(features_of(model, (64, 64), training=True)) == count
    assert features_of(model, (64, 64), training=False)

"""Names of models: what they stand for, and that the figures that come with rdistill are those of what is installed."""

from __future__ import annotations

from pathlib import Path

import pytest

from rdistill.core.errors import UserError
from rdistill.init.list_models import as_plain, listed, measure, shown
from rdistill.init.models import Task, build, features_of, fit
from rdistill.init.zoo import figures, find_model, model_names, zoo_models
from rdistill.models.segmentor import input_channels

TASK = Task(classes=3, size=(64, 64), class_weight=(1.0, 2.0, 3.0))


@pytest.mark.parametrize(
    ("name", "model"),
    [
        ("segformer_mit-b0", "segformer_mit-b0"), ("SegFormer-B0", "segformer_mit-b0"), ("pspnet_r18", "pspnet_r18-d8"),
        ("pidnet-s", "pidnet-s"), ("bisenetv2", "bisenetv2_fcn"), ("ddrnet", "ddrnet_23-slim"),
        ("fast-scnn", "fast_scnn"), ("mobilenet-v3", "mobilenet-v3-d8_lraspp"), ("unet", "unet-s5-d16_fcn"),
        ("segnext-t", "segnext_mscan-t"), ("stdc1", "stdc1"), ("encnet", "encnet_r50-d8"), ("icnet", "icnet_r18-d8"),
        ("fpn_r18-w12", "fpn_r18-w12"), ("mmseg::pspnet/pspnet_r18-d8_4xb2-80k_cityscapes-512x1024.py",
                                         "pspnet_r18-d8_4xb2-80k_cityscapes-512x1024"),
    ],
)  # fmt: skip
def test_names(name: str, model: str) -> None:
    assert find_model(name, "--student")[0] == model


def test_a_name_that_is_none_is_one_line() -> None:
    with pytest.raises(
        UserError, match=r"^--teacher: no model 'segfromer_mit-b0'; did you mean segformer.*`rdistill m"
    ):
        find_model("segfromer_mit-b0", "--teacher")


def test_every_model_has_figures_or_a_reason() -> None:
    assert len(zoo_models()) == len(model_names()) > 100
    for model in zoo_models():
        assert (model.parameters and model.flops) or model.problem, model
    assert set(figures()["models"]) == set(model_names())


@pytest.mark.parametrize("name", ["fpn_r18-w12", "fast_scnn", "segformer_mit-b0", "pidnet-s"])
def test_figures_are_those_that_are_measured(name: str) -> None:
    (model,) = measure([name])
    assert figures()["models"][name] == {"parameters": model.parameters, "flops": model.flops}


def test_the_list() -> None:
    models = listed("Segformer_mit")
    assert [model.name for model in models] == [f"segformer_mit-b{size}" for size in range(6)]
    lines = list(shown(models, measured_now=False))
    assert lines[1].split()[:3] == ["segformer_mit-b0", "3.72", "15.7"] and "mmsegmentation 1.4.2" in lines[-1]
    assert as_plain(models)["models"][0]["parameters"] == 3720051
    with pytest.raises(UserError, match=r"^nothing: no model's name holds this; `rdistill models` lists all \d+$"):
        listed("nothing")


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
    with pytest.raises(UserError, match=r"^--teacher: .* reads images of 3 channels only, and these have 5; choose"):
        fit(name, task, "--teacher")


def test_a_model_that_needs_what_is_absent_says_so() -> None:
    with pytest.raises(UserError, match=r"needs mmcv's compiled operators"):
        fit("ccnet_r50-d8", TASK, "--teacher")


def test_the_zoos_weights_are_kept_where_they_are_wanted() -> None:
    plain, kept = (fit("pspnet_r18", Task(2, (64, 64), pretrained=wanted), "--student") for wanted in (False, True))
    assert plain.start == kept.start == ["open-mmlab://resnet18_v1c"]
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

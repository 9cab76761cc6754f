"""Names of models: what they stand for, and that the figures that come with rdistill are those of what is installed."""

from __future__ import annotations

import pytest

from rdistill.core.errors import UserError
from rdistill.init.models import Task
from rdistill.init.zoo import figures, find_model, model_names, zoo_models

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

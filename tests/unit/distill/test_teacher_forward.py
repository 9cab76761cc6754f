"""A teacher computed in a cheaper way says the same, in logits and in every feature that somebody captures."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import Tiny
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from rdistill.config.distill_spec import FUSED, PLAIN, ForwardSpec, distill_spec
from rdistill.config.load import LoadedConfig, with_overrides
from rdistill.core.errors import UserError
from rdistill.distill.distiller import build_distiller
from rdistill.distill.teacher import Teacher
from rdistill.distill.teacher_forward import LOGIT_TOLERANCE, fuse, prepare_model
from rdistill.models.segmentor import build_segmentor
from rdistill.training.resume import refuse_different_run
from rdistill.training.student_files import write_config
from rdistill.training.teacher_plan import RECORD, choose_forward, choose_plan, measure, with_plan

Equal = Callable[[Mapping[str, Tensor], Mapping[str, Tensor]], bool]
NORM = dict(type="BN")
HEAD = dict(num_classes=3, norm_cfg=NORM, align_corners=False)
RESNET = dict(
    type="ResNetV1c", depth=18, base_channels=4, stem_channels=4, norm_cfg=NORM, strides=(1, 2, 1, 1),
    dilations=(1, 1, 2, 4),
)  # fmt: skip
MIT = dict(
    type="MixVisionTransformer", embed_dims=8, num_layers=[1, 1, 1, 1], num_heads=[1, 1, 2, 4], patch_sizes=[7, 3, 3, 3]
)
MODELS: dict[str, dict[str, Any]] = {
    "pspnet": dict(backbone=RESNET, decode_head=dict(type="PSPHead", in_channels=32, in_index=3, channels=8, **HEAD)),
    "deeplabv3plus": dict(
        backbone=RESNET,
        decode_head=dict(
            type="DepthwiseSeparableASPPHead", in_channels=32, in_index=3, channels=8, dilations=(1, 2),
            c1_in_channels=4, c1_channels=4, **HEAD,
        ),
    ),
    "segformer": dict(
        backbone=MIT,
        decode_head=dict(type="SegformerHead", in_channels=[8, 8, 16, 32], in_index=[0, 1, 2, 3], channels=8, **HEAD),
    ),
}  # fmt: skip
IMAGES = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))


def model_of(name: str) -> nn.Module:
    """A model whose BatchNorms do something."""
    torch.manual_seed(0)
    model = build_segmentor(dict(type="EncoderDecoder", test_cfg=dict(mode="whole"), **MODELS[name]))
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            for value, low, high in ((module.running_mean, -0.5, 0.5), (module.running_var, 0.5, 2.0)):
                value.uniform_(low, high)
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.uniform_(module.bias, -0.5, 0.5)
    nn.init.normal_(model.decode_head.conv_seg.weight, std=0.5)
    return model.eval()


def outputs(model: nn.Module, names: list[str], forward: ForwardSpec | None) -> dict[str, Tensor]:
    return Teacher(model, names, nn.Identity(), forward=forward)(IMAGES)


@pytest.mark.parametrize("forward", [FUSED, ForwardSpec(fuse=True, channels_last=True)], ids=str)
@pytest.mark.parametrize("name", MODELS)
def test_the_same_within_1e_4(name: str, forward: ForwardSpec) -> None:
    model = model_of(name)
    norms = sum(isinstance(module, nn.BatchNorm2d) for module in model.modules())
    names = ["decode_head", "backbone[1]", "backbone[3]", "decode_head.conv_seg:input"]
    names += ["decode_head.convs.0"] if name == "segformer" else ["backbone.layer3", "decode_head.bottleneck"]
    expected, actual = outputs(model, names, None), outputs(copy.deepcopy(model), names, forward)
    assert expected["decode_head"].abs().max() > 0.1
    for feature in names:
        torch.testing.assert_close(actual[feature], expected[feature], rtol=0, atol=LOGIT_TOLERANCE, msg=feature)
        assert actual[feature].is_contiguous()
    teacher = Teacher(model, names, nn.Identity(), forward=forward)
    teacher(IMAGES)
    left = sum(isinstance(module, nn.BatchNorm2d) for module in teacher.model.modules())
    assert norms and left == 0


@pytest.mark.parametrize(
    "feature",
    ["backbone.layer2.0.bn1", "backbone.layer2.0.conv1", "backbone.layer2.0.bn1:input", "backbone.layer2.0.bn1.weight"],
)
def test_what_is_captured_is_not_fused(feature: str) -> None:
    """A BatchNorm, its convolution, its input, its weights: they keep their meaning. All others are fused."""
    model = model_of("pspnet")
    norms = sum(isinstance(module, nn.BatchNorm2d) for module in model.modules())
    expected = outputs(model, [feature, "decode_head"], None)
    actual = outputs(model, [feature, "decode_head"], FUSED)
    assert sum(isinstance(module, nn.BatchNorm2d) for module in model.modules()) == 1 < norms
    for name in expected:
        torch.testing.assert_close(actual[name], expected[name], rtol=0, atol=LOGIT_TOLERANCE)


class Odd(nn.Module):
    """Convolutions and BatchNorms that stand beside each other, but must not be fused, and one pair that may."""

    def __init__(self) -> None:
        super().__init__()
        self.conv_first, self.bn_before = nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4)
        self.act = nn.ReLU(inplace=True)
        self.conv_twice, self.bn_twice = nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4)
        self.conv, self.bn = nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.bn_before(self.act(self.conv_first(x)))  # changes in place the very tensor that the convolution gave
        x = self.bn_twice(self.conv_twice(self.bn_twice(self.conv_twice(x))))
        return self.bn(self.conv(x))


class OddSegmentor(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.backbone, self.decode_head = Odd(), nn.Conv2d(4, 2, 1)

    def extract_feat(self, images: Tensor) -> Tensor:
        return self.backbone(images)


def test_order_is_seen_and_not_guessed() -> None:
    model = OddSegmentor().eval()
    pairs = fuse(model, (), IMAGES)
    assert [(pair.conv, pair.norm) for pair in pairs] == [("backbone.conv", "backbone.bn")]


def test_one_model_is_prepared_once() -> None:
    model = model_of("pspnet")
    prepare_model(model, FUSED, (), IMAGES)
    weights = copy.deepcopy(model.state_dict())
    prepare_model(model, FUSED, (), IMAGES)
    assert all(torch.equal(weights[key], value) for key, value in model.state_dict().items())


def test_student_and_ema_teacher_are_left_alone(tiny: Tiny, tmp_path: Path) -> None:
    cfg = tiny.load("distill", {"distill.teachers": [dict(ema_decay=0.9)]})
    distiller = build_distiller(cfg, seed=0)
    plan = choose_plan(distiller, LoadedConfig.of(cfg), tmp_path)
    assert plan.forwards == (None,) and not plan.cache
    assert any(isinstance(module, _BatchNorm) for module in distiller.teachers[0].model.modules())


def test_measured_and_recorded(tiny: Tiny, tmp_path: Path) -> None:
    """A long run measures; what was chosen is in its config, and the next start in this folder does not measure."""
    cfg = tiny.load("distill", iters=1000, val_interval=1000)
    distiller = build_distiller(cfg, seed=0)
    before = copy.deepcopy(distiller.teachers[0].model.state_dict())
    plan = choose_plan(distiller, LoadedConfig.of(cfg), tmp_path)
    assert plan.lines[0].startswith("forward ") and " s " in plan.lines[0]
    after = distiller.teachers[0].model.state_dict()
    assert before.keys() == after.keys() and all(torch.equal(before[key], after[key]) for key in before)
    assert (tmp_path / RECORD).is_file()
    assert choose_plan(distiller, LoadedConfig.of(cfg), tmp_path) == plan
    settled = with_plan(LoadedConfig.of(cfg), plan)
    assert settled.distill == distill_spec(settled.cfg) and settled.distillation.teachers[0].forward == plan.forwards[0]
    changed = with_overrides(cfg, {"distill.teachers.0.forward": "plain"})
    assert choose_plan(build_distiller(changed, seed=0), LoadedConfig.of(changed), tmp_path).forwards == (PLAIN,)


def test_a_resume_may_leave_open_what_was_decided(tiny: Tiny, tmp_path: Path) -> None:
    cfg = tiny.load("distill")
    plan = choose_plan(build_distiller(cfg, seed=0), LoadedConfig.of(cfg), tmp_path)
    write_config(with_plan(LoadedConfig.of(cfg), plan).cfg, tmp_path / "config.py", 0)
    refuse_different_run(tmp_path, cfg, 0)
    with pytest.raises(UserError, match="--work-dir for this other run"):
        refuse_different_run(tmp_path, with_overrides(cfg, {"distill.teachers.0.forward": "plain"}), 0)


def test_a_short_run_does_not_measure(tiny: Tiny) -> None:
    cfg = tiny.load("distill", iters=100)
    spec = distill_spec(cfg)
    assert spec is not None
    assert choose_forward(build_distiller(cfg, seed=0).teachers[0], cfg, spec.teacher(0)) == (FUSED, None)


def test_what_is_not_close_is_not_chosen(tiny: Tiny) -> None:
    """bfloat16 changes the logits: however quick, a measurement leaves it out."""
    cfg = tiny.load("distill")
    spec = distill_spec(cfg)
    assert spec is not None
    teacher = build_distiller(cfg, seed=0).teachers[0]
    teacher.model.decode_head.conv_seg.weight.normal_()
    variants = [FUSED, ForwardSpec(autocast="bfloat16")]
    assert set(measure(teacher, spec.teacher(0), variants, IMAGES)) == {PLAIN, FUSED}


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("fast", "distill.teachers.0.forward: must be 'auto', 'plain'"),
        ({"fused": True}, "unknown key distill.teachers.0.forward.fused; did you mean 'fuse'?"),
        ({"autocast": "half"}, "distill.teachers.0.forward.autocast: must be 'float16' or 'bfloat16', got 'half'"),
    ],
)
def test_mistakes(tiny: Tiny, value: Any, message: str) -> None:
    with pytest.raises(UserError) as caught:
        with_overrides(tiny.load("distill"), {"distill.teachers.0.forward": value})
    assert caught.value.problems[0].startswith(message), caught.value.problems


@pytest.mark.slow
def test_compiled(tiny: Tiny) -> None:
    model = model_of("pspnet")
    names = ["backbone.layer3", "decode_head"]
    expected = outputs(model, names, None)
    teacher = Teacher(model, names, nn.Identity(), forward=ForwardSpec(fuse=True, compile=True))
    for _ in range(2):
        actual = teacher(IMAGES)
        for name in names:
            torch.testing.assert_close(actual[name], expected[name], rtol=0, atol=LOGIT_TOLERANCE)

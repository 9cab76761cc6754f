"""Layers as a forward pass shows them, and which features can be compared."""

from __future__ import annotations

import pytest
import torch
from conftest import Tiny
from torch import Tensor, nn

from rdistill.core.errors import UserError
from rdistill.models.segmentor import build_segmentor
from rdistill.models.shapes import describe, feature_shapes, pair_problem, probe_features, sensible_pairs


class Head(nn.Module):
    """Called by ``forward`` alone, as mmseg's heads are."""

    def __init__(self) -> None:
        super().__init__()
        self.conv_seg = nn.Conv2d(8, 2, kernel_size=1)

    def forward(self, features: tuple[Tensor, ...]) -> Tensor:
        return self.conv_seg(features[1])


class Backbone(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 4, kernel_size=3, stride=2, padding=1, bias=False)
        self.layer1 = nn.Conv2d(4, 8, kernel_size=1, stride=2)
        self.norm = nn.BatchNorm2d(8)
        self.dropout = nn.Dropout(0.5)
        self.unused = nn.Conv2d(8, 8, kernel_size=1)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor, tuple[int, int]]:
        first = self.stem(images)
        second = self.dropout(self.norm(self.layer1(first)))
        return first, second, (second.shape[2], second.shape[3])


class Model(nn.Module):
    """The part of an mmseg segmentor that shapes are about."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone, self.decode_head, self.auxiliary_head = Backbone(), Head(), Head()

    def extract_feat(self, images: Tensor) -> tuple[Tensor, ...]:
        return self.backbone(images)


def test_describe_by_hand() -> None:
    layers = {layer.name: layer for layer in describe(Model(), (16, 32))}
    assert "backbone.unused" not in layers and "" not in layers
    stem = layers["backbone.stem"]
    assert (stem.type, stem.shape, stem.stride, stem.channels) == ("Conv2d", (1, 4, 8, 16), 2, 4)
    assert stem.parameters == 4 * 3 * 9 and stem.flops == 2 * (4 * 8 * 16) * (3 * 9)
    backbone = layers["backbone"]
    assert backbone.shape == () and backbone.stride is None
    assert backbone.parameters == 108 + 40 + 16 + 72 and backbone.flops == stem.flops + 2 * (8 * 4 * 8) * 4
    assert layers["backbone[1]"].shape == (1, 8, 4, 8) and layers["backbone[1]"].stride == 4
    assert layers["backbone[1]"].parameters is None and "backbone[2]" not in layers
    # Heads are called by `forward`, past PyTorch's hooks.
    assert layers["decode_head"].flops == layers["auxiliary_head.conv_seg"].flops == 2 * (2 * 4 * 8) * 8


def test_describe_leaves_the_model_as_it_was() -> None:
    model = Model()
    model.backbone.norm.eval()  # frozen, in a model that trains
    before, state = torch.random.get_rng_state(), {key: value.clone() for key, value in model.state_dict().items()}
    describe(model, (16, 16))
    assert torch.equal(before, torch.random.get_rng_state())
    assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())
    assert model.training and model.backbone.dropout.training and not model.backbone.norm.training
    assert all("forward" not in vars(module) for module in model.modules())


def test_describe_mmseg_model(tiny_without_teacher: Tiny) -> None:
    model = build_segmentor(tiny_without_teacher.load("student").model)
    layers = {layer.name: layer for layer in describe(model, (32, 32))}
    assert layers["backbone.layer4"].stride == 8 and layers["decode_head"].channels == 2
    assert layers["decode_head.aspp_modules[3]"].shape == (1, 12, 4, 4)
    total = sum(layer.parameters or 0 for layer in layers.values() if layer.depth == 1)
    assert total == sum(parameter.numel() for parameter in model.parameters())


def test_a_size_that_a_model_cannot_take() -> None:
    model = Model()
    model.backbone.stem = nn.Conv2d(3, 4, kernel_size=33)
    with pytest.raises(UserError, match=r"does not run on an image of 16 x 16 pixels.*try another --size"):
        describe(model, (16, 16))
    assert model.training and "forward" not in vars(model.backbone)


def test_feature_shapes_over_the_grammar() -> None:
    names = ["backbone[0]", "decode_head", "auxiliary_head.conv_seg:input", "decode_head.conv_seg.weight"]
    shapes = feature_shapes(Model(), names, (16, 32))
    assert list(shapes.values()) == [(1, 4, 8, 16), (1, 2, 4, 8), (1, 8, 4, 8), (2, 8, 1, 1)]


def test_features_without_a_shape() -> None:
    shapes = probe_features(Model(), ["backbone", "backbone.unused", "backbone.stem"], (16, 16))
    assert "choose one" in str(shapes["backbone"]) and "does not run" in str(shapes["backbone.unused"])
    with pytest.raises(UserError) as caught:
        feature_shapes(Model(), list(shapes), (16, 16))
    assert len(caught.value.problems) == 2


MAP = (1, 8, 16, 16)


@pytest.mark.parametrize(
    ("student", "teacher", "expected"),
    [
        (MAP, (1, 99, 16, 16), None),
        (MAP, (1, 8, 4, 4), None),
        ((1, 8, 6, 8), (1, 8, 23, 30), None),  # 180 x 240 at strides 32 and 8
        ((1, 8, 4, 5), (1, 8, 13, 18), None),  # 100 x 140: rounded to cells
        ((1, 8, 1, 1), (1, 9, 1, 1), None),
        ((1, 8, 1, 1), MAP, "the student's is pooled to 1 x 1"),
        (MAP, (1, 8, 1, 1), "the teacher's is pooled to 1 x 1"),
        (MAP, (1, 8, 16, 8), "aspect ratios differ: 16 x 16 and 16 x 8"),
        (MAP, (1, 10), "the teacher's is no map N x C x H x W but 10"),
        ((1, 7, 5), MAP, "the student's is no map N x C x H x W but 7 x 5"),
        (MAP, "feature 'x': nothing was captured", "teacher: feature 'x'"),
    ],
)
def test_pair_problem(student: tuple[int, ...], teacher: tuple[int, ...] | str, expected: str | None) -> None:
    problem = pair_problem(student, teacher)
    assert problem is None if expected is None else expected in str(problem)


def at_stride(stride: int) -> tuple[int, int, int, int]:
    return (1, 8, 128 // stride, 128 // stride)


def test_sensible_pairs() -> None:
    student = [at_stride(4), at_stride(8), at_stride(16), (1, 8, 1, 1)]
    teacher = [at_stride(8), at_stride(4), at_stride(32), at_stride(8)]
    # Equal strides; then student 2 has 8 and 32 as near: the lower index.
    assert sensible_pairs(student, teacher, (128, 128)) == [(0, 1), (1, 0), (1, 3), (2, 0)]
    assert sensible_pairs([at_stride(32)], [at_stride(4), at_stride(8)], (128, 128)) == []
    assert sensible_pairs([at_stride(4)], ["no shape", (1, 8)], (128, 128)) == []

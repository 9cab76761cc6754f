"""A segmentor as one of another's classes: probabilities by hand, and predictions of a real model."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from rdistill.core.errors import UserError
from rdistill.models.class_map import (
    LOG_ZERO,
    ClassMap,
    class_map_of,
    known_classes,
    map_classes,
    mapped_share,
    masking_models,
)
from rdistill.models.quiet_mmseg import PointHead
from rdistill.models.segmentor import build_segmentor, logit_channels, logit_names, num_classes, run_heads


def fcn(classes: int = 4, channels: int | None = None, kind: str = "FCNHead", **head: object) -> nn.Module:
    common = dict(in_channels=8, channels=4, num_classes=classes, norm_cfg=dict(type="BN"), out_channels=channels)
    threshold = dict(threshold=0.3) if channels == 1 else {}
    torch.manual_seed(0)
    model = build_segmentor(dict(
        type="EncoderDecoder",
        data_preprocessor=dict(type="SegDataPreProcessor"),
        backbone=dict(type="ResNet", depth=18, base_channels=1, stem_channels=4),
        decode_head=dict(type=kind, num_convs=1, **common, **threshold, **head),
        auxiliary_head=dict(type="FCNHead", num_convs=1, **common, **threshold),
        test_cfg=dict(mode="slide", crop_size=(32, 32), stride=(16, 16)),
    ))  # fmt: skip
    return model.eval()


def test_probabilities_are_added_up() -> None:
    logits = torch.randn(2, 4, 3, 5)
    p = logits.softmax(dim=1)
    mapped = ClassMap((0, 2, 0, None), 3)(logits)
    torch.testing.assert_close(mapped[:, 0].exp(), p[:, 0] + p[:, 2])
    torch.testing.assert_close(mapped[:, 2].exp(), p[:, 1])
    assert (mapped[:, 1] == LOG_ZERO).all()
    torch.testing.assert_close(mapped_share(mapped), 1 - p[:, 3])
    # A softmax, as every loss on probabilities takes it, divides what is missing among the others.
    torch.testing.assert_close(mapped.softmax(dim=1)[:, 2], p[:, 1] / (1 - p[:, 3]))


def test_a_map_to_the_same_classes_changes_no_probability() -> None:
    logits = torch.randn(1, 3, 2, 2) * 5
    torch.testing.assert_close(ClassMap((0, 1, 2), 3)(logits), logits.log_softmax(dim=1))
    half = ClassMap((2, 1, 0), 3)(logits.half())
    assert half.dtype == torch.float32
    torch.testing.assert_close(half, logits.half().float().log_softmax(dim=1).flip(1))


def test_one_channel_is_two_classes() -> None:
    z = torch.randn(1, 1, 2, 2)
    mapped = ClassMap((1, 0), 2)(z)
    torch.testing.assert_close(mapped[:, 0].exp(), z[:, 0].sigmoid())
    torch.testing.assert_close(mapped[:, 1].exp(), (-z[:, 0]).sigmoid())


@pytest.mark.parametrize(("classes", "channels"), [(4, None), (2, 1)])
def test_all_heads_and_predictions_are_of_the_student_s_classes(classes: int, channels: int | None) -> None:
    model = fcn(classes, channels)
    images = torch.randn(2, 3, 48, 48)
    heads, before = logit_names(model, training=False), model.state_dict().keys()
    plain = [model.get_submodule(head)(model.extract_feat(images)) for head in heads]
    to = (1, 0, 1, None)[:classes]
    map_classes(model, to, 3)
    class_map = class_map_of(model)
    assert class_map is not None and model.state_dict().keys() == before
    assert num_classes(model) == 3 and [logit_channels(model, head) for head in heads] == [3, 3]
    for head, logits in zip(heads, plain, strict=True):
        assert torch.equal(model.get_submodule(head)(model.extract_feat(images)), class_map(logits))
    assert torch.equal(run_heads(model, model.extract_feat(images), heads), class_map(plain[0]))
    result = model.predict(images)[0]
    assert result.seg_logits.data.shape == (3, 48, 48)
    assert torch.equal(result.pred_sem_seg.data[0], result.seg_logits.data.argmax(0))


def test_a_copy_maps_what_the_copy_gives() -> None:
    model = fcn()
    map_classes(model, (0, 1, 1, 0), 2)
    other_model = copy.deepcopy(model)
    with torch.no_grad():
        other_model.decode_head.conv_seg.bias += torch.tensor([9.0, 0, 0, 9.0])
    images = torch.randn(1, 3, 32, 32)
    share = run_heads(other_model, other_model.extract_feat(images), ()).exp()[:, 0]
    assert share.min() > 0.9 > run_heads(model, model.extract_feat(images), ()).exp()[:, 0].min()


def test_what_several_teachers_know() -> None:
    first, second, third = fcn(), fcn(), fcn()
    map_classes(first, (0, 1, 2, None), 4)
    map_classes(second, (3, 1, 2, 1), 4)
    assert known_classes([third]) is None
    assert known_classes([first, third]) == (0, 1, 2) and known_classes([first, second]) == (1, 2)
    assert masking_models([third, first, second]) == (1,)  # the second leaves no class out
    map_classes(third, (0, 1, 2, None), 4, masks=False)
    assert masking_models([third]) == ()


def test_models_that_cannot_have_one() -> None:
    with pytest.raises(UserError, match="names the teacher's class 4, and its model tells 4 apart, from 0"):
        map_classes(fcn(), (0, 1, 0, 1, 0), 2)
    points, refines = fcn(), PointHead.__new__(PointHead)  # which is not built without mmcv's compiled operators
    nn.Module.__init__(refines)
    points.decode_head = nn.ModuleList([points.decode_head, refines])
    with pytest.raises(UserError, match="refines single points"):
        map_classes(points, (0, 1, 0, 1), 2)

"""Logits of mmseg's heads, and of a head of one's own."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import Tiny
from mmseg.models.decode_heads import FCNHead
from model_zoo import (
    FCN,
    MODELS_OF_SEVERAL,
    under_itself,
    write_model,
)

from rdistill.config.load import read_config_file
from rdistill.core.errors import UserError
from rdistill.distill.distiller import build_distiller
from rdistill.models.segmentor import build_segmentor, logit_names, run_heads, training_outputs


@pytest.mark.parametrize("name", MODELS_OF_SEVERAL)
def test_logits_are_those_that_predict_uses(
    name: str, tiny: Tiny, tmp_path: Path, stream_batches: Callable[..., list[dict[str, Any]]]
) -> None:
    """On both sides; and a loss on them trains the student, by the values of those very tensors."""
    cfg = under_itself(name, tiny, tmp_path, logits=dict(type="KL"))
    distiller = build_distiller(cfg, seed=0)
    student, (teacher,) = distiller.student, distiller.teachers
    assert logit_names(student, training=True) == MODELS_OF_SEVERAL[name][1]
    assert teacher.heads == MODELS_OF_SEVERAL[name][2]
    main = MODELS_OF_SEVERAL[name][1][0]
    data = distiller.data_preprocessor(stream_batches(cfg, 1)[0], training=True)
    images, metas = data["inputs"], [dict(img_shape=(64, 64))] * 2
    with torch.no_grad():
        of_teacher = teacher(images)[teacher.heads[0]]
        assert torch.equal(teacher.model.decode_head[-1].predict_by_feat(of_teacher, metas)
                           if main == "decode_head.1" else teacher.model.decode_head.predict_by_feat(of_teacher, metas),
                           teacher.model.encode_decode(images, metas))  # fmt: skip
        with training_outputs(student), distiller.capture:
            run_heads(student, student.extract_feat(images), distiller.capture.names)
            in_training = distiller.capture[main]
        student.eval()
        for_prediction = run_heads(student, student.extract_feat(images), [])
        torch.testing.assert_close(in_training, for_prediction)
    distiller.train()
    with distiller.capture:
        losses = distiller.loss(images, data["data_samples"])
        logits = distiller.capture[main]
        label_nhw = torch.stack([sample.gt_sem_seg.data[0] for sample in data["data_samples"]])
        expected = distiller.terms["logits"](logits.detach(), of_teacher, label_nhw)
        torch.testing.assert_close(losses["raw/logits"], expected)
        (gradient,) = torch.autograd.grad(losses["distill.loss_logits"], logits)
    assert gradient.abs().sum() > 0


@pytest.mark.parametrize(("name", "outputs"), [("ddrnet", 2), ("pidnet", 3), ("knet", 4)])
def test_other_logits_of_training_by_index(name: str, outputs: int, tiny: Tiny, tmp_path: Path) -> None:
    """The student has them; a teacher that predicts gives fewer, which is said by name."""
    student = build_segmentor(read_config_file(write_model(tmp_path, name)).model)
    assert len(logit_names(student, training=True)) == outputs
    index = outputs - 1
    with pytest.raises(UserError, match=rf"logits\[{index}\]', but the teacher has \d outputs: decode_head"):
        build_distiller(under_itself(name, tiny, tmp_path, other=dict(type="KL", on=f"logits[{index}]")), seed=0)


class TwoLogitsHead(FCNHead):
    """A head of one's own."""

    def forward(self, inputs: Any) -> Any:
        logits = super().forward(inputs)
        return logits * 0, logits


def test_a_head_of_ones_own_says_which_are_logits(tiny: Tiny) -> None:
    model = build_segmentor(
        tiny.load("student", {"+model.auxiliary_head": dict(FCN, in_channels=16, in_index=2)}).model
    )
    model.decode_head = TwoLogitsHead(in_channels=32, channels=8, num_classes=2, in_index=3)
    features = model.extract_feat(torch.randn(2, 3, 64, 64))
    with pytest.raises(UserError, match="TwoLogitsHead: gives 2 tensors; say which are logits"):
        run_heads(model, features, [])
    model.decode_head.logit_elements = (1, 0)
    assert logit_names(model, training=True) == ["decode_head[1]", "auxiliary_head", "decode_head[0]"]
    assert run_heads(model, features, []).abs().sum() > 0

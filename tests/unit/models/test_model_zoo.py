"""Segmentors of many kinds, inherited from mmseg, distil: as students and as teachers, CNN maps and tokens alike."""

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
    ZOO,
    under_itself,
    write_config,
    write_model,
)

from rdistill.checks.dry_run import check_batch, tiny_batch
from rdistill.checks.run import check_pairs
from rdistill.config.distill_spec import distill_spec
from rdistill.config.load import Shortcuts, load_config, read_config_file
from rdistill.core.errors import UserError
from rdistill.distill.distiller import build_distiller
from rdistill.models.segmentor import build_segmentor, logit_names, run_heads, training_outputs


def test_tokens_are_compared_as_maps(tiny: Tiny, tmp_path: Path) -> None:
    """A SegFormer layer's N x L x C against a CNN's map, with an adapter between their widths."""
    file = write_config(tmp_path, "segformer_tokens")
    distill = dict(
        teachers=[dict(config=str(tiny.folder / "teacher.py"), checkpoint=str(tiny.folder / "teacher" / "best.pth"))],
        features=dict(student=[ZOO["segformer_tokens"][2]], teacher=["backbone.layer2"]),
        losses=dict(hidden=dict(type="FitNet", pair=(0, 0))),
    )
    cfg = load_config(file, {"+distill": distill}, Shortcuts(data_root=str(tiny.data_root), size="64"))
    distiller = build_distiller(cfg, seed=0)
    adapter = distiller.terms["hidden"].adapter
    assert adapter is not None
    assert [tuple(weight.shape[:2]) for weight in adapter.parameters() if weight.ndim == 4] == [(32, 64)]


# --- heads that give several tensors, cascades, and what else has a shape of its own --------------------------------


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


@pytest.mark.parametrize("index", [1, 2, 3])
def test_every_output_of_danet(
    index: int, tiny: Tiny, tmp_path: Path, stream_batches: Callable[..., list[dict[str, Any]]]
) -> None:
    """Its head gives three maps on both sides, beside an auxiliary head."""
    cfg = under_itself("danet", tiny, tmp_path, other=dict(type="KL", on=f"logits[{index}]"))
    distiller = build_distiller(cfg, seed=0)
    assert check_batch(distiller, cfg, stream_batches(cfg, 1)[0]) == []
    assert distiller.routes["other"].student_features == (MODELS_OF_SEVERAL["danet"][1][index],)


def test_features_that_exist_in_training_alone(tiny: Tiny, tmp_path: Path) -> None:
    """DDRNet's backbone gives two maps to a student in training, and one to a teacher that predicts."""
    features = dict(student=["backbone[1]"], teacher=["backbone"])
    cfg = under_itself("ddrnet", tiny, tmp_path, features, hidden=dict(type="CWD", pair=(0, 0)))
    distiller = build_distiller(cfg, seed=0)
    spec = distill_spec(cfg)
    assert spec is not None
    assert check_pairs(spec, distiller.student, [distiller.teachers[0].model], (64, 64)) == []
    assert check_batch(distiller, cfg, tiny_batch(cfg, 2, 0)) == []


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

"""Segmentors of many kinds, inherited from mmseg, distil: as students and as teachers, CNN maps and tokens alike."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import REPO, Tiny
from mmengine.config import Config
from mmseg.models.decode_heads import FCNHead

from rdistill.checks.dry_run import check_batch, tiny_batch
from rdistill.checks.run import check_pairs
from rdistill.config.load import Shortcuts, distill_spec, load_config, read_config_file
from rdistill.core.errors import UserError
from rdistill.distill.distiller import build_distiller
from rdistill.models.segmentor import build_segmentor, logit_names, run_heads, training_outputs
from rdistill.training.run import train

# name: mmseg's base, what makes it small, one feature, pixels
ZOO: dict[str, tuple[str, dict[str, Any], str, int]] = {
    "pspnet": (
        "pspnet_r50-d8",
        dict(
            backbone=dict(depth=18, base_channels=8, stem_channels=8),
            decode_head=dict(in_channels=64, channels=16, num_classes=2),
            auxiliary_head=dict(in_channels=32, channels=8, num_classes=2),
        ),
        "backbone.layer4",
        64,
    ),
    "fcn_hrnet": ("fcn_hr18", dict(decode_head=dict(num_classes=2)), "backbone[3]", 64),
    "segformer_maps": ("segformer_mit-b0", dict(decode_head=dict(num_classes=2)), "backbone[3]", 64),
    "segformer_tokens": ("segformer_mit-b0", dict(decode_head=dict(num_classes=2)), "backbone.layers.1.1.1", 64),
    "upernet_swin": (
        "upernet_swin",
        dict(
            backbone=dict(embed_dims=12, depths=(1, 1, 1, 1), num_heads=(1, 2, 4, 4)),
            decode_head=dict(in_channels=[12, 24, 48, 96], channels=16, num_classes=2),
            auxiliary_head=dict(in_channels=48, channels=8, num_classes=2),
        ),
        "backbone.stages.2.blocks.0",
        64,
    ),
    "fast_scnn": (
        "fast_scnn",
        dict(
            decode_head=dict(num_classes=2),
            auxiliary_head=[
                dict(type="FCNHead", in_channels=128, channels=32, num_convs=1, num_classes=2, in_index=-2),
                dict(type="FCNHead", in_channels=64, channels=32, num_convs=1, num_classes=2, in_index=-3),
            ],
        ),
        "backbone[2]",
        64,
    ),
    # A fixed pool of 49 cells at stride 16: no image below 784 pixels.
    "lraspp": ("lraspp_m-v3-d8", dict(decode_head=dict(num_classes=2)), "backbone[2]", 784),
}


def write_config(folder: Path, name: str) -> Path:
    """A complete training config of one of the zoo's models, in a file."""
    base, small, _, size = ZOO[name]
    bases = [f"mmseg::_base_/models/{base}.py"]
    bases += [str(REPO / "configs" / "_base_" / part) for part in
              ("datasets/optic-disc-128.py", "schedules/sgd_poly_1k.py", "default_runtime.py")]  # fmt: skip
    preprocessor = dict(type="SegDataPreProcessor", size=(size, size), bgr_to_rgb=True, pad_val=0, seg_pad_val=255)
    statistics = dict(mean=[127.5] * 3, std=[127.5] * 3)
    file = folder / f"{name}.py"
    model = dict(pretrained=None, data_preprocessor={**preprocessor, **statistics}, **small)
    file.write_text(f"_base_ = {bases}\nmodel = {model}\n")
    return file


@pytest.mark.e2e
@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=pytest.mark.slow) if ZOO[name][3] > 500 else name for name in ZOO],
)
def test_student_and_teacher(name: str, tiny: Tiny, tmp_path: Path) -> None:
    """The model under a copy of itself with other weights: KL on its logits, CWD on a feature of each side."""
    file = write_config(tmp_path, name)
    feature, size = ZOO[name][2:]
    torch.manual_seed(1)
    torch.save({"state_dict": build_segmentor(read_config_file(file).model).state_dict()}, tmp_path / "teacher.pth")
    distill = dict(
        teachers=[dict(config=str(file), checkpoint=str(tmp_path / "teacher.pth"))],
        features=dict(student=[feature], teacher=[feature]),
        losses=dict(logits=dict(type="KL"), hidden=dict(type="CWD", pair=(0, 0))),
    )
    shortcuts = Shortcuts(data_root=str(tiny.data_root), size=str(size), iters=1, batch_size=2, val_interval=1)
    cfg = load_config(file, {"+distill": distill, "+val_dataloader.dataset.indices": 1}, shortcuts)
    metrics = train(cfg, tmp_path / "run", teacher_metrics=[{}])
    assert metrics["iter"] == 1 and set(metrics["IoU"]) == {"background", "optic disc"}


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

CE = dict(type="CrossEntropyLoss", loss_weight=1.0)
OHEM = dict(type="OhemCrossEntropy", thres=0.9, min_kept=100)  # unlike CE, knows by itself what to ignore
FCN = dict(type="FCNHead", in_channels=64, channels=8, num_convs=1, num_classes=2, concat_input=False, loss_decode=CE)
RESNET = dict(
    type="ResNetV1c", depth=18, base_channels=8, stem_channels=8, num_stages=4, out_indices=(0, 1, 2, 3),
    dilations=(1, 1, 2, 4), strides=(1, 2, 1, 1), norm_cfg=dict(type="BN"), contract_dilation=True,
)  # fmt: skip


def on_resnet(head: dict[str, Any], **head_options: Any) -> dict[str, Any]:
    head = dict(num_classes=2, norm_cfg=dict(type="BN"), loss_decode=CE, **{**head, **head_options})
    return dict(backbone=RESNET, decode_head=head, auxiliary_head=dict(FCN, in_channels=32, in_index=2))


KNET_UPDATE = dict(
    type="KernelUpdateHead", num_classes=2, num_ffn_fcs=2, num_heads=2, num_mask_fcs=1, feedforward_channels=16,
    in_channels=8, out_channels=8, dropout=0.0, conv_kernel_size=1, ffn_act_cfg=dict(type="ReLU", inplace=True),
    with_ffn=True, feat_transform_cfg=dict(conv_cfg=dict(type="Conv2d"), act_cfg=None),
    kernel_updator_cfg=dict(type="KernelUpdator", in_channels=8, feat_channels=8, out_channels=8,
                            act_cfg=dict(type="ReLU", inplace=True), norm_cfg=dict(type="LN")),
)  # fmt: skip
MODELS_OF_SEVERAL: dict[str, tuple[dict[str, Any], list[str], list[str]]] = {
    # name: the model, names of its logits in training, and for a prediction
    "ddrnet": (
        dict(
            backbone=dict(type="DDRNet", channels=8, ppm_channels=8, norm_cfg=dict(type="BN")),
            decode_head=dict(type="DDRHead", in_channels=32, channels=8, num_classes=2, loss_decode=[OHEM, OHEM],
                             norm_cfg=dict(type="BN")),
        ),
        ["decode_head[0]", "decode_head[1]"],
        ["decode_head"],
    ),
    "pidnet": (
        dict(
            backbone=dict(type="PIDNet", channels=8, ppm_channels=8, num_stem_blocks=1, num_branch_blocks=1),
            decode_head=dict(type="PIDHead", in_channels=32, channels=8, num_classes=2, align_corners=True,
                             loss_decode=[CE, OHEM, dict(type="BoundaryLoss", loss_weight=20.0), OHEM]),
        ),
        ["decode_head[1]", "decode_head[0]", "decode_head[2]"],
        ["decode_head"],
    ),
    "encnet": (
        on_resnet(dict(type="EncHead", in_channels=[16, 32, 64], in_index=(1, 2, 3), channels=8, num_codes=4)),
        ["decode_head[0]", "auxiliary_head"],
        ["decode_head[0]", "auxiliary_head"],
    ),
    "danet": (
        on_resnet(dict(type="DAHead", in_channels=64, in_index=3, channels=8, pam_channels=4)),
        ["decode_head[0]", "auxiliary_head", "decode_head[1]", "decode_head[2]"],
        ["decode_head[0]", "auxiliary_head", "decode_head[1]", "decode_head[2]"],
    ),
    "knet": (
        dict(
            backbone=RESNET,
            decode_head=dict(type="IterativeDecodeHead", num_stages=2, kernel_update_head=[KNET_UPDATE] * 2,
                             kernel_generate_head=dict(FCN, in_index=3, norm_cfg=dict(type="BN"))),
            auxiliary_head=dict(FCN, in_channels=32, in_index=2),
        ),
        ["decode_head[2]", "auxiliary_head", "decode_head[0]", "decode_head[1]"],
        ["decode_head", "auxiliary_head"],
    ),
    "ocrnet": (
        dict(
            type="CascadeEncoderDecoder", num_stages=2, backbone=RESNET,
            decode_head=[
                dict(FCN, in_channels=32, in_index=2),
                dict(type="OCRHead", in_channels=64, in_index=3, channels=8, ocr_channels=4, num_classes=2,
                     norm_cfg=dict(type="BN"), loss_decode=CE),
            ],
        ),
        ["decode_head.1"],
        ["decode_head.1"],
    ),
    "bisenetv2": (
        dict(
            backbone=dict(type="BiSeNetV2", detail_channels=(8, 8, 16), semantic_channels=(4, 8, 8, 16),
                          semantic_expansion_ratio=2, bga_channels=16, out_indices=(0, 1, 2, 3, 4)),
            decode_head=dict(FCN, in_channels=16, in_index=0),
            auxiliary_head=[dict(FCN, in_channels=4, in_index=1), dict(FCN, in_channels=8, in_index=2)],
        ),
        ["decode_head", "auxiliary_head.0", "auxiliary_head.1"],
        ["decode_head", "auxiliary_head.0", "auxiliary_head.1"],
    ),
    "stdc": (
        dict(
            backbone=dict(
                type="STDCContextPathNet",
                backbone_cfg=dict(type="STDCNet", stdc_type="STDCNet1", in_channels=3, channels=(4, 8, 16, 32, 64),
                                  bottleneck_type="cat", num_convs=4, norm_cfg=dict(type="BN"),
                                  act_cfg=dict(type="ReLU"), with_final_conv=False),
                last_in_channels=(64, 32), out_channels=8,
                ffm_cfg=dict(in_channels=24, out_channels=16, scale_factor=4)),
            decode_head=dict(FCN, in_channels=16, in_index=3),
            auxiliary_head=[
                dict(FCN, in_channels=8, in_index=2),
                dict(type="STDCHead", in_channels=16, channels=8, num_convs=1, num_classes=2, boundary_threshold=0.1,
                     in_index=0, concat_input=False, loss_decode=[dict(CE, loss_name="loss_ce", use_sigmoid=True)]),
            ],
        ),
        ["decode_head", "auxiliary_head.0", "auxiliary_head.1"],
        ["decode_head", "auxiliary_head.0", "auxiliary_head.1"],
    ),
    "icnet": (
        dict(
            backbone=dict(type="ICNet", backbone_cfg=dict(RESNET, in_channels=3), in_channels=3,
                          layer_channels=(16, 64), light_branch_middle_channels=8, psp_out_channels=16,
                          out_channels=(8, 16, 16), norm_cfg=dict(type="BN")),
            neck=dict(type="ICNeck", in_channels=(8, 16, 16), out_channels=8, norm_cfg=dict(type="BN")),
            decode_head=dict(FCN, in_channels=8, in_index=2),
            auxiliary_head=[dict(FCN, in_channels=8, in_index=0), dict(FCN, in_channels=8, in_index=1)],
        ),
        ["decode_head", "auxiliary_head.0", "auxiliary_head.1"],
        ["decode_head", "auxiliary_head.0", "auxiliary_head.1"],
    ),
    "segnext": (
        dict(
            backbone=dict(type="MSCAN", embed_dims=[8, 8, 16, 16], mlp_ratios=[2, 2, 2, 2], depths=[1, 1, 1, 1],
                          norm_cfg=dict(type="BN")),
            decode_head=dict(type="LightHamHead", in_channels=[8, 16, 16], in_index=[1, 2, 3], channels=16,
                             ham_channels=16, num_classes=2, norm_cfg=dict(type="GN", num_groups=4), loss_decode=CE,
                             ham_kwargs=dict(MD_S=1, MD_R=4, train_steps=2, eval_steps=2, inv_t=100, rand_init=False)),
        ),
        ["decode_head"],
        ["decode_head"],
    ),
}  # fmt: skip


def write_model(folder: Path, name: str) -> Path:
    bases = [str(REPO / "configs" / "_base_" / part) for part in
             ("datasets/optic-disc-128.py", "schedules/sgd_poly_1k.py", "default_runtime.py")]  # fmt: skip
    model = dict(type="EncoderDecoder", train_cfg=dict(), test_cfg=dict(mode="whole"))
    statistics = dict(mean=[127.5] * 3, std=[127.5] * 3)
    model["data_preprocessor"] = dict(type="SegDataPreProcessor", size=(64, 64), seg_pad_val=255, **statistics)
    file = folder / f"{name}.py"
    file.write_text(f"_base_ = {bases}\nmodel = {model | MODELS_OF_SEVERAL[name][0]}\n")
    return file


def under_itself(
    name: str, tiny: Tiny, folder: Path, features: dict[str, list[str]] | None = None, **losses: Any
) -> Config:
    """A config of the zoo's model under a copy of itself with other weights."""
    file = write_model(folder, name)
    torch.manual_seed(1)
    torch.save({"state_dict": build_segmentor(read_config_file(file).model).state_dict()}, folder / "teacher.pth")
    distill = dict(teachers=[dict(config=str(file), checkpoint=str(folder / "teacher.pth"))], losses=losses)
    distill["features"] = features or dict(student=[], teacher=[])
    shortcuts = Shortcuts(data_root=str(tiny.data_root), size="64", iters=1, batch_size=2, val_interval=1)
    cfg = load_config(file, {"+distill": distill, "+val_dataloader.dataset.indices": 1}, shortcuts)
    if name == "pidnet":
        cfg.train_dataloader.dataset.pipeline.insert(-1, dict(type="GenerateEdge", edge_width=4))
    return cfg


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
        given = teacher(images)[teacher.heads[0]]
        assert torch.equal(teacher.model.decode_head[-1].predict_by_feat(given, metas)
                           if main == "decode_head.1" else teacher.model.decode_head.predict_by_feat(given, metas),
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
        expected = distiller.terms["logits"](logits.detach(), given, label_nhw)
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


@pytest.mark.e2e
@pytest.mark.parametrize("name", ["ddrnet", "pidnet", "encnet"])
def test_several_logits_train(name: str, tiny: Tiny, tmp_path: Path) -> None:
    metrics = train(under_itself(name, tiny, tmp_path, logits=dict(type="KL")), tmp_path / "run")
    assert metrics["iter"] == 1 and metrics["teacher_mIoU"] is not None

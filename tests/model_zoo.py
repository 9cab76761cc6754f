"""Small models of every kind that mmseg has, as configs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from conftest import REPO, Tiny
from mmengine.config import Config
from torch import nn

from rdistill.config.load import Shortcuts, load_config, read_config_file
from rdistill.models.segmentor import build_segmentor

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


def segmentor(name: str, changes: dict[str, Any], folder: Path) -> nn.Module:
    """One of mmseg's base models, narrowed."""
    (folder / "model.py").write_text(f"_base_ = ['mmseg::_base_/models/{name}.py']\n")
    cfg = read_config_file(folder / "model.py")
    cfg.merge_from_dict({"model.pretrained": None, "model.backbone.init_cfg": None, **changes})
    for value in cfg.model.values():
        if isinstance(value, (dict, Config)) and value.get("norm_cfg"):
            value["norm_cfg"] = dict(type="BN")
    torch.manual_seed(0)
    return build_segmentor(cfg.model).eval()

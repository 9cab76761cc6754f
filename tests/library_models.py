"""Models of other libraries as small as their config classes allow, with random weights, saved as users have them."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch

from rdistill.networks.transformers_models import quiet

transformers: Any = None  # stays None without the extra [teachers]
with suppress(ModuleNotFoundError):
    import transformers
CLASSES = ("rest", "disc")
MEAN, STD = (0.5, 0.4, 0.3), (0.25, 0.2, 0.5)  # red, green and blue, on a scale of 0 to 1
SMALL_VIT = dict(hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32)
SMALL_SWIN = dict(embed_dim=8, depths=[1, 1, 1, 1], num_heads=[1, 1, 2, 2], window_size=2, image_size=32)


def labels(classes: tuple[str, ...]) -> dict[str, Any]:
    return {"id2label": dict(enumerate(classes)), "label2id": {name: index for index, name in enumerate(classes)}}


def segformer(classes: tuple[str, ...]) -> Any:
    config = transformers.SegformerConfig(
        depths=[1, 1, 1, 1], hidden_sizes=[8, 8, 16, 16], num_attention_heads=[1, 1, 2, 2], decoder_hidden_size=16,
        **labels(classes),
    )  # fmt: skip
    return transformers.SegformerForSemanticSegmentation(config)


def upernet(classes: tuple[str, ...]) -> Any:
    stages = ["stage1", "stage2", "stage3", "stage4"]
    backbone = transformers.ConvNextConfig(
        hidden_sizes=[8, 8, 16, 16], depths=[1, 1, 1, 1], num_stages=4, out_features=stages
    )
    config = transformers.UperNetConfig(
        backbone_config=backbone, hidden_size=8, pool_scales=[1, 2], auxiliary_in_channels=16, auxiliary_channels=8,
        **labels(classes),
    )  # fmt: skip
    return transformers.UperNetForSemanticSegmentation(config)


def dpt(classes: tuple[str, ...]) -> Any:
    config = transformers.DPTConfig(
        **{**SMALL_VIT, "num_hidden_layers": 4}, image_size=32, patch_size=8, backbone_out_indices=[0, 1, 2, 3],
        neck_hidden_sizes=[8, 8, 8, 8], fusion_hidden_size=8, auxiliary_loss_weight=0.0, **labels(classes),
    )  # fmt: skip
    return transformers.DPTForSemanticSegmentation(config)


def beit(classes: tuple[str, ...]) -> Any:
    config = transformers.BeitConfig(
        **{**SMALL_VIT, "num_hidden_layers": 4}, image_size=32, patch_size=8, out_indices=[1, 2, 3, 4],
        pool_scales=[1, 2], auxiliary_channels=8, use_relative_position_bias=True, **labels(classes),
    )  # fmt: skip
    return transformers.BeitForSemanticSegmentation(config)


def maskformer(classes: tuple[str, ...]) -> Any:
    decoder = transformers.DetrConfig(
        d_model=32, decoder_layers=1, encoder_layers=1, num_queries=5, decoder_ffn_dim=16, decoder_attention_heads=2,
        use_timm_backbone=False, backbone_config=transformers.ResNetConfig(),
    )  # fmt: skip
    config = transformers.MaskFormerConfig(
        backbone_config=transformers.SwinConfig(**SMALL_SWIN, out_features=["stage1", "stage2", "stage3", "stage4"]),
        decoder_config=decoder, fpn_feature_size=32, mask_feature_size=32, **labels(classes),
    )  # fmt: skip
    return transformers.MaskFormerForInstanceSegmentation(config)


def mask2former(classes: tuple[str, ...]) -> Any:
    config = transformers.Mask2FormerConfig(
        backbone_config=transformers.SwinConfig(**SMALL_SWIN, out_features=["stage1", "stage2", "stage3", "stage4"]),
        feature_size=32, mask_feature_size=32, hidden_dim=32, encoder_feedforward_dim=16, encoder_layers=1,
        decoder_layers=2, num_attention_heads=2, dim_feedforward=16, num_queries=5, **labels(classes),
    )  # fmt: skip
    return transformers.Mask2FormerForUniversalSegmentation(config)


def eomt(classes: tuple[str, ...]) -> Any:
    config = transformers.EomtConfig(
        hidden_size=16, num_hidden_layers=2, num_attention_heads=2, image_size=32, patch_size=8, num_blocks=1,
        num_queries=5, num_upscale_blocks=1, num_register_tokens=4, **labels(classes),
    )  # fmt: skip
    return transformers.EomtForUniversalSegmentation(config)


def oneformer(classes: tuple[str, ...]) -> Any:
    config = transformers.OneFormerConfig(
        backbone_config=transformers.SwinConfig(**SMALL_SWIN, out_features=["stage1", "stage2", "stage3", "stage4"]),
        conv_dim=32, mask_dim=32, hidden_dim=32, encoder_feedforward_dim=16, encoder_layers=1, decoder_layers=2,
        num_attention_heads=2, dim_feedforward=16, num_queries=5, task_seq_len=8, max_seq_len=8, text_encoder_width=16,
        text_encoder_context_length=8, text_encoder_num_layers=1, text_encoder_vocab_size=50, query_dec_layers=1,
        query_dec_dim=16, use_task_norm=True, is_training=False, **labels(classes),
    )  # fmt: skip
    return transformers.OneFormerForUniversalSegmentation(config)


def dinov2(classes: tuple[str, ...]) -> Any:
    config = transformers.Dinov2Config(hidden_size=16, num_hidden_layers=2, num_attention_heads=2, patch_size=14)
    return transformers.Dinov2Model(config)


def dinov2_with_registers(classes: tuple[str, ...]) -> Any:
    config = transformers.Dinov2WithRegistersConfig(
        hidden_size=16, num_hidden_layers=2, num_attention_heads=2, patch_size=14, num_register_tokens=4
    )
    return transformers.Dinov2WithRegistersModel(config)


def dinov3(classes: tuple[str, ...]) -> Any:
    return transformers.DINOv3ViTModel(transformers.DINOv3ViTConfig(**SMALL_VIT, patch_size=16, num_register_tokens=4))


def siglip(classes: tuple[str, ...]) -> Any:
    """Images and text, as SigLIP's checkpoints are."""
    vision = dict(**SMALL_VIT, image_size=32, patch_size=8)
    text = dict(**SMALL_VIT, vocab_size=50, max_position_embeddings=8)
    return transformers.SiglipModel(transformers.SiglipConfig(text_config=text, vision_config=vision))


def siglip_vision(classes: tuple[str, ...]) -> Any:
    return transformers.SiglipVisionModel(transformers.SiglipVisionConfig(**SMALL_VIT, image_size=32, patch_size=8))


def clip(classes: tuple[str, ...]) -> Any:
    vision = dict(**SMALL_VIT, image_size=32, patch_size=8)
    text = dict(**SMALL_VIT, vocab_size=50, max_position_embeddings=8)
    return transformers.CLIPModel(transformers.CLIPConfig(text_config=text, vision_config=vision))


def vit(classes: tuple[str, ...]) -> Any:
    """With a classifier, as most of its checkpoints are."""
    config = transformers.ViTConfig(**SMALL_VIT, image_size=32, patch_size=8, **labels(classes))
    return transformers.ViTForImageClassification(config)


def convnext(classes: tuple[str, ...]) -> Any:
    return transformers.ConvNextModel(transformers.ConvNextConfig(hidden_sizes=[8, 8, 16, 16], depths=[1, 1, 1, 1]))


def swin(classes: tuple[str, ...]) -> Any:
    return transformers.SwinModel(transformers.SwinConfig(**SMALL_SWIN))


LOGITS: tuple[Callable[[tuple[str, ...]], Any], ...] = (segformer, upernet, dpt, beit)
MASKS: tuple[Callable[[tuple[str, ...]], Any], ...] = (maskformer, mask2former, oneformer, eomt)
ENCODERS: tuple[Callable[[tuple[str, ...]], Any], ...] = (
    dinov2, dinov2_with_registers, dinov3, siglip, siglip_vision, clip, vit, convnext, swin,
)  # fmt: skip


def save(
    build: Callable[[tuple[str, ...]], Any], folder: Path, classes: tuple[str, ...] = CLASSES, **processor: Any
) -> Path:
    """A model with weights drawn from seed 0, and its image processor's file, which ``processor`` adds to.

    Without transformers, the test that calls this is skipped.
    """
    pytest.importorskip("transformers", reason="pip install 'rdistill[teachers]'")
    with torch.random.fork_rng(devices=[]), quiet(transformers):
        torch.manual_seed(0)
        model = build(classes)
        for parameter in model.parameters():
            if parameter.std() == 0:  # LayerScale, positions and biases begin as constants, which hide mistakes
                torch.nn.init.normal_(parameter, mean=float(parameter.mean()), std=0.1)
        model.save_pretrained(folder)
    settings = {"image_mean": list(MEAN), "image_std": list(STD), **processor}
    (folder / "preprocessor_config.json").write_text(json.dumps(settings))
    if build is oneformer:
        _save_tokenizer(folder)
    return folder


def _save_tokenizer(folder: Path) -> None:
    words = ["<pad>", "<unk>", "the", "task", "is", "semantic"]
    (folder / "tokenizer.json").write_text(json.dumps({
        "version": "1.0", "truncation": None, "padding": None, "added_tokens": [], "normalizer": None,
        "pre_tokenizer": {"type": "Whitespace"}, "post_processor": None, "decoder": None,
        "model": {"type": "WordLevel", "vocab": {word: i for i, word in enumerate(words)}, "unk_token": "<unk>"},
    }))  # fmt: skip
    (folder / "tokenizer_config.json").write_text(json.dumps(
        {"tokenizer_class": "PreTrainedTokenizerFast", "pad_token": "<pad>", "unk_token": "<unk>"}
    ))  # fmt: skip

"""mmseg's segmentors: built from a config, and asked for what their heads give."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from mmengine.config import Config, ConfigDict
from mmengine.registry import init_default_scope
from torch import Tensor, nn

from rdistill.errors import UserError, blaming
from rdistill.packages import absent_behind, absent_packages
from rdistill.pretrained import weights_alone
from rdistill.quiet_mmseg import MODELS


def build_segmentor(model_cfg: Mapping[str, Any], *, what: str = "model", trust_checkpoint: bool = False) -> nn.Module:
    """Builds an mmseg segmentor from a config's ``model`` section.

    Some models load files of weights already when they are built: safely, or with ``trust_checkpoint`` as they are.

    Raises:
        UserError: the section does not build, or needs packages or compiled operators that are absent.
    """
    init_default_scope("mmseg")
    try:
        with warnings.catch_warnings(), blaming(what), weights_alone(trust=trust_checkpoint):
            warnings.simplefilter("ignore")  # mmseg's own deprecations
            model = MODELS.build(ConfigDict(copy.deepcopy(model_cfg)))
    except UserError as error:
        if absent := absent_packages(model_cfg) or absent_behind(error):
            raise UserError(f"{what}: {absent}") from error
        raise
    if not hasattr(model, "decode_head"):
        raise UserError(f"{what}: {type(model).__name__} is not an encoder-decoder segmentor of mmseg")
    return model


def decode_heads(model: nn.Module) -> list[str]:
    """Names of the layers that give the model's outputs: the main head, then the auxiliary ones."""
    names = []
    for name in ("decode_head", "auxiliary_head"):
        head = getattr(model, name, None)
        if isinstance(head, nn.ModuleList):
            # The last stage of a cascade is its result; auxiliary heads all count.
            indices = [len(head) - 1] if name == "decode_head" else range(len(head))
            names += [f"{name}.{index}" for index in indices]
        elif head is not None:
            names.append(name)
    return names


def run_heads(model: nn.Module, features: Any, names: Sequence[str]) -> Tensor:
    """Runs the main head, and those auxiliary heads that somebody wants; returns the main logits.

    Args:
        model: an mmseg segmentor.
        features: what its ``extract_feat`` gave.
        names: the feature names that will be read.
    """
    head = model.decode_head
    if isinstance(head, nn.ModuleList):  # a cascade: each stage refines the one before
        logits = head[0].forward(features)
        for stage in head[1:]:
            logits = stage.forward(features, logits)
    else:
        logits = head.forward(features)
    for name in decode_heads(model)[1:]:
        if any(wanted == name or wanted.startswith((f"{name}.", f"{name}[", f"{name}:")) for wanted in names):
            model.get_submodule(name).forward(features)
    return logits


def logit_channels(model: nn.Module, head: str = "") -> int:
    """Channels of a head's logits; of the main head by default. Two classes may have one, with a sigmoid."""
    module = model.get_submodule(head or decode_heads(model)[0])
    return int(getattr(module, "out_channels", None) or module.num_classes)


def num_classes(model: nn.Module, head: str = "") -> int:
    """How many classes a head tells apart, which labels are of; of the main head by default.

    One channel tells two apart, whether mmseg's config says ``num_classes=2, out_channels=1`` or ``num_classes=1``.
    """
    return max(2, logit_channels(model, head))


def ignore_index(model: nn.Module) -> int:
    """The label that counts nowhere, as the model's own loss has it."""
    return int(model.get_submodule(decode_heads(model)[0]).ignore_index)


def input_channels(model: nn.Module) -> int:
    """Channels of the images that a segmentor takes: those of its first convolution; 3 where it has none."""
    encoder = getattr(model, "backbone", None) or getattr(model, "image_encoder", None) or model
    first = next((layer for layer in encoder.modules() if isinstance(layer, nn.Conv2d)), None)
    return 3 if first is None else int(first.in_channels)


def blank_image(model: nn.Module, height_width: tuple[int, int]) -> Tensor:
    """Zeros for a segmentor to run on: 1 x its channels x height x width, on its device."""
    device = next((parameter.device for parameter in model.parameters()), torch.device("cpu"))
    return torch.zeros(1, input_channels(model), *height_width, device=device)


def require_numbers(samples: Sequence[Any]) -> None:
    """Refuses a model's predictions that come of NaN: their masks would be of the first class throughout.

    Args:
        samples: mmseg's, as a segmentor's ``predict`` mode gives them.

    Raises:
        UserError: naming the first such image.
    """
    for sample in samples:
        logits = getattr(sample, "seg_logits", None)
        if logits is not None and logits.data.isnan().any():
            share = 100 * float(logits.data.isnan().float().mean())
            raise UserError(
                f"{sample.get('img_path', 'an image')}: {share:.3g} % of the model's outputs for it are no numbers "
                f"(NaN), so there is no mask; the checkpoint's weights, or what the image holds, are broken"
            )


def swaps_channels(preprocessor: nn.Module) -> bool:
    """Whether a model's data preprocessor turns BGR into RGB or back. It does so with three channels only."""
    # mmengine's ImgDataPreprocessor, which OneDL's mmseg builds on, has the one name, mmseg 1.2.2 the other.
    names = ("_channel_conversion", "channel_conversion")
    return any(bool(getattr(preprocessor, name, False)) for name in names)


def training_size(cfg: Config) -> tuple[int, int]:
    """Height and width in pixels of the images a student trains on."""
    size = (cfg.model.get("data_preprocessor") or {}).get("size") or cfg.get("crop_size")
    return (int(size[0]), int(size[1])) if size else (512, 512)

"""mmseg's segmentors: built from a config, and asked for what their heads give."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

from mmengine.config import Config, ConfigDict
from mmengine.registry import init_default_scope
from torch import Tensor, nn

from rdistill.errors import UserError, blaming
from rdistill.pretrained import weights_alone
from rdistill.quiet_mmseg import MODELS


def build_segmentor(model_cfg: Mapping[str, Any], *, what: str = "model", trust_checkpoint: bool = False) -> nn.Module:
    """Builds an mmseg segmentor from a config's ``model`` section.

    Some models load files of weights already when they are built: safely, or with ``trust_checkpoint`` as they are.

    Raises:
        UserError: the section does not build, or needs compiled mmcv operators that are absent.
    """
    init_default_scope("mmseg")
    try:
        with warnings.catch_warnings(), blaming(what), weights_alone(trust=trust_checkpoint):
            warnings.simplefilter("ignore")  # mmseg's own deprecations
            model = MODELS.build(ConfigDict(copy.deepcopy(model_cfg)))
    except UserError as error:
        if "mmcv._ext" in str(error) or "mmcv.ops" in str(error):
            raise UserError(
                f"{what}: needs mmcv's compiled operators; install torch first, then build mmcv with "
                f"MMCV_WITH_OPS=1 pip install --no-build-isolation --no-binary onedl-mmcv onedl-mmcv"
            ) from error
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


def swaps_channels(preprocessor: nn.Module) -> bool:
    """Whether a model's data preprocessor turns the loader's BGR into RGB."""
    # mmengine's ImgDataPreprocessor, which OneDL's mmseg builds on, has the one name, mmseg 1.2.2 the other.
    names = ("_channel_conversion", "channel_conversion")
    return any(bool(getattr(preprocessor, name, False)) for name in names)


def training_size(cfg: Config) -> tuple[int, int]:
    """Height and width in pixels of the images a student trains on."""
    size = (cfg.model.get("data_preprocessor") or {}).get("size") or cfg.get("crop_size")
    return (int(size[0]), int(size[1])) if size else (512, 512)

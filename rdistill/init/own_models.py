"""Two models of rdistill's own that `init` offers beside mmseg's: both train well from few images on a CPU."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from typing import Any

from rdistill.models.efficientnet_lite import PACKAGE

OWN_SOURCE = "rdistill"  # stands in place of a config's path
STUDENT, TEACHER = "fpn_r18-w12", "fpn_efficientnet-lite0"
IMPORTS = {"imports": ["rdistill.models.efficientnet_lite"]}


def _fpn(backbone: dict[str, Any], widths: list[int], channels: int, dropout: float) -> dict[str, Any]:
    levels = [0, 1, 2, 3]
    return {
        "type": "EncoderDecoder",
        "data_preprocessor": {
            "type": "SegDataPreProcessor", "mean": [127.0] * 3, "std": [128.0] * 3, "bgr_to_rgb": True,
        },
        "backbone": backbone,
        "neck": {"type": "FPN", "in_channels": widths, "out_channels": channels, "num_outs": 4},
        "decode_head": {
            "type": "FPNHead", "in_channels": [channels] * 4, "in_index": levels, "feature_strides": [4, 8, 16, 32],
            "channels": channels, "dropout_ratio": dropout, "num_classes": 2, "norm_cfg": {"type": "BN"},
            "align_corners": False, "loss_decode": {"type": "CrossEntropyLoss", "use_sigmoid": False},
        },
    }  # fmt: skip


def _student() -> dict[str, Any]:
    backbone = {
        "type": "ResNetV1c", "depth": 18, "base_channels": 12, "stem_channels": 12, "num_stages": 4,
        "out_indices": [0, 1, 2, 3], "dilations": [1, 1, 1, 1], "strides": [1, 2, 2, 2], "norm_cfg": {"type": "BN"},
        "norm_eval": False, "style": "pytorch", "contract_dilation": True,
    }  # fmt: skip
    return _fpn(backbone, [12, 24, 48, 96], 32, 0.0)


def _teacher() -> dict[str, Any]:
    # ImageNet's weights come with a package: no network is needed for them.
    section = _fpn({"type": "EfficientNetLite0", "imagenet": has_imagenet()}, [24, 40, 112, 320], 64, 0.1)
    return {**section, "custom_imports": IMPORTS}


def has_imagenet() -> bool:
    """Whether the package with EfficientNet-Lite0's weights is installed (``rdistill[pretrained]``)."""
    return importlib.util.find_spec(PACKAGE) is not None


OWN: dict[str, Callable[[], dict[str, Any]]] = {STUDENT: _student, TEACHER: _teacher}

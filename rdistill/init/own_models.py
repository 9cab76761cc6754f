"""Small models of rdistill that `init` offers in addition to mmseg's; they train well from few images on a CPU.

They have the names of the files in ``configs/student`` and ``configs/teacher`` that the studies use.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable

from rdistill.models.efficientnet_lite import PACKAGE
from rdistill.schemas.mappings import PlainConfig

OWN_SOURCE = "rdistill"  # used in place of a config's path
STUDENT, TEACHER = "fpn_r18-w12", "fpn_efficientnet-lite0"
IMPORTS = {"imports": ["rdistill.models.efficientnet_lite"]}


def _fpn(backbone: PlainConfig, widths: list[int], channels: int, dropout: float) -> PlainConfig:
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


def _resnet(kind: str, depth: int, width: int, strides: list[int], dilations: list[int]) -> PlainConfig:
    return {
        "type": kind, "depth": depth, "base_channels": width, "stem_channels": width, "num_stages": 4,
        "out_indices": [0, 1, 2, 3], "dilations": dilations, "strides": strides, "norm_cfg": {"type": "BN"},
        "norm_eval": False, "style": "pytorch",
    }  # fmt: skip


def _student(width: int) -> PlainConfig:
    backbone = {**_resnet("ResNetV1c", 18, width, [1, 2, 2, 2], [1, 1, 1, 1]), "contract_dilation": True}
    return _fpn(backbone, [width, 2 * width, 4 * width, 8 * width], 8 * width // 3, 0.0)


def _slim(depth: int, multi_grid: list[int]) -> PlainConfig:
    """DeepLabV3+ of PaddleSeg's distillation recipe with a quarter of the channels."""
    width, expansion = 16, 1 if depth == 18 else 4  # bottleneck blocks have an expansion of 4
    backbone = _resnet("ResNetV1d", depth, width, [1, 2, 1, 1], [1, 1, 2, 4])
    return {
        "type": "EncoderDecoder",
        "data_preprocessor": {
            "type": "SegDataPreProcessor", "mean": [127.5] * 3, "std": [127.5] * 3, "bgr_to_rgb": True,
        },
        "backbone": {**backbone, "multi_grid": multi_grid, "contract_dilation": False},
        "decode_head": {
            "type": "DepthwiseSeparableASPPHead", "in_channels": 8 * width * expansion, "in_index": 3, "channels": 64,
            "dilations": [1, 12, 24, 36], "c1_in_channels": width * expansion, "c1_channels": 12, "dropout_ratio": 0.1,
            "num_classes": 2, "norm_cfg": {"type": "BN"}, "align_corners": False,
            "loss_decode": {"type": "CrossEntropyLoss", "use_sigmoid": False},
        },
    }  # fmt: skip


def _teacher() -> PlainConfig:
    # The ImageNet weights come with a Python package, so no network is needed.
    section = _fpn({"type": "EfficientNetLite0", "imagenet": has_imagenet()}, [24, 40, 112, 320], 64, 0.1)
    return {**section, "custom_imports": IMPORTS}


def has_imagenet() -> bool:
    """Returns whether the package with EfficientNet-Lite0's weights is installed (``rdistill[pretrained]``)."""
    return importlib.util.find_spec(PACKAGE) is not None


OWN: dict[str, Callable[[], PlainConfig]] = {
    STUDENT: lambda: _student(12),
    "fpn_r18-w6": lambda: _student(6),
    "deeplabv3plus_r18-slim": lambda: _slim(18, [4, 8]),
    "deeplabv3plus_r50-slim": lambda: _slim(50, [4, 8, 16]),
    TEACHER: _teacher,
}

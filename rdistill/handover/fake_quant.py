"""Rounds a student to 8 bits during training like its INT8 file will: quantisation-aware training.

Weights are rounded with a scale for each output channel, activations with a range for each tensor, and gradients pass
straight through (Jacob et al., "Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only
Inference", CVPR 2018), by PyTorch's own fake quantisation. onnxruntime folds a BatchNorm into the convolution before
it. With a scale for each channel, rounding before and after that folding is the same, so nothing is folded here. The
trained weights are ordinary ones, which `rdistill export --int8` quantises like any others.
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
RANGE_MOMENTUM = 0.05  # weight of a new batch in the moving average of minimum and maximum
WEIGHTED = (nn.Conv2d, nn.ConvTranspose2d, nn.Linear)
# onnxruntime fuses these modules with the one before; a range is then measured only after the fused operator.
FUSED = (*BATCH_NORMS, nn.ReLU, nn.ReLU6, nn.LeakyReLU)


class ActivationRange:
    """Rounds one tensor to unsigned 8 bits, between moving averages of its minimum and maximum."""

    def __init__(self) -> None:
        self.low: Tensor | None = None
        self.high: Tensor | None = None
        self.updating = True

    def __call__(self, x: Tensor) -> Tensor:
        if self.updating or self.low is None:
            low, high = torch.aminmax(x.detach().float())
            low, high = low.clamp(max=0.0), high.clamp(min=0.0)  # zero is representable, so padding is exact
            self.low = low if self.low is None else torch.lerp(self.low, low, RANGE_MOMENTUM)
            self.high = high if self.high is None else torch.lerp(self.high, high, RANGE_MOMENTUM)
        assert self.low is not None and self.high is not None
        scale = ((self.high - self.low) / 255).clamp(min=1e-8)
        zero = (-self.low / scale).round().clamp(0, 255).to(torch.int32)
        return torch.fake_quantize_per_tensor_affine(x, scale, zero, 0, 255)


def rounded_weight(weight: Tensor, axis: int = 0) -> Tensor:
    """Rounds a weight symmetrically to signed 8 bits, with a scale for each index of an axis."""
    other_axes = [index for index in range(weight.dim()) if index != axis]
    scale = (weight.detach().abs().amax(other_axes) / 127).clamp(min=1e-12)
    return torch.fake_quantize_per_channel_affine(
        weight, scale, torch.zeros_like(scale, dtype=torch.int32), axis, -127, 127
    )


@dataclass
class RoundingPoints:
    """Names of the modules at which a network's activations are rounded."""

    outputs: set[str]  # modules whose output is rounded
    inputs: set[str]  # modules whose input is rounded, because no module produced it: the image, a sum, a resized map


def find_rounding_points(model: nn.Module, run: Callable[[], Any]) -> RoundingPoints:
    """Runs a network once, and records which module's output is the input of which other module.

    Args:
        model: the network.
        run: a function that calls the network on an image.
    """
    names = {module: name for name, module in model.named_modules()}
    producer: dict[int, str] = {}  # id of a tensor -> name of the last module that produced it
    alive: list[Tensor] = []  # keeps tensors alive, because ids of freed tensors are reused
    fused: set[str] = set()
    weighted_inputs: list[tuple[str, str]] = []  # (module with a weight, producer of its input)
    outputs: set[str] = set()

    def record_call(module: nn.Module, arguments: tuple[Any, ...], out: Any) -> None:
        if not isinstance(out, Tensor) or not arguments or not isinstance(arguments[0], Tensor):
            return
        name, source = names[module], producer.get(id(arguments[0]), "")
        if isinstance(module, FUSED) and source:
            fused.add(source)
        if isinstance(module, WEIGHTED):
            weighted_inputs.append((name, source))
        outputs.add(name)
        producer[id(out)] = name
        alive.extend((out, arguments[0]))

    kinds = (*WEIGHTED, *FUSED, nn.MaxPool2d, nn.AvgPool2d, nn.AdaptiveAvgPool2d)
    handles = [module.register_forward_hook(record_call) for module in names if isinstance(module, kinds)]
    try:
        run()
    finally:
        for handle in handles:
            handle.remove()
    return RoundingPoints(outputs - fused, {name for name, source in weighted_inputs if not source})


class Rounding:
    """Rounds the weights and activations of a network until :meth:`remove`; its parameters stay in full precision.

    Args:
        model: the network.
        points: where its activations are rounded.
    """

    def __init__(self, model: nn.Module, points: RoundingPoints) -> None:
        self.ranges: dict[str, ActivationRange] = {}
        self._handles: list[RemovableHandle] = []
        self._weighted: list[nn.Module] = []
        for name, module in model.named_modules():
            if name in points.outputs:
                activation_range = self.ranges[f"{name} output"] = ActivationRange()
                self._handles.append(
                    module.register_forward_hook(
                        lambda _m, _arguments, out, activation_range=activation_range: activation_range(out)
                    )
                )
            if name in points.inputs:
                activation_range = self.ranges[f"{name} input"] = ActivationRange()
                self._handles.append(
                    module.register_forward_pre_hook(
                        lambda _m, arguments, activation_range=activation_range: (
                            activation_range(arguments[0]),
                            *arguments[1:],
                        )
                    )
                )
            if isinstance(module, WEIGHTED):
                self._round_weight(module)

    def _round_weight(self, module: nn.Module) -> None:
        """Makes a module compute with a rounded copy of its weight; the optimizer still updates the weight itself."""
        forward, axis = module.forward, 1 if isinstance(module, nn.ConvTranspose2d) else 0

        def rounded(*arguments: Any, **keywords: Any) -> Any:
            weight = module._parameters["weight"]
            assert weight is not None
            module._parameters["weight"] = rounded_weight(weight, axis)  # type: ignore[assignment]
            try:
                return forward(*arguments, **keywords)
            finally:
                module._parameters["weight"] = weight

        module.forward = rounded
        self._weighted.append(module)

    def set_updating(self, updating: bool) -> None:
        """Sets whether the ranges are updated with new batches."""
        for activation_range in self.ranges.values():
            activation_range.updating = updating

    def remove(self) -> None:
        for handle in self._handles:
            handle.remove()
        for module in self._weighted:
            del module.forward  # the class's method becomes visible again


@HOOKS.register_module()
class FakeQuantHook(Hook):
    """Trains the student with :class:`Rounding`; BatchNorm uses its running statistics, like in the exported file."""

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
        self.rounding.set_updating(True)
        for module in unwrap(runner).student.modules():
            if isinstance(module, BATCH_NORMS):
                module.eval()

    def before_val(self, runner: Any) -> None:
        assert self.rounding is not None
        self.rounding.set_updating(False)

    def after_train(self, runner: Any) -> None:
        if self.rounding is not None:
            self.rounding.remove()

"""Defines feature names, and captures the tensors behind them while a model runs.

A feature has the value that the layer returned. If a later layer changes the tensor in place
(``ReLU(inplace=True)``, ``+=``), a copy is kept, see :class:`FeatureCapture`.

The syntax, where layers are named as in ``model.named_modules()``:

====================== ==========================================================
``backbone.layer4``    the output of the layer
``backbone[2]``        element 2 of the tuple or list that the layer returns
``decode_head:input``  the layer's first argument (``:input[0]``: element 0 of it)
``decode_head.cls_seg()``  the return value of a method
``decode_head@aux``    a tensor that ``forward`` stores in the attribute ``aux``, when ``forward`` returns
``decode_head.conv_seg.weight``  a parameter or buffer
====================== ==========================================================
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal

import torch
from torch import Tensor, nn

from rdistill._compat.torch import version_of
from rdistill.core.errors import UserError, did_you_mean

Kind = Literal["output", "input", "method", "attribute", "parameter"]
_GRAMMAR = re.compile(r"^(?P<path>[\w.]*)(?P<kind>\(\)|:input|@\w+)?(?:\[(?P<element>-?\d+)\])?$")


@dataclass(frozen=True)
class Feature:
    """A parsed feature name: which tensor of which layer."""

    name: str  # what the user wrote
    layer: str  # dotted path of the module; empty for the model itself
    kind: Kind
    member: str = ""  # the method, attribute or parameter
    element: int | None = None  # index into a tuple or list

    def owner(self, model: nn.Module) -> nn.Module:
        return model.get_submodule(self.layer)


def parse_feature(name: str, model: nn.Module) -> Feature:
    """Parses a feature name and checks that ``model`` has this feature.

    Raises:
        UserError: the name is malformed, or the model has no such layer, method or parameter.
    """
    match = _GRAMMAR.match(name.strip())
    if match is None:
        raise UserError(
            f"feature {name!r} is malformed; write a layer, layer[2], layer:input, layer.method(), layer@attribute"
        )
    path, mark = match["path"], match["kind"] or ""
    element = None if match["element"] is None else int(match["element"])
    modules = dict(model.named_modules())
    if mark.startswith("@"):
        return Feature(name, _require_layer(path, modules, name, model), "attribute", mark[1:], element)
    if mark == "()":
        layer, _, method = path.rpartition(".")
        owner = modules[_require_layer(layer, modules, name, model)]
        if not callable(getattr(owner, method, None)):
            methods = [m for m in dir(owner) if not m.startswith("_") and callable(getattr(owner, m))]
            raise UserError(
                f"feature {name!r}: {type(owner).__name__} has no method {method!r}{did_you_mean(method, methods)}"
            )
        return Feature(name, layer, "method", method, element)
    if mark == ":input":
        return Feature(name, _require_layer(path, modules, name, model), "input", element=element)
    if path not in modules:
        layer, _, member = path.rpartition(".")
        tensors = {**dict(model.named_parameters()), **dict(model.named_buffers())}
        if path in tensors:
            return Feature(name, layer, "parameter", member, element)
    return Feature(name, _require_layer(path, modules, name, model), "output", element=element)


def _require_layer(path: str, modules: dict[str, nn.Module], name: str, model: nn.Module) -> str:
    if path in modules:
        return path
    raise UserError(f"feature {name!r}: {type(model).__name__} has no layer {path!r}{did_you_mean(path, modules)}")


@dataclass
class _Captured:
    """What was captured for one feature in one call."""

    value: Any  # a tensor, or a tuple or list of tensors; a list is a copy
    tensor: Tensor | None  # the tensor that the name refers to, if there is one
    version: int | None  # the tensor's version when it was captured; None if PyTorch does not count versions
    copy: Tensor | None  # a copy of its value at that time, within the autograd graph
    mode: tuple[Any, ...]  # the mode in which the model ran


class FeatureCapture:
    """Captures the tensors behind feature names while it is attached to a model.

    It wraps a layer's ``forward`` instead of using a hook, because mmseg calls ``decode_head.forward(...)`` directly,
    which does not run PyTorch's forward hooks. If a layer runs several times in a step, its last call counts.
    :meth:`clear` frees all tensors.

    A tensor that a later layer changes in place is kept as a copy. The first pass in each mode (training, gradients,
    autocast) copies all tensors, and finds out which of them change by PyTorch's version counters. From the second
    pass on, only these are copied.

    Args:
        model: the model whose layers the names refer to.
        names: feature names; equal names are captured once.

    Raises:
        UserError: the model does not have some of the names; each is listed.
    """

    def __init__(self, model: nn.Module, names: Sequence[str]) -> None:
        self._model = model
        self._features: dict[str, Feature] = {}
        problems: list[str] = []
        for name in names:
            try:
                self._features[name] = parse_feature(name, model)
            except UserError as error:
                problems += error.problems
        if problems:
            raise UserError(*problems)
        self._kept: dict[str, _Captured] = {}
        self._overwritten: dict[tuple[str, tuple[Any, ...]], bool] = {}  # (name, mode) -> do later layers change it?
        self._restore: list[tuple[nn.Module, str, Any]] = []

    @property
    def names(self) -> tuple[str, ...]:
        """The captured names, each once."""
        return tuple(self._features)

    def __enter__(self) -> FeatureCapture:
        self.attach()
        return self

    def __exit__(self, *_: object) -> None:
        self.detach()
        self.clear()

    def attach(self) -> None:
        """Starts capturing; a second call does nothing."""
        if self._restore:
            return
        calls: dict[tuple[str, str], list[Feature]] = {}
        for feature in self._features.values():
            if feature.kind != "parameter":
                method = feature.member if feature.kind == "method" else "forward"
                calls.setdefault((feature.layer, method), []).append(feature)
        for (_, method), features in calls.items():
            self._wrap(features[0].owner(self._model), method, features)

    def detach(self) -> None:
        """Stops capturing and restores the model."""
        for module, method, replaced in reversed(self._restore):
            if replaced is None:  # the method was the class's own, which becomes visible again
                delattr(module, method)
            else:  # another tool, such as activation checkpointing, had set a method on the object before
                setattr(module, method, replaced)
        self._restore.clear()

    def clear(self) -> None:
        """Frees all captured tensors."""
        self._kept.clear()
        for feature in self._features.values():
            owner = feature.owner(self._model)
            if feature.kind == "attribute" and isinstance(vars(owner).get(feature.member), Tensor):
                setattr(owner, feature.member, None)

    def __getitem__(self, name: str) -> Tensor:
        """The tensor behind a name, with the value from the model's last forward pass.

        Raises:
            UserError: the layer did not run, or it did not return a single tensor.
        """
        feature = self._features[name]
        kept = self._kept.get(name)
        value = None if kept is None else kept.value
        # Read parameters, and attributes that were not captured in a `forward`: the model's own `forward` does not run
        # in training, and another module may have set the attribute.
        if kept is None and feature.kind in ("attribute", "parameter"):
            value = getattr(feature.owner(self._model), feature.member, None)
        if value is None:
            raise UserError(f"feature {name!r}: nothing was captured; the layer does not run in a forward pass")
        tensor = _single_tensor(value, feature)
        return tensor if kept is None else self._original_value(kept, name)

    def _wrap(self, module: nn.Module, method: str, features: Sequence[Feature]) -> None:
        original: Callable[..., Any] = getattr(module, method)
        inputs = [feature for feature in features if feature.kind == "input"]
        attributes = [feature for feature in features if feature.kind == "attribute"]
        outputs = [feature for feature in features if feature.kind in ("output", "method")]

        def capturing(*args: Any, **kwargs: Any) -> Any:
            if inputs:  # captured before the call, because the layer may change its input in place
                argument = args[0] if args else next(iter(kwargs.values()))
                for feature in inputs:
                    self._keep(feature, argument, module)
            result = original(*args, **kwargs)
            for feature in outputs:
                self._keep(feature, result, module)
            for feature in attributes:
                self._keep(feature, getattr(module, feature.member, None), module)
            return result

        self._restore.append((module, method, vars(module).get(method)))
        setattr(module, method, capturing)

    def _keep(self, feature: Feature, value: Any, module: nn.Module) -> None:
        value = list(value) if isinstance(value, list) else value
        tensor = value
        if feature.element is not None and isinstance(value, (list, tuple)):
            inside = -len(value) <= feature.element < len(value)
            tensor = value[feature.element] if inside else None
        if not isinstance(tensor, Tensor):
            self._kept[feature.name] = _Captured(value, None, None, None, ())
            return
        mode: tuple[Any, ...] = ("compiled",)
        version = None
        if not torch.compiler.is_compiling():
            device = tensor.device.type
            has_autocast = torch.amp.is_autocast_available(device)  # the next call raises on `meta`
            autocast = has_autocast and torch.is_autocast_enabled(device) and torch.get_autocast_dtype(device)
            mode = (module.training, torch.is_grad_enabled(), autocast)
            version = None if tensor.is_inference() else version_of(tensor)
        needs_copy = version is None or self._overwritten.get((feature.name, mode), True)
        self._kept[feature.name] = _Captured(value, tensor, version, tensor.clone() if needs_copy else None, mode)

    def _original_value(self, kept: _Captured, name: str) -> Tensor:
        """The tensor itself if nothing has changed it since the capture; otherwise its copy."""
        assert kept.tensor is not None
        if kept.version is None:
            assert kept.copy is not None
            return kept.copy
        overwritten = version_of(kept.tensor) != kept.version
        overwritten_before = self._overwritten.get((name, kept.mode))
        if overwritten and kept.copy is None:
            raise UserError(
                f"feature {name!r}: a later layer wrote into it in this step, though not in the first; "
                f"name a layer whose output is not overwritten"
            )
        self._overwritten[name, kept.mode] = overwritten or bool(overwritten_before)
        if not overwritten:
            kept.copy = None
            return kept.tensor
        return kept.copy  # type: ignore[return-value]


# Numbers of extra tokens before the patch tokens: none, a class token, class and distillation token (DeiT), registers,
# class token and registers.
EXTRA_TOKENS = (0, 1, 2, 4, 5)
MAX_PATCH = 32  # pixels: the largest patch of plain vision transformers, the only models with several extra tokens
USUAL_STRIDES = (4, 8, 14, 16, 28, 32, 64)  # pixels


def as_maps(tensor: Tensor, input_size: tuple[int, int]) -> Tensor:
    """Folds transformer tokens (N x L x C) into maps (N x C x H x W); returns other tensors unchanged.

    Extra tokens come before the patch tokens and are dropped: a class token, DeiT's distillation token, the registers
    of DINOv2 and DINOv3. If a length fits several grids, a grid that divides the image without a remainder is
    preferred, then a usual stride, then the smallest number of extra tokens, because most models have none.

    Args:
        tensor: the output of a layer.
        input_size: height and width of the images in pixels; patch tokens cover them row by row.
    """
    grid = _grid(tensor.shape[1], input_size) if tensor.ndim == 3 else None
    if grid is None:
        return tensor
    maps = tensor[:, tensor.shape[1] - grid[0] * grid[1] :]
    return maps.transpose(1, 2).reshape(len(maps), -1, *grid)


@lru_cache(maxsize=1024)  # this is called at each step
def _grid(length: int, input_size: tuple[int, int]) -> tuple[int, int] | None:
    """Height and width of the grid of the patch tokens among ``length`` tokens; None if they form no grid."""
    grids = []
    for extra in EXTRA_TOKENS:
        patches = length - extra
        for height in (side for side in range(1, patches + 1) if patches % side == 0):
            width = patches // height
            exact = input_size[0] % height == 0 and input_size[0] * width == input_size[1] * height
            usual_stride = _rounds_to(height, width, input_size, USUAL_STRIDES)
            plausible = extra < 2 or input_size[0] <= MAX_PATCH * height
            if plausible and (exact or usual_stride or _same_aspect(height, width, input_size)):
                grids.append((not exact, not usual_stride, extra, (height, width)))
    # No two grids are equal in the first three: of as many patches, two exact grids, two of usual strides, or two of
    # the same aspect are the same grid.
    return min(grids)[-1] if grids else None


def _rounds_to(height: int, width: int, input_size: tuple[int, int], strides: Sequence[int]) -> bool:
    """Whether a grid is the image's size divided by one of the strides, with both sides rounded down or both up."""
    down = ((input_size[0] // stride, input_size[1] // stride) for stride in strides)
    up = ((-(-input_size[0] // stride), -(-input_size[1] // stride)) for stride in strides)
    return (height, width) in {*down, *up}


def _same_aspect(height: int, width: int, input_size: tuple[int, int]) -> bool:
    """Whether a grid can be the image's size divided by some stride: each side is within one cell of the quotient."""
    # |input_size[1] / stride - width| < 1 for stride = input_size[0] / height, in whole numbers
    return abs(input_size[1] * height - width * input_size[0]) < input_size[0]


def _single_tensor(value: Any, feature: Feature) -> Tensor:
    if feature.element is not None:
        if not isinstance(value, (list, tuple)):
            raise UserError(f"feature {feature.name!r}: the layer gives one tensor; leave out [{feature.element}]")
        if not -len(value) <= feature.element < len(value):
            raise UserError(f"feature {feature.name!r}: the layer gives {len(value)} tensors, 0 to {len(value) - 1}")
        value = value[feature.element]
    if isinstance(value, (list, tuple)):
        raise UserError(
            f"feature {feature.name!r}: the layer gives {len(value)} tensors; choose one, such as {feature.name}[0]"
        )
    if not isinstance(value, torch.Tensor):
        raise UserError(f"feature {feature.name!r}: is a {type(value).__name__}, not a tensor")
    return value

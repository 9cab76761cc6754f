"""What a feature name means, and how its tensor is captured while a model runs.

What counts is a tensor's value when the layer gave it. A later layer may write into the same memory
(``ReLU(inplace=True)``, ``+=``): then a copy is kept, see :class:`FeatureCapture`.

The grammar, for a model whose layers are named as in ``model.named_modules()``:

====================== ==========================================================
``backbone.layer4``    what the layer returns
``backbone[2]``        element 2 of the tuple or list that the layer returns
``decode_head:input``  the layer's first argument (``:input[0]``: element 0 of it)
``decode_head.cls_seg()``  what a method returns
``decode_head@aux``    a tensor that ``forward`` keeps as the attribute ``aux``; as of its return
``decode_head.conv_seg.weight``  a parameter or buffer
====================== ==========================================================
"""

from __future__ import annotations

import math
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
    """Reads one feature name and makes sure that ``model`` has it.

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
        return Feature(name, _known(path, modules, name, model), "attribute", mark[1:], element)
    if mark == "()":
        layer, _, method = path.rpartition(".")
        owner = modules[_known(layer, modules, name, model)]
        if not callable(getattr(owner, method, None)):
            methods = [m for m in dir(owner) if not m.startswith("_") and callable(getattr(owner, m))]
            raise UserError(
                f"feature {name!r}: {type(owner).__name__} has no method {method!r}{did_you_mean(method, methods)}"
            )
        return Feature(name, layer, "method", method, element)
    if mark == ":input":
        return Feature(name, _known(path, modules, name, model), "input", element=element)
    if path not in modules:
        layer, _, member = path.rpartition(".")
        tensors = {**dict(model.named_parameters()), **dict(model.named_buffers())}
        if path in tensors:
            return Feature(name, layer, "parameter", member, element)
    return Feature(name, _known(path, modules, name, model), "output", element=element)


def _known(path: str, modules: dict[str, nn.Module], name: str, model: nn.Module) -> str:
    if path in modules:
        return path
    raise UserError(f"feature {name!r}: {type(model).__name__} has no layer {path!r}{did_you_mean(path, modules)}")


@dataclass
class _Kept:
    """What one call gave for one feature."""

    value: Any  # a tensor, or a tuple or list of them; the list itself is a copy
    tensor: Tensor | None  # the one that the name means, if there is one
    version: int | None  # that tensor's version when it was captured; None where PyTorch counts none
    copy: Tensor | None  # a copy of its value then, within the autograd graph
    mode: tuple[Any, ...]  # the mode in which the model ran


class FeatureCapture:
    """Keeps the tensors behind feature names while it is attached to a model.

    A layer's ``forward`` is wrapped rather than hooked: mmseg calls ``decode_head.forward(...)``
    directly, past PyTorch's forward hooks. When a layer runs more than once in a step, its last
    call counts. Nothing is kept after :meth:`clear`.

    A tensor that a later layer writes into is kept as a copy. Which ones are is found out in the first pass of each
    mode (training, gradients, autocast), which copies all of them and then compares PyTorch's counts of changes;
    from the second pass on only those are copied.

    Args:
        model: the model whose layers the names refer to.
        names: feature names; equal names are captured once.

    Raises:
        UserError: naming every name that the model does not have.
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
        self._kept: dict[str, _Kept] = {}
        self._written: dict[tuple[str, tuple[Any, ...]], bool] = {}  # (name, mode) -> do later layers write into it?
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
        """Starts capturing. Attaching twice is the same as attaching once."""
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
        """Stops capturing and leaves the model as it was."""
        for module, method, own in reversed(self._restore):
            if own is None:  # what is captured was the class's method: it shows again
                delattr(module, method)
            else:  # another tool, such as activation checkpointing, had replaced it already
                setattr(module, method, own)
        self._restore.clear()

    def clear(self) -> None:
        """Lets go of every captured tensor."""
        self._kept.clear()
        for feature in self._features.values():
            owner = feature.owner(self._model)
            if feature.kind == "attribute" and isinstance(vars(owner).get(feature.member), Tensor):
                setattr(owner, feature.member, None)

    def __getitem__(self, name: str) -> Tensor:
        """The tensor behind a name, with the value that the layer gave in the model's last forward pass.

        Raises:
            UserError: the layer did not run, or it gave no single tensor.
        """
        feature = self._features[name]
        kept = self._kept.get(name)
        value = None if kept is None else kept.value
        # The model's own forward does not run in training, and what another module sets is not seen in forward.
        if kept is None and feature.kind in ("attribute", "parameter"):
            value = getattr(feature.owner(self._model), feature.member, None)
        if value is None:
            raise UserError(f"feature {name!r}: nothing was captured; the layer does not run in a forward pass")
        tensor = _single_tensor(value, feature)
        return tensor if kept is None else self._as_given(kept, name)

    def _wrap(self, module: nn.Module, method: str, features: Sequence[Feature]) -> None:
        original: Callable[..., Any] = getattr(module, method)
        taken = [feature for feature in features if feature.kind == "input"]
        kept_inside = [feature for feature in features if feature.kind == "attribute"]
        returned = [feature for feature in features if feature.kind in ("output", "method")]

        def captured(*args: Any, **kwargs: Any) -> Any:
            if taken:  # taken before the call: the layer itself may write into its input
                argument = args[0] if args else next(iter(kwargs.values()))
                for feature in taken:
                    self._keep(feature, argument, module)
            result = original(*args, **kwargs)
            for feature in returned:
                self._keep(feature, result, module)
            for feature in kept_inside:
                self._keep(feature, getattr(module, feature.member, None), module)
            return result

        self._restore.append((module, method, vars(module).get(method)))
        setattr(module, method, captured)

    def _keep(self, feature: Feature, value: Any, module: nn.Module) -> None:
        value = list(value) if isinstance(value, list) else value
        tensor = value
        if feature.element is not None and isinstance(value, (list, tuple)):
            inside = -len(value) <= feature.element < len(value)
            tensor = value[feature.element] if inside else None
        if not isinstance(tensor, Tensor):
            self._kept[feature.name] = _Kept(value, None, None, None, ())
            return
        mode: tuple[Any, ...] = ("compiled",)
        version = None
        if not torch.compiler.is_compiling():
            device = tensor.device.type
            possible = torch.amp.is_autocast_available(device)  # the next call would raise on `meta`
            autocast = possible and torch.is_autocast_enabled(device) and torch.get_autocast_dtype(device)
            mode = (module.training, torch.is_grad_enabled(), autocast)
            version = None if tensor.is_inference() else version_of(tensor)
        copied = version is None or self._written.get((feature.name, mode), True)
        self._kept[feature.name] = _Kept(value, tensor, version, tensor.clone() if copied else None, mode)

    def _as_given(self, kept: _Kept, name: str) -> Tensor:
        """The tensor itself where nothing has changed it since, which is found out here; or its copy."""
        assert kept.tensor is not None
        if kept.version is None:
            assert kept.copy is not None
            return kept.copy
        written = version_of(kept.tensor) != kept.version
        written_before = self._written.get((name, kept.mode))
        if written and kept.copy is None:
            raise UserError(
                f"feature {name!r}: a later layer wrote into it in this step, though not in the first; "
                f"name a layer whose output is not overwritten"
            )
        self._written[name, kept.mode] = written or bool(written_before)
        if not written:
            kept.copy = None
            return kept.tensor
        return kept.copy  # type: ignore[return-value]


# Tokens that are no tiles: a class token, with DeiT's distillation token, registers alone, registers and class token.
PREFIXES = (0, 1, 2, 4, 5)
LARGEST_PATCH = 32  # pixels: of the plain transformers, the only ones that have several such tokens
USUAL_STRIDES = (4, 8, 14, 16, 28, 32, 64)  # pixels


def as_maps(tensor: Tensor, input_size: tuple[int, int]) -> Tensor:
    """Transformer tokens (N x L x C) folded into maps (N x C x H x W); anything else as it is.

    Tokens that are no tiles come first and are left out: a class token, DeiT's distillation token, the registers of
    DINOv2 and DINOv3. Where a length fits several grids, one that divides the image without a remainder goes before
    one that rounds, then a usual stride before any other, then the fewest such tokens: most models have none.

    Args:
        tensor: of a layer.
        input_size: height and width in pixels of the images; tokens tile them row by row.
    """
    grid = _grid(tensor.shape[1], input_size) if tensor.ndim == 3 else None
    if grid is None:
        return tensor
    maps = tensor[:, tensor.shape[1] - grid[0] * grid[1] :]
    return maps.transpose(1, 2).reshape(len(maps), -1, *grid)


@lru_cache(maxsize=1024)  # called at each step
def _grid(length: int, input_size: tuple[int, int]) -> tuple[int, int] | None:
    """Height and width of the grid that ``length`` tokens make, less those that are no tiles; None for no grid."""
    grids = []
    for prefix in PREFIXES:
        tiles = length - prefix
        for height in (side for side in range(1, tiles + 1) if tiles % side == 0):
            width = tiles // height
            exact = input_size[0] % height == 0 and input_size[0] * width == input_size[1] * height
            usual = _rounds_to(height, width, input_size, USUAL_STRIDES)
            patches = prefix < 2 or input_size[0] <= LARGEST_PATCH * height
            if patches and (exact or usual or _same_aspect(height, width, input_size)):
                distance = abs(math.log(height * input_size[1] / (width * input_size[0])))
                grids.append((not exact, not usual, prefix, distance, (height, width)))
    return min(grids)[-1] if grids else None


def _rounds_to(height: int, width: int, input_size: tuple[int, int], strides: Sequence[int]) -> bool:
    """Whether a grid is the image at one of some strides, both sides rounded down or both up."""
    down = ((input_size[0] // stride, input_size[1] // stride) for stride in strides)
    up = ((-(-input_size[0] // stride), -(-input_size[1] // stride)) for stride in strides)
    return (height, width) in {*down, *up}


def _same_aspect(height: int, width: int, input_size: tuple[int, int]) -> bool:
    """Whether a grid can be the image at some stride: each side within one cell of the exact quotient."""
    stride = input_size[0] / height
    return abs(input_size[1] / stride - width) < 1


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

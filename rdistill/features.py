"""What a feature name means, and how its tensor is captured while a model runs.

The grammar, for a model whose layers are named as in ``model.named_modules()``:

====================== ==========================================================
``backbone.layer4``    what the layer returns
``backbone[2]``        element 2 of the tuple or list that the layer returns
``decode_head:input``  the layer's first argument (``:input[0]``: element 0 of it)
``decode_head.cls_seg()``  what a method returns
``decode_head@aux``    a tensor that ``forward`` keeps as the attribute ``aux``
``decode_head.conv_seg.weight``  a parameter or buffer
====================== ==========================================================
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from rdistill.errors import UserError, did_you_mean

Kind = Literal["output", "input", "method", "attribute", "parameter"]
_GRAMMAR = re.compile(r"^(?P<path>[\w.]*)(?P<kind>\(\)|:input|@\w+)?(?:\[(?P<element>-?\d+)\])?$")


@dataclass(frozen=True)
class Feature:
    """A parsed feature name: which tensor of which layer."""

    name: str  # as the user wrote it
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


class FeatureCapture:
    """Keeps the tensors behind feature names while it is attached to a model.

    A layer's ``forward`` is wrapped rather than hooked: mmseg calls ``decode_head.forward(...)``
    directly, past PyTorch's forward hooks. When a layer runs more than once in a step, its last
    call counts. Nothing is kept after :meth:`clear`.

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
        self._kept: dict[tuple[str, str], Any] = {}
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
        wrapped: set[tuple[str, str]] = set()
        for feature in self._features.values():
            method = {"output": "forward", "input": "forward", "method": feature.member}.get(feature.kind)
            if method is not None and (feature.layer, method) not in wrapped:
                wrapped.add((feature.layer, method))
                self._wrap(feature.owner(self._model), feature.layer, method)

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
        """The tensor behind a name, as of the model's last forward pass.

        Raises:
            UserError: the layer did not run, or it gave no single tensor.
        """
        feature = self._features[name]
        owner = feature.owner(self._model)
        if feature.kind in ("attribute", "parameter"):
            value = getattr(owner, feature.member, None)
        else:
            method, side = (feature.member or "forward"), ("in" if feature.kind == "input" else "out")
            value = self._kept.get((f"{feature.layer}.{method}", side))
        if value is None:
            raise UserError(f"feature {name!r}: nothing was captured; the layer does not run in a forward pass")
        return _single_tensor(value, feature)

    def _wrap(self, module: nn.Module, layer: str, method: str) -> None:
        original: Callable[..., Any] = getattr(module, method)
        key = f"{layer}.{method}"
        takes_input = any(f.layer == layer and f.kind == "input" for f in self._features.values())

        def captured(*args: Any, **kwargs: Any) -> Any:
            result = original(*args, **kwargs)
            self._kept[key, "out"] = result
            if takes_input:
                self._kept[key, "in"] = args[0] if args else next(iter(kwargs.values()))
            return result

        self._restore.append((module, method, vars(module).get(method)))
        setattr(module, method, captured)


def as_maps(tensor: Tensor, input_size: tuple[int, int]) -> Tensor:
    """Transformer tokens (N x L x C) folded into maps (N x C x H x W); anything else as it is.

    Args:
        tensor: of a layer.
        input_size: height and width in pixels of the images; tokens tile them row by row. One token more
            than the tiles is a class token, which comes first and is left out.
    """
    if tensor.ndim != 3:
        return tensor
    for tokens in (tensor.shape[1], tensor.shape[1] - 1):
        height = round((tokens * input_size[0] / input_size[1]) ** 0.5)
        if height > 0 and tokens % height == 0 and _same_aspect(height, tokens // height, input_size):
            maps = tensor[:, tensor.shape[1] - tokens :]
            return maps.transpose(1, 2).reshape(len(maps), -1, height, tokens // height)
    return tensor


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

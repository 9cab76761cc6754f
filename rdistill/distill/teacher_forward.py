"""A teacher's forward pass made cheap, with the same logits: convolutions fused with BatchNorm, channels-last, ..."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from mmcv.cnn.bricks.wrappers import Conv2d as MmcvConv2d
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights

from rdistill._compat.torch import BatchNorm, has_pre_hooks, version_of
from rdistill.config.distill_spec import ForwardSpec
from rdistill.models.features import parse_feature
from rdistill.models.segmentor import run_heads

CLOSE = 1e-4  # logits may differ by so much from the plain forward's
_PREPARED = "_rdistill_forward"  # attribute of a model: the spec it was prepared for


@dataclass(frozen=True)
class Pair:
    """A convolution whose output goes to a BatchNorm, by their dotted names."""

    conv: str
    norm: str


def prepare_model(model: nn.Module, forward: ForwardSpec, feature_names: Collection[str], images: Tensor) -> None:
    """Changes a frozen model in place for a forward spec; the second time does nothing.

    Args:
        model: in evaluation mode, with its weights.
        feature_names: layers that these name keep their meaning: they are not fused.
        images: one batch, N x 3 x H x W: only its shape and device count.
    """
    if getattr(model, _PREPARED, None) == forward:
        return
    assert not hasattr(model, _PREPARED), "a model is prepared once"
    if forward.fuse:
        fuse(model, feature_names, images)
    if forward.channels_last:
        model.to(memory_format=torch.channels_last)
    if forward.compile:
        model.backbone.compile()
    setattr(model, _PREPARED, forward)


def fuse(model: nn.Module, feature_names: Collection[str], images: Tensor) -> list[Pair]:
    """Folds each BatchNorm into the convolution before it, where nothing else depends on either.

    Which convolution feeds which BatchNorm is seen in a forward pass rather than guessed from the order of layers.
    If logits still differ by more than 1e-4, the model is left as it was.

    Returns:
        What was fused.
    """
    generator = torch.Generator().manual_seed(0)
    probe = torch.randn((1, *images.shape[1:]), generator=generator).to(images)
    touched = {parse_feature(name, model).layer for name in feature_names}
    pairs = [pair for pair in _pairs(model, probe) if pair.conv not in touched and pair.norm not in touched]
    before = _logits(model, probe)
    undo = [_fold(model, pair) for pair in pairs]
    if pairs and not torch.allclose(before, _logits(model, probe), rtol=0, atol=CLOSE):
        for restore in undo:
            restore()
        return []
    return pairs


def computed_as(forward: ForwardSpec, device: torch.device) -> Any:
    """The autocast context of a forward spec; without one, the surrounding precision stays."""
    if forward.autocast is None:
        return nullcontext()
    return torch.autocast(device.type, dtype=getattr(torch, forward.autocast))


@torch.no_grad()
def _logits(model: nn.Module, images: Tensor) -> Tensor:
    with torch.autocast(images.device.type, enabled=False):
        return run_heads(model, model.extract_feat(images), ())  # type: ignore[operator]


def _pairs(model: nn.Module, images: Tensor) -> list[Pair]:
    """Convolutions and BatchNorms that run once each, one on the very tensor that the other gave."""
    shared = Counter(id(parameter) for _, parameter in model.named_parameters(remove_duplicate=False))
    places = Counter(id(module) for _, module in model.named_modules(remove_duplicate=False))
    # id of an output -> which convolution's, and as of which version; kept, so that no other tensor takes its id
    conv_outputs: dict[int, tuple[str, Tensor, int]] = {}
    calls: Counter[str] = Counter()
    pairs: list[Pair] = []

    def after_conv(name: str) -> Callable[..., None]:
        def hook(module: nn.Module, args: Any, output: Tensor) -> None:
            calls[name] += 1
            conv_outputs[id(output)] = name, output, version_of(output)

        return hook

    def before_norm(name: str) -> Callable[..., None]:
        def hook(module: nn.Module, args: Any) -> None:
            calls[name] += 1
            conv, _, version = conv_outputs.get(id(args[0]), ("", None, -1))
            if version_of(args[0]) == version:  # else something, such as an in-place activation, came between
                pairs.append(Pair(conv, name))

        return hook

    handles = []
    for name, module in model.named_modules():
        if places[id(module)] > 1 or any(shared[id(parameter)] > 1 for parameter in module.parameters(False)):
            pass
        elif _is_plain_conv(module):
            handles.append(module.register_forward_hook(after_conv(name)))
        elif isinstance(module, BatchNorm) and module.running_mean is not None:
            handles.append(module.register_forward_pre_hook(before_norm(name)))
    try:
        _logits(model, images)
    finally:
        for handle in handles:
            handle.remove()
    return [pair for pair in pairs if calls[pair.conv] == calls[pair.norm] == 1]


def _is_plain_conv(module: nn.Module) -> bool:
    """Not a subclass that does something else with its weights, nor one whose weights a hook computes."""
    return type(module) in (nn.Conv2d, MmcvConv2d) and not has_pre_hooks(module)


@torch.no_grad()
def _fold(model: nn.Module, pair: Pair) -> Callable[[], None]:
    """Fuses one pair; returns what undoes it."""
    conv, norm = model.get_submodule(pair.conv), model.get_submodule(pair.norm)
    assert isinstance(conv, nn.Conv2d) and isinstance(norm, BatchNorm)
    parent, _, child = pair.norm.rpartition(".")
    owner, weight, bias = model.get_submodule(parent), conv.weight, conv.bias
    conv.weight, conv.bias = fuse_conv_bn_weights(
        weight, bias, norm.running_mean, norm.running_var, norm.eps, norm.weight, norm.bias
    )
    for fused in (conv.weight, conv.bias):
        fused.requires_grad_(False)
    setattr(owner, child, nn.Identity())

    def restore() -> None:
        conv.weight, conv.bias = weight, bias
        setattr(owner, child, norm)

    return restore

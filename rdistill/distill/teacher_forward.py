"""Makes a teacher's forward pass cheaper with the same logits: fuses convolutions with BatchNorm, channels-last, ..."""

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

LOGIT_TOLERANCE = 1e-4  # largest absolute difference from the logits of the plain forward pass
_PREPARED = "_rdistill_forward"  # attribute of a model: the spec that it was prepared for


@dataclass(frozen=True)
class Pair:
    """The dotted names of a convolution and of the BatchNorm that its output goes to."""

    conv: str
    norm: str


def prepare_model(model: nn.Module, forward: ForwardSpec, feature_names: Collection[str], images: Tensor) -> None:
    """Changes a frozen model in place as a forward spec says; a second call does nothing.

    Args:
        model: a model in evaluation mode, with its weights.
        forward: which changes to make.
        feature_names: the layers of these features are not fused, so that their outputs stay the same.
        images: one batch, N x 3 x H x W; only its shape and device are used.
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

    A forward pass shows which convolution feeds which BatchNorm; the order of the layers is not relied on. If the
    logits of the fused model differ by more than :data:`LOGIT_TOLERANCE`, the model is restored.

    Returns:
        The pairs that were fused.
    """
    generator = torch.Generator().manual_seed(0)
    probe = torch.randn((1, *images.shape[1:]), generator=generator).to(images)
    protected = {parse_feature(name, model).layer for name in feature_names}
    pairs = [pair for pair in _fusable_pairs(model, probe) if not {pair.conv, pair.norm} & protected]
    before = _logits(model, probe)
    undo = [_fold(model, pair) for pair in pairs]
    if pairs and not torch.allclose(before, _logits(model, probe), rtol=0, atol=LOGIT_TOLERANCE):
        for restore in undo:
            restore()
        return []
    return pairs


def autocast_context(forward: ForwardSpec, device: torch.device) -> Any:
    """The autocast context of a forward spec; without one, the surrounding precision stays."""
    if forward.autocast is None:
        return nullcontext()
    return torch.autocast(device.type, dtype=getattr(torch, forward.autocast))


@torch.no_grad()
def _logits(model: nn.Module, images: Tensor) -> Tensor:
    with torch.autocast(images.device.type, enabled=False):
        return run_heads(model, model.extract_feat(images), ())  # type: ignore[operator]


def _fusable_pairs(model: nn.Module, images: Tensor) -> list[Pair]:
    """Pairs of a convolution and a BatchNorm that each run once, the BatchNorm on the convolution's unchanged output.

    Modules that occur at several places, or share their weights, are left out.
    """
    parameter_uses = Counter(id(parameter) for _, parameter in model.named_parameters(remove_duplicate=False))
    module_uses = Counter(id(module) for _, module in model.named_modules(remove_duplicate=False))
    # id of an output -> the convolution's name, the output and its version; the output is kept alive, so that no other
    # tensor gets the same id.
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
            if version_of(args[0]) == version:  # otherwise an in-place operation has changed it in between
                pairs.append(Pair(conv, name))

        return hook

    handles = []
    for name, module in model.named_modules():
        if module_uses[id(module)] > 1 or any(parameter_uses[id(weight)] > 1 for weight in module.parameters(False)):
            continue
        if _is_plain_conv(module):
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
    """Whether this is a convolution without a subclass or a hook that may change how its weights are used."""
    return type(module) in (nn.Conv2d, MmcvConv2d) and not has_pre_hooks(module)


@torch.no_grad()
def _fold(model: nn.Module, pair: Pair) -> Callable[[], None]:
    """Fuses one pair; returns a function that undoes it."""
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

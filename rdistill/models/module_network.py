"""Wraps any PyTorch network as an mmseg segmentor: the network runs unchanged, with what mmseg needs around it."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from mmseg.models.decode_heads.decode_head import BaseDecodeHead
from torch import Tensor, nn

from rdistill.core.errors import UserError, error_line, one_line
from rdistill.models.quiet_mmseg import MODELS


@MODELS.register_module()
class ModuleNetwork(nn.Module):
    """Wraps the network as a backbone; its features are named ``backbone.network.LAYER``.

    Args:
        build: ``package.module:function``; the function returns the network with its weights.
        arguments: keyword arguments of the function.

    Raises:
        UserError: there is no such function, it failed, or it did not return a ``torch.nn.Module``.
    """

    def __init__(self, build: str, arguments: Mapping[str, Any] | None = None) -> None:
        super().__init__()
        try:
            network = _function(build)(**(arguments or {}))
        except UserError:
            raise
        except Exception as error:  # the function is the user's code
            raise UserError(f"{build}: {error_line(error)}") from error
        if not isinstance(network, nn.Module):
            raise UserError(f"{build}: must return a torch.nn.Module, got {type(network).__name__}")
        self.network = network

    def forward(self, inputs_nchw: Tensor) -> Any:
        """The output of the network, unchanged."""
        return self.network(inputs_nchw)


@MODELS.register_module()
class ModuleHead(BaseDecodeHead):
    """A decode head without weights: takes the logits from the network's output.

    Args:
        num_classes: channels of the logits.
        logits: the key or index of the logits in the network's output; None: the output is the logits.
    """

    def __init__(self, num_classes: int, logits: str | int | None = None) -> None:
        classes = max(2, num_classes)
        super().__init__(
            in_channels=1, channels=1, num_classes=classes, out_channels=num_classes, dropout_ratio=0, init_cfg=None,
            threshold=0.3 if num_classes == 1 else None,
        )  # fmt: skip
        del self.conv_seg
        self.logits = logits

    def forward(self, outputs: Any) -> Tensor:
        """The logits, N x C x h x w.

        Raises:
            UserError: the network's output has no such logits.
        """
        logits: Any = outputs
        if self.logits is not None and isinstance(outputs, (Mapping, Sequence)):
            try:
                logits = outputs[self.logits]  # type: ignore[call-overload, index]
            except (KeyError, IndexError, TypeError):
                logits = None
        if not isinstance(logits, Tensor) or logits.ndim != 4 or logits.shape[1] != self.out_channels:
            raise UserError(
                f"the teacher's network must give logits of N x {self.out_channels} x h x w, got {_describe(outputs)}; "
                "say by `logits` which element of what it returns they are, and by `num_classes` how many channels"
            )
        return logits


@MODELS.register_module()
class FeatureHead(nn.Module):
    """The decode head of an encoder that outputs features only, and no logits."""

    gives_logits = False

    def __init__(self) -> None:
        super().__init__()
        self.num_classes = self.out_channels = 0
        self.align_corners = False

    def forward(self, features: Any) -> Tensor:
        """The last of the features."""
        last: Tensor = features[-1] if isinstance(features, (list, tuple)) else features
        return last


def _function(build: str) -> Callable[..., Any]:
    module, _, name = build.partition(":")
    try:
        function: Callable[..., Any] = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise UserError(f"build: must be 'package.module:function', got {build!r} ({one_line(error)})") from error
    return function


def _describe(outputs: Any) -> str:
    if isinstance(outputs, Tensor):
        return f"a tensor of {' x '.join(map(str, outputs.shape))}"
    if isinstance(outputs, Mapping):
        return f"a mapping with the keys {', '.join(map(str, outputs))}"
    return f"a {type(outputs).__name__}" + (f" of {len(outputs)}" if isinstance(outputs, Sequence) else "")

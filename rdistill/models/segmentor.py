"""mmseg's segmentors: building them from a config, and the outputs of their heads."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from mmengine.config import Config, ConfigDict
from torch import Tensor, nn

from rdistill.core.errors import UserError, blaming
from rdistill.models.packages import absent_behind, absent_packages
from rdistill.models.pretrained import safe_loading
from rdistill.models.quiet_mmseg import MODELS, DAHead, DDRHead, EncHead, IterativeDecodeHead, PIDHead, PointHead


def build_segmentor(model_cfg: Mapping[str, Any], *, what: str = "model", trust_checkpoint: bool = False) -> nn.Module:
    """Builds an mmseg segmentor from a config's ``model`` section.

    Args:
        model_cfg: the ``model`` section.
        what: what is built, for messages.
        trust_checkpoint: allows files of weights that some models load while they are built to run code.

    Raises:
        UserError: the section does not build, or needs packages or compiled operators that are not installed.
    """
    try:
        with warnings.catch_warnings(), blaming(what), safe_loading(trust=trust_checkpoint):
            warnings.simplefilter("ignore")  # hides mmseg's deprecation warnings
            model = MODELS.build(ConfigDict(copy.deepcopy(model_cfg)))
    except UserError as error:
        if absent := absent_packages(model_cfg) or absent_behind(error):
            raise UserError(f"{what}: {absent}") from error
        raise
    if not hasattr(model, "decode_head"):
        raise UserError(f"{what}: {type(model).__name__} is not an encoder-decoder segmentor of mmseg")
    return model


def decode_heads(model: nn.Module) -> list[str]:
    """The names of the heads with logits: the main head, then the auxiliary heads."""
    names = []
    for name in ("decode_head", "auxiliary_head"):
        head = getattr(model, name, None)
        if not getattr(head, "gives_logits", True):
            continue
        if isinstance(head, nn.ModuleList):
            # Only the stage with the result counts of a cascade; all heads count of a list of auxiliary heads.
            indices = [_result_stage(head)] if name == "decode_head" else range(len(head))
            names += [f"{name}.{index}" for index in indices]
        elif head is not None:
            names.append(name)
    return names


def gives_logits(model: nn.Module) -> bool:
    """Whether a model outputs logits. An encoder outputs features only."""
    return bool(decode_heads(model))


def logit_names(model: nn.Module, *, training: bool) -> list[str]:
    """The feature names of a model's logits; a loss ``on='logits[k]'`` uses the one with index k.

    First come the main head's logits that ``predict`` uses, then those of the auxiliary heads, then further outputs of
    the heads: the other branches of DDRNet and PIDNet, the two attentions of DANet, the earlier stages of K-Net. The
    list is empty for a model that outputs features only.

    Args:
        model: an mmseg segmentor.
        training: the mode in which it will run: some heads return several tensors in training, and one otherwise.
    """
    first, rest = [], []
    for name in decode_heads(model):
        elements = _elements(model.get_submodule(name), training)
        if elements is None:
            first.append(name)
        else:
            first.append(f"{name}[{elements[0]}]")
            rest += [f"{name}[{element}]" for element in elements[1:]]
    return first + rest


def run_heads(model: nn.Module, features: Any, names: Sequence[str]) -> Tensor:
    """Runs the main head, and the auxiliary heads whose features will be read; returns the main logits.

    Args:
        model: an mmseg segmentor.
        features: the output of its ``extract_feat``.
        names: the feature names that will be read.
    """
    head = model.decode_head
    if isinstance(head, nn.ModuleList):  # a cascade: each stage refines the one before
        result = _result_stage(head)
        logits = head[0].forward(features)
        for stage in head[1 : result + 1]:
            logits = stage.forward(features, _main_tensor(stage, logits))
        head = head[result]
    else:
        logits = head.forward(features)
    for name in decode_heads(model)[1:]:
        if any(wanted == name or wanted.startswith(tuple(name + mark for mark in ".[:@")) for wanted in names):
            model.get_submodule(name).forward(features)
    return _main_tensor(head, logits)


def logit_channels(model: nn.Module, output: str = "") -> int:
    """The channels of one of the logits, by its name from :func:`logit_names`; by default those of the main logits.

    For two classes there may be a single channel, for a sigmoid. A head with a class map has the student's classes.
    """
    name, _, element = (output or decode_heads(model)[0]).partition("[")
    head = model.get_submodule(name)
    if (class_map := getattr(head, "class_map", None)) is not None:
        return int(class_map.num_classes)
    if isinstance(head, PIDHead) and element == "2]":
        return int(head.d_cls_seg.out_channels)  # PIDNet's boundary branch
    return int(getattr(head, "out_channels", None) or head.num_classes)


def _elements(head: nn.Module, training: bool) -> tuple[int, ...] | None:
    """The indices of the logits in a head's output, first those that ``predict`` uses; None if it returns one tensor.

    A user's head that returns several tensors has the indices in an attribute ``logit_elements``.
    """
    if elements := getattr(head, "logit_elements", None):
        return tuple(elements)
    if isinstance(head, EncHead):  # its other output says which classes the image has, and is no map
        return (0,) if head.use_se_loss else None
    if isinstance(head, DAHead):
        return (0, 1, 2)
    if training and isinstance(head, DDRHead):
        return (0, 1)
    if training and isinstance(head, PIDHead):
        return (1, 0, 2)
    if training and isinstance(head, IterativeDecodeHead):
        return (head.num_stages, *range(head.num_stages))
    return None


def _main_tensor(head: nn.Module, output: Any) -> Tensor:
    """The logits that ``predict`` uses, from a head's output."""
    if isinstance(output, Tensor):
        return output
    elements = _elements(head, head.training)
    if elements is None:
        raise UserError(
            f"{type(head).__name__}: gives {len(output)} tensors; say which are logits, those that `predict` uses "
            f"first, by an attribute of the head such as `logit_elements = (0, 1)`"
        )
    return output[elements[0]]  # type: ignore[no-any-return]


def _result_stage(stages: nn.ModuleList) -> int:
    """The index of the last stage whose logits are a map; the last stage of PointRend returns logits of points."""
    last = len(stages) - 1
    return last - 1 if isinstance(stages[last], PointHead) else last


@contextmanager
def training_outputs(model: nn.Module) -> Iterator[None]:
    """Within the context, a model returns its outputs of training, which may be several tensors, without changing.

    Layers without children, such as norms and dropouts, stay in evaluation mode. At the end, the mode of each layer is
    restored.
    """
    modes = [(module, module.training) for module in model.modules()]
    for module, _ in modes:
        module.training = next(module.children(), None) is not None
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode


def num_classes(model: nn.Module, head: str = "") -> int:
    """The number of classes of a head, and so of its labels; by default of the main head.

    A single channel means two classes, whether mmseg's config has ``num_classes=2, out_channels=1`` or
    ``num_classes=1``.
    """
    return max(2, logit_channels(model, head))


def why_unscored(teacher: nn.Module, student: nn.Module) -> str:
    """The reason why a teacher cannot be scored on the student's data; empty if it can."""
    if not gives_logits(teacher):
        return "gives features alone, so it has no score"
    actual, expected = num_classes(teacher), num_classes(student)
    return "" if actual == expected else f"tells {actual} classes apart and the student {expected}, so it has no score"


def ignore_index(model: nn.Module) -> int:
    """The label that the model's own loss ignores."""
    return int(model.get_submodule(decode_heads(model)[0]).ignore_index)


@dataclass(frozen=True)
class Labels:
    """The labels of a model's ground truth."""

    num_classes: int
    ignore_index: int


def labels_of(model: nn.Module) -> Labels:
    """The results of :func:`num_classes` and :func:`ignore_index` for the main head."""
    return Labels(num_classes(model), ignore_index(model))


def input_channels(model: nn.Module) -> int:
    """The channels of a segmentor's input images: those of its first convolution, or 3 if it has none.

    A backbone whose layers are not PyTorch's has an attribute ``input_channels`` instead.
    """
    encoder = getattr(model, "backbone", None) or getattr(model, "image_encoder", None) or model
    if isinstance(channels := getattr(encoder, "input_channels", None), int):
        return channels
    first = next((layer for layer in encoder.modules() if isinstance(layer, nn.Conv2d)), None)
    return 3 if first is None else int(first.in_channels)


def blank_image(model: nn.Module, height_width: tuple[int, int]) -> Tensor:
    """An image of zeros for a segmentor, 1 x channels x height x width, on the segmentor's device."""
    device = next((parameter.device for parameter in model.parameters()), torch.device("cpu"))
    return torch.zeros(1, input_channels(model), *height_width, device=device)


def scale_inputs(model: nn.Module, scale: tuple[float, float]) -> None:
    """Makes a teacher's model resize its input images, in training and in predictions.

    Its predictions keep the size of the original image, because mmseg resizes them.

    Args:
        model: the model; changed in place.
        scale: factors for height and width.
    """
    # Change the class instead of setting a method on the object, so that it also works for a copy of the model.
    kind = type(model)
    model.__class__ = type(kind.__name__, (_ScalesInputs, kind), {})
    model.input_scale = scale  # type: ignore[assignment]


def seen_size(model: nn.Module, height_width: Sequence[int]) -> tuple[int, int]:
    """The height and width of images inside a model, which differ from the input's for a teacher with `input_size`."""
    scale: Any = getattr(model, "input_scale", (1.0, 1.0))
    height, width = (max(1, round(side * factor)) for side, factor in zip(height_width, scale, strict=True))
    return height, width


class _ScalesInputs:
    """A mixin in front of a segmentor's own class that resizes its input."""

    def extract_feat(self, inputs: Tensor) -> Any:
        size = seen_size(self, inputs.shape[-2:])  # type: ignore[arg-type]
        if size != tuple(inputs.shape[-2:]):
            inputs = nn.functional.interpolate(inputs, size, mode="bilinear", align_corners=False, antialias=True)
        return super().extract_feat(inputs)  # type: ignore[misc]


def require_numbers(samples: Sequence[Any]) -> None:
    """Makes sure that a model's predictions have no NaN: argmax would silently give the first class everywhere.

    Args:
        samples: mmseg's data samples as returned by a segmentor in ``predict`` mode.

    Raises:
        UserError: the outputs for an image have NaN; the message names the first such image.
    """
    for sample in samples:
        logits = getattr(sample, "seg_logits", None)
        if logits is not None and logits.data.isnan().any():
            share = 100 * float(logits.data.isnan().float().mean())
            raise UserError(
                f"{sample.get('img_path', 'an image')}: {share:.3g} % of the model's outputs for it are no numbers "
                f"(NaN), so there is no mask; the checkpoint's weights, or what the image holds, are broken"
            )


def swaps_channels(preprocessor: nn.Module) -> bool:
    """Whether a model's data preprocessor converts BGR to RGB or back, which it does for three channels only."""
    # The first name is that of mmengine's ImgDataPreprocessor, which OneDL's mmseg uses; the second of mmseg 1.2.2.
    names = ("_channel_conversion", "channel_conversion")
    return any(bool(getattr(preprocessor, name, False)) for name in names)


def training_size(cfg: Config) -> tuple[int, int]:
    """The height and width, in pixels, of the images that a student trains on."""
    size = (cfg.model.get("data_preprocessor") or {}).get("size") or cfg.get("crop_size")
    return (int(size[0]), int(size[1])) if size else (512, 512)

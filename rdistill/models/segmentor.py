"""mmseg's segmentors: how they are built from a config, and what their heads give."""

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
from rdistill.models.pretrained import weights_alone
from rdistill.models.quiet_mmseg import MODELS, DAHead, DDRHead, EncHead, IterativeDecodeHead, PIDHead, PointHead


def build_segmentor(model_cfg: Mapping[str, Any], *, what: str = "model", trust_checkpoint: bool = False) -> nn.Module:
    """Builds an mmseg segmentor from a config's ``model`` section.

    Some models load files of weights already when they are built: safely, or with ``trust_checkpoint`` as they are.

    Raises:
        UserError: the section does not build, or needs packages or compiled operators that are absent.
    """
    try:
        with warnings.catch_warnings(), blaming(what), weights_alone(trust=trust_checkpoint):
            warnings.simplefilter("ignore")  # mmseg's own deprecations
            model = MODELS.build(ConfigDict(copy.deepcopy(model_cfg)))
    except UserError as error:
        if absent := absent_packages(model_cfg) or absent_behind(error):
            raise UserError(f"{what}: {absent}") from error
        raise
    if not hasattr(model, "decode_head"):
        raise UserError(f"{what}: {type(model).__name__} is not an encoder-decoder segmentor of mmseg")
    return model


def decode_heads(model: nn.Module) -> list[str]:
    """Names of the layers that give the model's outputs: the main head, then the auxiliary ones."""
    names = []
    for name in ("decode_head", "auxiliary_head"):
        head = getattr(model, name, None)
        if not getattr(head, "gives_logits", True):
            continue
        if isinstance(head, nn.ModuleList):
            # The last stage of a cascade is its result; auxiliary heads all count.
            indices = [_result_stage(head)] if name == "decode_head" else range(len(head))
            names += [f"{name}.{index}" for index in indices]
        elif head is not None:
            names.append(name)
    return names


def gives_logits(model: nn.Module) -> bool:
    """Whether a model tells classes apart. An encoder alone gives features, and no class of a pixel."""
    return bool(decode_heads(model))


def logit_names(model: nn.Module, *, training: bool) -> list[str]:
    """Feature names of the outputs that a loss ``on='logits[k]'`` means, by k.

    None for a model that gives features alone. First the main head's logits that ``predict`` uses, then those of the
    auxiliary heads, then what heads give beside: DDRNet's and PIDNet's other branches, DANet's two attentions,
    K-Net's earlier stages.

    Args:
        model: an mmseg segmentor.
        training: in which mode it will run: some heads give several tensors in training, and one for a prediction.
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
    """Runs the main head, and those auxiliary heads that somebody wants; returns the main logits.

    Args:
        model: an mmseg segmentor.
        features: what its ``extract_feat`` gave.
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
    """Channels of one of the outputs, by its name of :func:`logit_names`; of the main one by default.

    Two classes may have one, with a sigmoid. A head with a class map has the student's.
    """
    name, _, element = (output or decode_heads(model)[0]).partition("[")
    head = model.get_submodule(name)
    if (class_map := getattr(head, "class_map", None)) is not None:
        return int(class_map.num_classes)
    if isinstance(head, PIDHead) and element == "2]":
        return int(head.d_cls_seg.out_channels)  # where the classes' borders are
    return int(getattr(head, "out_channels", None) or head.num_classes)


def _elements(head: nn.Module, training: bool) -> tuple[int, ...] | None:
    """Which elements of what a head gives are logits, the ones that ``predict`` uses first; None: it gives one tensor.

    A head of one's own that gives several names these by an attribute ``logit_elements``.
    """
    if elements := getattr(head, "logit_elements", None):
        return tuple(elements)
    if isinstance(head, EncHead):  # the other one says which classes the image has, and is no map
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
    """The logits that ``predict`` uses, of what a head gave."""
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
    """Index of the stage whose logits are a map: the last, but for PointRend's, which gives those of single points."""
    last = len(stages) - 1
    return last - 1 if isinstance(stages[last], PointHead) else last


@contextmanager
def training_outputs(model: nn.Module) -> Iterator[None]:
    """Lets a model give what it gives in training, which may be several tensors, but change nothing of itself.

    Its layers without children, such as norms and dropouts, run in evaluation mode; every layer's mode is put back.
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
    """How many classes a head tells apart, which labels are of; of the main head by default.

    One channel tells two apart, whether mmseg's config says ``num_classes=2, out_channels=1`` or ``num_classes=1``.
    """
    return max(2, logit_channels(model, head))


def why_unscored(teacher: nn.Module, student: nn.Module) -> str:
    """Why a teacher has no score on the student's data; empty where it can be scored."""
    if not gives_logits(teacher):
        return "gives features alone, so it has no score"
    have, wanted = num_classes(teacher), num_classes(student)
    return "" if have == wanted else f"tells {have} classes apart and the student {wanted}, so it has no score"


def ignore_index(model: nn.Module) -> int:
    """The label that counts nowhere, as the model's own loss has it."""
    return int(model.get_submodule(decode_heads(model)[0]).ignore_index)


@dataclass(frozen=True)
class Labels:
    """What a model's ground truth holds."""

    num_classes: int
    ignore_index: int


def labels_of(model: nn.Module) -> Labels:
    """As :func:`num_classes` and :func:`ignore_index`, of the main head."""
    return Labels(num_classes(model), ignore_index(model))


def input_channels(model: nn.Module) -> int:
    """Channels of the images that a segmentor takes: those of its first convolution; 3 where it has none.

    A backbone whose layers are not torch's says it by an attribute ``input_channels``.
    """
    encoder = getattr(model, "backbone", None) or getattr(model, "image_encoder", None) or model
    if isinstance(channels := getattr(encoder, "input_channels", None), int):
        return channels
    first = next((layer for layer in encoder.modules() if isinstance(layer, nn.Conv2d)), None)
    return 3 if first is None else int(first.in_channels)


def blank_image(model: nn.Module, height_width: tuple[int, int]) -> Tensor:
    """Zeros for a segmentor to run on: 1 x its channels x height x width, on its device."""
    device = next((parameter.device for parameter in model.parameters()), torch.device("cpu"))
    return torch.zeros(1, input_channels(model), *height_width, device=device)


def scale_inputs(model: nn.Module, scale: tuple[float, float]) -> None:
    """Lets a teacher's model see images larger or smaller than they are, in training and in predictions.

    What it predicts keeps the image's own size, as mmseg resizes it.

    Args:
        model: changed in place.
        scale: factors on height and width.
    """
    # A class of its own rather than another method in the object: a copy then scales what the copy is given.
    kind = type(model)
    model.__class__ = type(kind.__name__, (_ScalesInputs, kind), {})
    model.input_scale = scale  # type: ignore[assignment]


def seen_size(model: nn.Module, height_width: Sequence[int]) -> tuple[int, int]:
    """The height and width at which a model sees images: their own, but for a teacher with an ``input_size``."""
    scale: Any = getattr(model, "input_scale", (1.0, 1.0))
    height, width = (max(1, round(side * factor)) for side, factor in zip(height_width, scale, strict=True))
    return height, width


class _ScalesInputs:
    """Stands before a segmentor's own class."""

    def extract_feat(self, inputs: Tensor) -> Any:
        size = seen_size(self, inputs.shape[-2:])  # type: ignore[arg-type]
        if size != tuple(inputs.shape[-2:]):
            inputs = nn.functional.interpolate(inputs, size, mode="bilinear", align_corners=False, antialias=True)
        return super().extract_feat(inputs)  # type: ignore[misc]


def require_numbers(samples: Sequence[Any]) -> None:
    """Refuses a model's predictions that come of NaN: their masks would be of the first class throughout.

    Args:
        samples: mmseg's, as a segmentor's ``predict`` mode gives them.

    Raises:
        UserError: naming the first such image.
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
    """Whether a model's data preprocessor turns BGR into RGB or back. It does so with three channels only."""
    # mmengine's ImgDataPreprocessor, which OneDL's mmseg builds on, has the one name, mmseg 1.2.2 the other.
    names = ("_channel_conversion", "channel_conversion")
    return any(bool(getattr(preprocessor, name, False)) for name in names)


def training_size(cfg: Config) -> tuple[int, int]:
    """Height and width in pixels of the images a student trains on."""
    size = (cfg.model.get("data_preprocessor") or {}).get("size") or cfg.get("crop_size")
    return (int(size[0]), int(size[1])) if size else (512, 512)

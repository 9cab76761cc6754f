"""Adapts a model of mmseg's zoo to data: classes, channels, size, and initial weights."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from mmengine.model import revert_sync_batchnorm
from mmengine.registry import init_default_scope
from torch import nn

from rdistill.core.errors import UserError
from rdistill.init.zoo import find_model, model_section
from rdistill.models.segmentor import build_segmentor, input_channels
from rdistill.models.shapes import probe_features
from rdistill.registration.user_modules import import_user_modules
from rdistill.schemas.mappings import PlainConfig

# Images are padded to a multiple of it for scoring: no model of the zoo halves its input more than 5 times.
DIVISOR = 32
RGB = 3
MAX_SIDE = 640  # pixels
BOUNDARY_HEADS = ("STDCHead",)  # their two classes are boundary and no boundary, for any data
WEIGHTED_LOSSES = ("CrossEntropyLoss", "OhemCrossEntropy")  # losses that have `class_weight`
# Backbones that need a smaller learning rate from scratch than convolutions do.
TRANSFORMERS = ("MixVisionTransformer", "SwinTransformer", "VisionTransformer", "MSCAN", "PCPVT", "SVT", "BEiT", "MAE")


@dataclass(frozen=True)
class Task:
    """What a model must fit: the properties of the data."""

    classes: int
    size: tuple[int, int]  # height and width in training
    channels: int = RGB
    class_weight: tuple[float, ...] | None = None
    # The values of each channel, on the images' own scale; None keeps the model's, which are for RGB of 8 bits.
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    pretrained: bool = False  # load the weights that the zoo's config names; they are downloaded once


@dataclass(frozen=True)
class Fitted:
    """A ``model`` section that fits the data, and what a config around it needs."""

    name: str
    source: str  # config that the section is from
    model: PlainConfig
    imports: PlainConfig | None = None  # `custom_imports`
    pretrained_files: list[str] = field(default_factory=list)  # files of pretrained weights that the section named

    @property
    def needs_edges(self) -> bool:
        """Whether the pipeline needs ``GenerateEdge``, because a head learns the borders of the classes."""
        return any(head.get("type") == "PIDHead" for head in _heads(self.model))

    @property
    def is_transformer(self) -> bool:
        """Whether the backbone is a transformer, or needs the same learning rate as one."""
        return str(self.model["backbone"].get("type")).rpartition(".")[2] in TRANSFORMERS


def fit(name: str, task: Task, flag: str) -> Fitted:
    """Adapts a model of the zoo, and checks that it builds and accepts the images' channels.

    Args:
        name: see :func:`rdistill.init.zoo.find_model`.
        task: what the model must fit.
        flag: the option that named the model, for messages.

    Raises:
        UserError: the model does not exist, does not build here, or accepts three channels only.
    """
    model_name, config = find_model(name, flag)
    fitted = adapt(model_section(model_name, config), task, name=model_name, source=config)
    try:
        model = build(fitted)
    except UserError as error:
        if task.channels != RGB and "in_channels" in str(error):
            raise UserError(f"{flag}: {_three_channels_only(model_name, task.channels)}") from None
        raise UserError(*(f"{flag}: {problem}" for problem in error.problems)) from None
    if input_channels(model) != task.channels:
        raise UserError(f"{flag}: {_three_channels_only(model_name, task.channels)}")
    return fitted


def min_size(fitted: Fitted, size: int) -> int:
    """Returns the smallest size from ``size`` on, in steps of ``DIVISOR``, at which the model runs.

    Some models, such as LRASPP with its fixed pooling window, fail on small images.

    Raises:
        UserError: the model runs at no size up to ``MAX_SIDE``.
    """
    model, first = build(fitted).to("meta"), None
    for side in range(size, MAX_SIDE + 1, DIVISOR):
        try:
            probe_features(model, ["decode_head:input"], (side, side))
        except UserError as error:
            first = first or error
        except NotImplementedError:  # the forward pass reads values, which the meta device does not have
            return size
        else:
            return side
    raise UserError(*(f"{fitted.name}: {problem}" for problem in (first.problems if first else ("does not run",))))


def _three_channels_only(name: str, channels: int) -> str:
    return (
        f"{name} accepts only 3 channels, and these images have {channels}; choose another, such as deeplabv3plus_r18"
    )


def build(fitted: Fitted) -> nn.Module:
    """Builds the model with random weights. Raises UserError if it does not build."""
    init_default_scope("mmseg")
    import_user_modules(fitted.imports)
    plain = copy.deepcopy(fitted.model)
    _remove_pretrained(plain)
    return revert_sync_batchnorm(build_segmentor(plain, what=fitted.name))


def adapt(section: PlainConfig, task: Task, *, name: str = "model", source: str = "") -> Fitted:
    """Adapts a copy of a section of :func:`rdistill.init.zoo.model_section` to the data, without building it."""
    model = copy.deepcopy(section)
    imports = model.pop("custom_imports", None)
    for head in _heads(model):
        _fit_head(head, task)
    model["data_preprocessor"] = _preprocessor(model.get("data_preprocessor") or {}, task)
    if task.channels != RGB:
        for part in _input_backbones(model["backbone"]):
            part["in_channels"] = task.channels
        model["backbone"].pop("imagenet", None)
    elif model["backbone"].get("in_channels") not in (None, RGB):
        model["backbone"]["in_channels"] = RGB
    pretrained_files = _pretrained_files(model)
    if not task.pretrained:
        _remove_pretrained(model)
    model["train_cfg"], model["test_cfg"] = {}, {"mode": "whole"}
    return Fitted(name, source, model, imports, pretrained_files)


def _heads(model: PlainConfig) -> Iterator[PlainConfig]:
    for key in ("decode_head", "auxiliary_head"):
        section = model.get(key)
        yield from (section if isinstance(section, (list, tuple)) else [section] if section else [])


def _fit_head(node: Any, task: Task) -> None:
    """Sets the number of classes and the class weights of a head and of the heads in it."""
    if isinstance(node, (list, tuple)):
        for item in node:
            _fit_head(item, task)
    if not isinstance(node, dict) or node.get("type") in BOUNDARY_HEADS:
        return
    if "num_classes" in node:
        node["num_classes"] = task.classes
    for key, value in node.items():
        if key == "loss_decode":
            for loss in value if isinstance(value, (list, tuple)) else [value]:
                _fit_loss(loss, task)
        elif key != "loss_se_decode":  # EncNet's loss on which classes an image contains
            _fit_head(value, task)


def _fit_loss(loss: PlainConfig, task: Task) -> None:
    if loss.get("type") not in WEIGHTED_LOSSES:
        return
    loss.pop("class_weight", None)  # these weights are for the zoo's data
    if loss["type"] == "CrossEntropyLoss":
        loss["use_sigmoid"] = False  # softmax in teacher and student, so that their logits have the same meaning
    if task.class_weight is not None:
        loss["class_weight"] = list(task.class_weight)


def _preprocessor(own: PlainConfig, task: Task) -> PlainConfig:
    preprocessor: PlainConfig = {"type": "SegDataPreProcessor", "mean": own.get("mean"), "std": own.get("std")}
    preprocessor["bgr_to_rgb"] = bool(own.get("bgr_to_rgb", True))
    if task.mean is not None and task.std is not None:
        preprocessor.update(mean=list(task.mean), std=list(task.std), bgr_to_rgb=False)
    elif preprocessor["mean"] is None:
        preprocessor.update(mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375])  # ImageNet's
    test = {"size_divisor": DIVISOR}
    return {**preprocessor, "pad_val": 0, "seg_pad_val": 255, "size": tuple(task.size), "test_cfg": test}


def _input_backbones(backbone: PlainConfig) -> Iterator[PlainConfig]:
    """Yields the sections with ``in_channels``: the backbone, and the one in it (BiSeNet, ICNet, STDC)."""
    inner = backbone.get("backbone_cfg")
    if isinstance(inner, dict):
        yield inner
        if "in_channels" not in backbone:
            return
    yield backbone


def _pretrained_files(node: Any) -> list[str]:
    """Returns the files of pretrained weights that a section names."""
    files: list[str] = []
    if isinstance(node, dict):
        if isinstance(node.get("pretrained"), str):
            files.append(node["pretrained"])
        if node.get("type") == "Pretrained" and isinstance(node.get("checkpoint"), str):
            files.append(node["checkpoint"])
    for value in node.values() if isinstance(node, dict) else node if isinstance(node, (list, tuple)) else ():
        files += _pretrained_files(value)
    return files


def _remove_pretrained(node: Any) -> None:
    if isinstance(node, dict):
        if isinstance(node.get("pretrained"), str):
            del node["pretrained"]
        init = node.get("init_cfg")
        if isinstance(init, dict) and init.get("type") == "Pretrained":
            del node["init_cfg"]
    for value in list(node.values()) if isinstance(node, dict) else node if isinstance(node, (list, tuple)) else ():
        _remove_pretrained(value)


def features_of(model: nn.Module, size: tuple[int, int], *, training: bool) -> list[str]:
    """Returns the names of the backbone's outputs that are feature maps, the finest first.

    Args:
        model: the model; it is not changed.
        size: height and width in training.
        training: outputs in training mode (a student's); otherwise in evaluation mode (a teacher's).
    """
    names: Sequence[str] = [f"backbone[{index}]" for index in range(8)]
    usable: list[tuple[str, tuple[int, ...]]] = []
    for name in [*names, "backbone"]:
        try:
            shape = probe_features(model, [name], size, training=training)[name]
        except UserError:
            if name != "backbone" or usable:
                continue
            raise
        if not isinstance(shape, str) and len(shape) == 4 and min(shape[2:]) > 1:
            usable.append((name, shape))
        if name == names[-1] and usable:
            break
    return [name for name, _ in sorted(usable, key=lambda entry: -entry[1][2])]

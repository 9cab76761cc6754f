"""A model of mmseg's zoo made to fit some data: its classes, channels and size, and where its weights start."""

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

DIVISOR = (
    32  # images are padded to a multiple of it for scoring: no model of the zoo halves its input more than 5 times
)
RGB = 3
MOST_TRIED = 640  # pixels a side
BOUNDARY_HEADS = ("STDCHead",)  # their classes are boundary and none, whatever the data have
CLASSIFIED = ("CrossEntropyLoss", "OhemCrossEntropy")  # losses that take a weight for each class
# Backbones that learn little from scratch at the rate that suits convolutions.
OF_ATTENTION = ("MixVisionTransformer", "SwinTransformer", "VisionTransformer", "MSCAN", "PCPVT", "SVT", "BEiT", "MAE")


@dataclass(frozen=True)
class Task:
    """What data want of a model."""

    classes: int
    size: tuple[int, int]  # height and width that it trains on
    channels: int = RGB
    class_weight: tuple[float, ...] | None = None
    # Each channel's, in the images' own values; None keeps the model's own, which are for RGB of 8 bits.
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    pretrained: bool = False  # start from the weights that the zoo's config names, which are downloaded once


@dataclass(frozen=True)
class Fitted:
    """A ``model`` section that fits, and what a config around it needs."""

    name: str
    source: str  # where it came from
    model: PlainConfig
    imports: PlainConfig | None = None  # `custom_imports`
    start: list[str] = field(default_factory=list)  # files of first weights, taken out or kept

    @property
    def needs_edges(self) -> bool:
        """Whether it is trained on the classes' borders too: ``GenerateEdge`` in the pipeline."""
        return any(head.get("type") == "PIDHead" for head in _heads(self.model))

    @property
    def of_attention(self) -> bool:
        """Whether its backbone is a transformer, or trains like one."""
        return str(self.model["backbone"].get("type")).rpartition(".")[2] in OF_ATTENTION


def fit(name: str, task: Task, flag: str) -> Fitted:
    """The model of a name, made to fit and tried: it builds, and reads as many channels.

    Raises:
        UserError: no such model, one that does not build here, or one that reads three channels only.
    """
    found_name, config = find_model(name, flag)
    fitted = adapted(model_section(found_name, config), task, name=found_name, source=config)
    try:
        model = build(fitted)
    except UserError as error:
        if task.channels != RGB and "in_channels" in str(error):
            raise UserError(f"{flag}: {_three_only(found_name, task.channels)}") from None
        raise UserError(*(f"{flag}: {problem}" for problem in error.problems)) from None
    if input_channels(model) != task.channels:
        raise UserError(f"{flag}: {_three_only(found_name, task.channels)}")
    return fitted


def least_size(fitted: Fitted, size: int) -> int:
    """The smallest size from ``size`` on, in steps of ``DIVISOR``, at which the model runs; LRASPP pools 49 cells.

    Raises:
        UserError: it runs at none up to ``MOST_TRIED``.
    """
    model, first = build(fitted).to("meta"), None
    for side in range(size, MOST_TRIED + 1, DIVISOR):
        try:
            probe_features(model, ["decode_head:input"], (side, side))
        except UserError as error:
            first = first or error
        except NotImplementedError:  # what looks at values, which the meta device does not have
            return size
        else:
            return side
    raise UserError(*(f"{fitted.name}: {problem}" for problem in (first.problems if first else ("does not run",))))


def _three_only(name: str, channels: int) -> str:
    return (
        f"{name} reads images of 3 channels only, and these have {channels}; choose another, such as deeplabv3plus_r18"
    )


def build(fitted: Fitted) -> nn.Module:
    """The model with random weights. Raises UserError where it does not build."""
    init_default_scope("mmseg")
    import_user_modules(fitted.imports)
    plain = copy.deepcopy(fitted.model)
    _take_out_start(plain)
    return revert_sync_batchnorm(build_segmentor(plain, what=fitted.name))


def adapted(section: PlainConfig, task: Task, *, name: str = "model", source: str = "") -> Fitted:
    """As :func:`fit`, of a section of :func:`rdistill.init.zoo.model_section`, which is left as it was, and untried."""
    model = copy.deepcopy(section)
    imports = model.pop("custom_imports", None)
    for head in _heads(model):
        _fit_head(head, task)
    model["data_preprocessor"] = _preprocessor(model.get("data_preprocessor") or {}, task)
    if task.channels != RGB:
        for part in _readers(model["backbone"]):
            part["in_channels"] = task.channels
        model["backbone"].pop("imagenet", None)
    elif model["backbone"].get("in_channels") not in (None, RGB):
        model["backbone"]["in_channels"] = RGB
    start = _starts(model)
    if not task.pretrained:
        _take_out_start(model)
    model["train_cfg"], model["test_cfg"] = {}, {"mode": "whole"}
    return Fitted(name, source, model, imports, start)


def _heads(model: PlainConfig) -> Iterator[PlainConfig]:
    for key in ("decode_head", "auxiliary_head"):
        section = model.get(key)
        yield from (section if isinstance(section, (list, tuple)) else [section] if section else [])


def _fit_head(node: Any, task: Task) -> None:
    """Classes and weights of a head and the heads within it."""
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
        elif key != "loss_se_decode":  # EncNet's: which classes an image has
            _fit_head(value, task)


def _fit_loss(loss: PlainConfig, task: Task) -> None:
    if loss.get("type") not in CLASSIFIED:
        return
    loss.pop("class_weight", None)  # the weights are for the zoo's data
    if loss["type"] == "CrossEntropyLoss":
        loss["use_sigmoid"] = False  # classes exclude each other, and teacher and student have the same logits
    if task.class_weight is not None:
        loss["class_weight"] = list(task.class_weight)


def _preprocessor(own: PlainConfig, task: Task) -> PlainConfig:
    made: PlainConfig = {"type": "SegDataPreProcessor", "mean": own.get("mean"), "std": own.get("std")}
    made["bgr_to_rgb"] = bool(own.get("bgr_to_rgb", True))
    if task.mean is not None and task.std is not None:
        made.update(mean=list(task.mean), std=list(task.std), bgr_to_rgb=False)
    elif made["mean"] is None:
        made.update(mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375])  # ImageNet's
    test = {"size_divisor": DIVISOR}
    return {**made, "pad_val": 0, "seg_pad_val": 255, "size": tuple(task.size), "test_cfg": test}


def _readers(backbone: PlainConfig) -> Iterator[PlainConfig]:
    """The backbone, and the one within it (BiSeNet, ICNet, STDC) that has channels of its own."""
    inner = backbone.get("backbone_cfg")
    if isinstance(inner, dict):
        yield inner
        if "in_channels" not in backbone:
            return
    yield backbone


def _starts(node: Any) -> list[str]:
    """The files that a section starts from."""
    files: list[str] = []
    if isinstance(node, dict):
        if isinstance(node.get("pretrained"), str):
            files.append(node["pretrained"])
        if node.get("type") == "Pretrained" and isinstance(node.get("checkpoint"), str):
            files.append(node["checkpoint"])
    for value in node.values() if isinstance(node, dict) else node if isinstance(node, (list, tuple)) else ():
        files += _starts(value)
    return files


def _take_out_start(node: Any) -> None:
    if isinstance(node, dict):
        if isinstance(node.get("pretrained"), str):
            del node["pretrained"]
        init = node.get("init_cfg")
        if isinstance(init, dict) and init.get("type") == "Pretrained":
            del node["init_cfg"]
    for value in list(node.values()) if isinstance(node, dict) else node if isinstance(node, (list, tuple)) else ():
        _take_out_start(value)


def features_of(model: nn.Module, size: tuple[int, int], *, training: bool) -> list[str]:
    """Names of what the backbone gives that are maps, the finest first.

    Args:
        model: left as it was.
        size: height and width that it trains on.
        training: as a student gives it; otherwise as a teacher does.
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

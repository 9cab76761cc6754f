"""rdistill's own kinds of teachers, declared like those of users."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rdistill.registration.parameters import Parameter, Switch, Text, Whole
from rdistill.teachers.registry import Files, TeacherModel, register

IMAGENET_MEAN, IMAGENET_STD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)  # red, green and blue
WRAPPER = "rdistill.models.module_network"  # registers ModuleNetwork and ModuleHead; this folder may not import it


@register("mmseg", params={"config": Text()}, fusible=True)
def mmseg(*, config: str, files: Files) -> TeacherModel:
    """The model of an mmseg config file."""
    return files.read_teacher(config)


@register("module", params={
    "build": Text(), "num_classes": Whole(at_least=1), "rgb": Switch(), "mean": Parameter(), "std": Parameter(),
    "arguments": Parameter(),
})  # fmt: skip
def module(
    *,
    build: str,
    num_classes: int,
    logits: str | int | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    rgb: bool = True,
    arguments: Mapping[str, Any] | None = None,
) -> TeacherModel:
    """Any PyTorch network, built by a function of the user.

    It does the same as :func:`module_model`, which other kinds call. The parameters of a kind must be keyword-only.
    """
    return module_model(build, num_classes, logits=logits, mean=mean, std=std, rgb=rgb, arguments=arguments)


def module_model(
    build: str,
    num_classes: int,
    *,
    logits: str | int | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    rgb: bool = True,
    arguments: Mapping[str, Any] | None = None,
) -> TeacherModel:
    """An mmseg segmentor around a network that a function builds.

    Args:
        build: ``package.module:function``; the function returns a ``torch.nn.Module`` with its weights.
        num_classes: channels of its logits, N x C x h x w; 1 for two classes with a sigmoid.
        logits: the index or key of the logits in the network's output; None: the output is the logits.
        mean, std: mean and standard deviation of its input normalisation, three numbers each, on a scale of 0 to 255;
            None: those of ImageNet.
        rgb: whether it takes RGB images, as most PyTorch networks do; otherwise BGR.
        arguments: keyword arguments of the function.
    """
    preprocessor = dict(
        type="SegDataPreProcessor", mean=list(mean or IMAGENET_MEAN), std=list(std or IMAGENET_STD), bgr_to_rgb=rgb,
        pad_val=0, seg_pad_val=255,
    )  # fmt: skip
    model = dict(
        type="EncoderDecoder",
        data_preprocessor=preprocessor,
        backbone=dict(type="ModuleNetwork", build=build, arguments=dict(arguments or {})),
        decode_head=dict(type="ModuleHead", num_classes=num_classes, logits=logits),
        test_cfg=dict(mode="whole"),
    )
    return TeacherModel(model, (WRAPPER,))

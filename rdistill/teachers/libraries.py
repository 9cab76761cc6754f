"""Kinds of teachers that other libraries built: transformers' models so far."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rdistill.core.errors import UserError
from rdistill.registration.parameters import Choice, Parameter, Switch, Text
from rdistill.schemas.mappings import PlainConfig
from rdistill.teachers.folders import Normalisation, class_names, model_folder, normalisation_of, read_settings
from rdistill.teachers.registry import Files, TeacherModel, register

NETWORKS = "rdistill.networks"  # the folder registers what these teachers are made of; it stands above this one
# Models that give masks with a class each, of which each pixel's class follows.
OF_MASKS = (
    "MaskFormerForInstanceSegmentation", "Mask2FormerForUniversalSegmentation", "OneFormerForUniversalSegmentation",
    "EomtForUniversalSegmentation", "EomtDinov3ForUniversalSegmentation",
)  # fmt: skip
SEMANTIC = "ForSemanticSegmentation"  # how the names of those end that give logits of each pixel


@register("hf", params={
    "path": Text(), "revision": Text(), "mean": Parameter(), "std": Parameter(), "rgb": Switch(),
    "fit": Choice(values=("resize", "pad")),
})  # fmt: skip
def hf(
    *,
    path: str,
    files: Files,
    revision: str | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    rgb: bool | None = None,
    fit: str = "resize",
) -> TeacherModel:
    """A model of Hugging Face transformers: a segmentation model, or a vision encoder for its features.

    Args:
        path: a folder that ``save_pretrained`` wrote, or an id of the hub, from which it is fetched once.
        files: finds folders.
        revision: branch, tag or commit of the hub's.
        mean, std, rgb: what its images are normalised with, on a scale of 0 to 255, instead of what its image
            processor's file says.
        fit: how images get a size that the patches divide: resized, or padded with zeros at the right and below.
    """
    folder = model_folder(path, files, revision)
    settings = read_settings(folder)
    architecture = str((settings.get("architectures") or [""])[0])
    gives = "masks" if architecture in OF_MASKS else "logits" if architecture.endswith(SEMANTIC) else "features"
    classes = class_names(settings) if gives != "features" else ()
    network = dict(type="TransformersNetwork", folder=str(folder), architecture=architecture, gives=gives, fit=fit)
    return TeacherModel(
        _segmentor(network, len(classes), _normalisation(folder, mean, std, rgb)), (NETWORKS,), classes=classes
    )


def _normalisation(
    folder: Any, mean: Sequence[float] | None, std: Sequence[float] | None, rgb: bool | None
) -> Normalisation:
    """What the config says, and for the rest what the folder says.

    Raises:
        UserError: neither says it.
    """
    own = None if mean is not None and std is not None else normalisation_of(folder)
    if own is None:
        if mean is None or std is None:
            raise UserError(
                f"path: {folder} has no preprocessor_config.json, so what its images are normalised with is not "
                f"known; set mean and std, three numbers each on a scale of 0 to 255"
            )
        own = Normalisation(tuple(mean), tuple(std))
    return Normalisation(
        tuple(own.mean if mean is None else mean),
        tuple(own.std if std is None else std),
        own.rgb if rgb is None else rgb,
    )


def _segmentor(network: PlainConfig, num_classes: int, normalisation: Normalisation) -> PlainConfig:
    """The ``model`` section of a segmentor around a network; ``num_classes`` is 0 where it gives features alone."""
    for name, values in (("mean", normalisation.mean), ("std", normalisation.std)):
        if len(values) != 3 or not all(isinstance(value, (int, float)) for value in values):
            raise UserError(f"{name}: must be three numbers on a scale of 0 to 255, got {list(values)!r}")
    head = dict(type="ModuleHead", num_classes=num_classes) if num_classes else dict(type="FeatureHead")
    preprocessor = dict(
        type="SegDataPreProcessor", mean=list(normalisation.mean), std=list(normalisation.std),
        bgr_to_rgb=normalisation.rgb, pad_val=0, seg_pad_val=255,
    )  # fmt: skip
    return dict(
        type="EncoderDecoder", data_preprocessor=preprocessor, backbone=network, decode_head=head,
        test_cfg=dict(mode="whole"),
    )  # fmt: skip

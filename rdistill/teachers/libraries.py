"""Kinds of teachers from other libraries: models of transformers and timm, and ONNX files."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rdistill.core.errors import UserError, naming
from rdistill.registration.parameters import Choice, Parameter, Switch, Text, Whole
from rdistill.schemas.mappings import PlainConfig
from rdistill.teachers.folders import Normalisation, class_names, model_folder, normalisation_of, read_settings
from rdistill.teachers.onnx_files import OnnxFile, describe_file, file_digest
from rdistill.teachers.registry import Files, TeacherModel, register

NETWORKS = "rdistill.networks"  # registers the networks of these teachers; this folder may not import it
# Models that output masks, each with a class, from which the class of each pixel is computed.
MASK_MODELS = (
    "MaskFormerForInstanceSegmentation", "Mask2FormerForUniversalSegmentation", "OneFormerForUniversalSegmentation",
    "EomtForUniversalSegmentation", "EomtDinov3ForUniversalSegmentation",
)  # fmt: skip
SEMANTIC = "ForSemanticSegmentation"  # suffix of the names of models that output logits for each pixel


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
        path: a folder that ``save_pretrained`` wrote, or an id of the hub, from which it is downloaded once.
        files: finds folders.
        revision: branch, tag or commit on the hub.
        mean, std, rgb: the input normalisation on a scale of 0 to 255, if it differs from that of the model's image
            processor.
        fit: how images get sides that are multiples of the patch size: "resize", or "pad" with zeros at the right and
            at the bottom.
    """
    folder = model_folder(path, files, revision)
    settings = read_settings(folder)
    architecture = str((settings.get("architectures") or [""])[0])
    gives = "masks" if architecture in MASK_MODELS else "logits" if architecture.endswith(SEMANTIC) else "features"
    classes = class_names(settings) if gives != "features" else ()
    network = dict(type="TransformersNetwork", folder=str(folder), architecture=architecture, gives=gives, fit=fit)
    return TeacherModel(
        _segmentor(network, len(classes), _normalisation(folder, mean, std, rgb)), (NETWORKS,), classes=classes
    )


@register("timm", params={
    "path": Text(), "revision": Text(), "mean": Parameter(), "std": Parameter(), "rgb": Switch(),
    "fit": Choice(values=("resize", "pad")),
})  # fmt: skip
def timm(
    *,
    path: str,
    files: Files,
    revision: str | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    rgb: bool = True,
    fit: str = "resize",
) -> TeacherModel:
    """An image encoder of timm, for its features.

    Args:
        path: a folder that ``timm.models.save_for_hf`` wrote, or an id of the hub such as ``timm/resnet18.a1_in1k``.
        files: finds folders.
        revision: branch, tag or commit on the hub.
        mean, std, rgb: the input normalisation on a scale of 0 to 255, if it differs from that in the folder.
        fit: how images get sides that are multiples of the patch size: "resize", or "pad" with zeros at the right and
            at the bottom.
    """
    folder = model_folder(path, files, revision)
    settings = read_settings(folder)
    if not settings.get("architecture"):
        raise UserError(
            f"path: {folder / 'config.json'} names no `architecture`: it is no model of timm's; see type='hf'"
        )
    pretrained = settings.get("pretrained_cfg") or settings
    scaled = {name: [255 * value for value in pretrained.get(name) or ()] for name in ("mean", "std")}
    mean, std = mean or scaled["mean"], std or scaled["std"]
    if not mean or not std:
        raise UserError(
            f"path: {folder / 'config.json'} does not say what its images are normalised with; set mean and std, three "
            f"numbers each on a scale of 0 to 255"
        )
    network = dict(type="TimmNetwork", folder=str(folder), fit=fit)
    return TeacherModel(_segmentor(network, 0, Normalisation(tuple(mean), tuple(std), rgb)), (NETWORKS,))


@register("onnx", params={
    "path": Text(), "logits": Text(), "num_classes": Whole(at_least=0), "mean": Parameter(), "std": Parameter(),
    "rgb": Switch(),
})  # fmt: skip
def onnx(
    *,
    path: str,
    files: Files,
    logits: str | None = None,
    num_classes: int | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    rgb: bool | None = None,
) -> TeacherModel:
    """A network in an ONNX file, run by onnxruntime; a file from `rdistill export` needs no parameter but `path`.

    Args:
        path: the ONNX file.
        files: finds files.
        logits: the name of the output with the logits, N x classes x h x w; None: the only output, or "logits".
        num_classes: channels of the logits, if the file does not contain it; 0: its outputs are features only.
        mean, std, rgb: the input normalisation on a scale of 0 to 255, if it differs from that in the file's metadata.
    """
    try:
        file = files.find(path)
    except UserError as error:
        advice = "name an ONNX file on this machine; none is downloaded from a hub"
        raise UserError(*(f"path: {problem}; {advice}" for problem in error.problems)) from None
    with naming("path"):
        described = describe_file(file)
    index = _output(file, described, logits, num_classes)
    names = described.facts.get("classes") or []
    classes = 0 if index is None else num_classes or _channels(described, index, names)
    if classes is None:
        raise UserError(f"num_classes: {file} does not say how many channels its logits have; set it")
    network = dict(type="OnnxNetwork", file=str(file), digest=file_digest(file))
    model = _segmentor(network, classes, _onnx_normalisation(file, described, mean, std, rgb))
    if index is not None and len(described.outputs) > 1:
        model["decode_head"]["logits"] = index
    if not isinstance(names, list) or len(names) != max(2, classes):
        names = []
    return TeacherModel(model, (NETWORKS,), classes=tuple(map(str, names)))


def _channels(described: OnnxFile, index: int, names: Sequence[str]) -> int | None:
    """The channels of the logits, from the output's shape or the metadata of `rdistill export`; None if not known."""
    by_shape = list(described.outputs.values())[index]
    by_name = 1 if str(described.facts.get("output", "")).startswith("N x 1 x") else len(names)
    return by_shape or by_name or None


def _output(file: Any, described: OnnxFile, logits: str | None, num_classes: int | None) -> int | None:
    """The index of the output with the logits; None if the outputs are features only."""
    names = list(described.outputs)
    if num_classes == 0:
        return None
    if logits is None:
        logits = names[0] if len(names) == 1 else "logits"
    if logits not in names:
        raise UserError(f"logits: {file} has no output {logits!r}, but {', '.join(names)}; name the one that is logits")
    if logits == "mask" and described.facts.get("made_by") == "rdistill export":
        raise UserError(f"path: {file} gives a mask, of which nothing can be learnt; export it with --output logits")
    return names.index(logits)


def _onnx_normalisation(
    file: Any, described: OnnxFile, mean: Sequence[float] | None, std: Sequence[float] | None, rgb: bool | None
) -> Normalisation:
    facts = described.facts
    mean, std = (facts.get(name) if values is None else values for name, values in (("mean", mean), ("std", std)))
    if mean is None or std is None:
        raise UserError(
            f"path: {file} does not say what its images are normalised with; set mean and std, three numbers each on a "
            f"scale of 0 to 255 (0 and 1 where the network does it itself)"
        )
    order = str(facts.get("channel_order", "RGB"))
    return Normalisation(tuple(mean), tuple(std), order in ("RGB", "file reversed") if rgb is None else rgb)


def _normalisation(
    folder: Any, mean: Sequence[float] | None, std: Sequence[float] | None, rgb: bool | None
) -> Normalisation:
    """The normalisation from the config; what it does not set is read from the folder.

    Raises:
        UserError: neither of them contains it.
    """
    from_folder = None if mean is not None and std is not None else normalisation_of(folder)
    if from_folder is None:
        if mean is None or std is None:
            raise UserError(
                f"path: {folder} has no preprocessor_config.json, so what its images are normalised with is not "
                f"known; set mean and std, three numbers each on a scale of 0 to 255"
            )
        from_folder = Normalisation(tuple(mean), tuple(std))
    return Normalisation(
        tuple(from_folder.mean if mean is None else mean),
        tuple(from_folder.std if std is None else std),
        from_folder.rgb if rgb is None else rgb,
    )


def _segmentor(network: PlainConfig, num_classes: int, normalisation: Normalisation) -> PlainConfig:
    """The ``model`` section of a segmentor around a network; ``num_classes`` is 0 if it outputs features only."""
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

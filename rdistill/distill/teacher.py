"""Teachers: frozen models that output logits and features, and that no part of the training can change."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import astuple, dataclass
from pathlib import Path
from weakref import WeakKeyDictionary

import torch
from mmengine.model import ExponentialMovingAverage, revert_sync_batchnorm
from torch import Tensor, nn

from rdistill.config.distill_spec import PLAIN, ForwardSpec, StoreSpec, TeacherSpec
from rdistill.core.errors import naming
from rdistill.core.storage import is_uri
from rdistill.distill.store_files import StoreFiles, store_files
from rdistill.distill.teacher_cache import PATIENCE, TeacherCache, fingerprint
from rdistill.distill.teacher_forward import autocast_context, prepare_model
from rdistill.distill.teacher_store import TeacherStore, note_weights, weights_digest
from rdistill.losses.functional import with_logit_channels
from rdistill.models import checkpoint
from rdistill.models.class_map import map_classes
from rdistill.models.features import FeatureCapture, as_maps
from rdistill.models.segmentor import (
    build_segmentor,
    input_channels,
    logit_names,
    run_heads,
    scale_inputs,
    seen_size,
    swaps_channels,
)
from rdistill.schemas.mappings import PlainConfig
from rdistill.schemas.store import StoreAbout

CACHE_FOLDER = ".teacher_cache"
STORE_FOLDER = ".teacher_store"


@dataclass(frozen=True)
class KeptCounts:
    """Counts of what a teacher's store and cache did for the batches so far."""

    images_of_store: int = 0  # images that the store was used for
    computed: int = 0  # those of them on which the teacher had to run
    damaged: int = 0  # entries of the store that could not be read
    images_of_cache: int = 0  # images that the cache was used for
    hits: int = 0  # those of them whose outputs were in the cache
    on_disk: int = 0  # those hits that were read from the disk

    def __add__(self, more: KeptCounts) -> KeptCounts:
        return KeptCounts(*(a + b for a, b in zip(astuple(self), astuple(more), strict=True)))

    def __sub__(self, before: KeptCounts) -> KeptCounts:
        return KeptCounts(*(a - b for a, b in zip(astuple(self), astuple(before), strict=True)))


def kept_counts(store: TeacherStore | None, cache: TeacherCache | None) -> KeptCounts:
    """The counts of a store and a cache so far."""
    store_counts = (0, 0, 0) if store is None else (store.images, store.computed, store.damaged)
    cache_counts = (0, 0, 0) if cache is None else (cache.images, cache.hits, cache.on_disk)
    return KeptCounts(*store_counts, *cache_counts)


class Teacher:
    """A model in evaluation mode, without gradients.

    This class is deliberately not an ``nn.Module``. So a teacher is in no optimizer and no checkpoint, DDP does not
    wrap it, and a ``train()`` call on the Distiller does not change its dropout or BatchNorm.

    Args:
        model: an mmseg segmentor with its weights.
        feature_names: the features that it outputs; see :mod:`rdistill.models.features`.
        student_preprocessor: the data preprocessor that has normalised the images which this teacher gets.
        weight: the teacher's weight where the logits of several teachers are averaged.
        forward: how the forward pass is computed; None takes the model as it is.
        listed: names of further features that may be read from this model. Layers that they name are not fused, so
            that these features keep their values.

    Attributes:
        cache: the cache of its outputs, or None.
        store: the store of its outputs for the views of training images, or None.
    """

    def __init__(
        self,
        model: nn.Module,
        feature_names: Sequence[str],
        student_preprocessor: nn.Module,
        weight: float = 1.0,
        forward: ForwardSpec | None = None,
        listed: Sequence[str] = (),
    ) -> None:
        self.model = model.eval().requires_grad_(False)
        self.heads = logit_names(model, training=False)
        self.weight = weight
        self.forward, self.listed = forward, tuple(listed)
        self.cache: TeacherCache | None = None
        self.store: TeacherStore | None = None
        self.capture = FeatureCapture(model, feature_names)
        self._rescale = _rescaling(student_preprocessor, model)

    def __call__(self, inputs_nchw: Tensor, views: Sequence[str | None] | None = None) -> dict[str, Tensor]:
        """Computes the features of one batch.

        Args:
            inputs_nchw: images normalised by the student's preprocessor.
            views: the view of each image, in training; without it the store is not used.

        Returns:
            Feature name -> tensor.
        """
        if self.store is not None and views is not None:
            with torch.no_grad():
                return self.store(inputs_nchw, views, self.capture.names, self._run)
        return self._run(inputs_nchw)

    def kept_counts(self) -> KeptCounts:
        """What its store and its cache have done for it so far."""
        return kept_counts(self.store, self.cache)

    @torch.no_grad()
    def _run(self, inputs_nchw: Tensor) -> dict[str, Tensor]:
        """The features of a batch without the store: from the cache, or computed."""
        # Not torch.inference_mode: the losses save these tensors for the student's backward pass.
        assert not self.model.training
        if next(self.model.parameters()).device != inputs_nchw.device:
            self.model.to(inputs_nchw.device)
        if self.forward is not None:
            prepare_model(self.model, self.forward, (*self.listed, *self.capture.names), inputs_nchw)
        inputs = self._normalise(inputs_nchw)
        return self._compute(inputs) if self.cache is None else self.cache(inputs, self.capture.names, self._compute)

    def without_cache(self) -> Teacher:
        """A copy without cache and store, for measurements that must leave no trace in the training."""
        teacher = copy.copy(self)
        teacher.cache = teacher.store = None
        return teacher

    def with_features(self, feature_names: Sequence[str]) -> Teacher:
        """A copy with the same model and store that outputs the features ``feature_names``."""
        teacher = copy.copy(self)
        teacher.capture = FeatureCapture(self.model, feature_names)
        return teacher

    def _compute(self, inputs_nchw: Tensor) -> dict[str, Tensor]:
        size, forward = seen_size(self.model, inputs_nchw.shape[-2:]), self.forward or PLAIN
        if forward.channels_last:
            inputs_nchw = inputs_nchw.contiguous(memory_format=torch.channels_last)
        try:
            self.capture.attach()
            with autocast_context(forward, inputs_nchw.device):
                run_heads(self.model, self.model.extract_feat(inputs_nchw), self.capture.names)  # type: ignore[operator]
            # Contiguous, so that a loss can use a feature exactly as it would that of the plain forward pass.
            return {name: as_maps(self.capture[name].detach(), size).contiguous() for name in self.capture.names}
        finally:
            if not forward.compile:  # a compiled model contains the hooks of the capture
                self.capture.detach()
            self.capture.clear()

    def _normalise(self, inputs_nchw: Tensor) -> Tensor:
        """Converts images from the student's normalisation to that of this teacher's own preprocessor."""
        if self._rescale is None:
            return inputs_nchw
        flip, scale, shift = self._rescale
        ordered = inputs_nchw.flip(1) if flip else inputs_nchw
        return ordered * scale.to(inputs_nchw) + shift.to(inputs_nchw)


class EmaTeacher(Teacher):
    """A teacher that is the exponential moving average of the student (Tarvainen and Valpola, NeurIPS 2017).

    Args:
        student: the model to average; BatchNorm's statistics are averaged like the weights.
        feature_names: the features that it outputs; see :mod:`rdistill.models.features`.
        decay: factor on the teacher's old weights at each step, 0 to 1.
        weight: the teacher's weight where the logits of several teachers are averaged.
    """

    def __init__(self, student: nn.Module, feature_names: Sequence[str], decay: float, weight: float = 1.0) -> None:
        self.average = ExponentialMovingAverage(student, momentum=1.0 - decay, update_buffers=True)
        super().__init__(self.average.module, feature_names, student.data_preprocessor, weight)

    def follow(self, student: nn.Module) -> None:
        """Updates the average with the student's current weights; the first call copies them."""
        # Move the module alone and not `average`: mmengine reads its step counter on the host at each update, and a
        # counter on a GPU would make the host wait for the device.
        device = next(student.parameters()).device
        self.average.module.to(device)
        if any(tensor.device != device for tensor in self.average.avg_parameters.values()):
            # mmengine averages into the tensors that it saw when `average` was made. After the module has moved, these
            # are no longer the module's tensors, and the teacher would never change.
            self.average.avg_parameters = self.average.module.state_dict()
        self.average.update_parameters(student)

    def state_dict(self) -> dict[str, Tensor]:
        return self.average.state_dict()

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        self.average.load_state_dict(state)


def make_cache(model: nn.Module, spec: TeacherSpec, work_dir: Path | None, patience: int = PATIENCE) -> TeacherCache:
    """Makes the cache for a teacher's outputs that its spec describes.

    Args:
        model: the teacher's model.
        spec: the teacher's spec, with a ``cache`` section.
        work_dir: the run's work dir. If the spec names no folder, the files are kept beside the work dir; with None
            the cache is in memory only.
        patience: see :class:`rdistill.distill.teacher_cache.TeacherCache`.
    """
    assert spec.cache is not None
    settings = _output_settings(spec)
    default_folder = None if work_dir is None else work_dir.absolute().parent / CACHE_FOLDER
    folder = Path(spec.cache.dir) if spec.cache.dir else default_folder
    return TeacherCache(lambda: fingerprint(model, settings), spec.cache, folder, patience)


def make_store(model: nn.Module, spec: TeacherSpec, work_dir: Path, preprocessor: nn.Module) -> TeacherStore:
    """Makes the store for a teacher's outputs that its spec describes.

    Args:
        model: the teacher's model; :func:`note_weights` has been called for it.
        spec: the teacher's spec, with a ``store`` section.
        work_dir: the run's work dir. If the spec names no folder, the files are kept beside the work dir.
        preprocessor: the student's data preprocessor, which normalises the images.
    """
    assert spec.store is not None
    mean, std = image_statistics(preprocessor)
    images = [type(preprocessor).__name__, swaps_channels(preprocessor), mean.flatten().tolist()]
    images += [std.flatten().tolist(), getattr(preprocessor, "pad_val", None)]
    images += [getattr(preprocessor, "size_divisor", None)]
    about: StoreAbout = {
        "teacher": spec.config or " ".join(map(str, [spec.type, *spec.kind_params.values()])),
        "checkpoint": spec.checkpoint,
        "weights": weights_digest(model),
        "forward": str(spec.forward or PLAIN),
        "bits": spec.store.bits,
        "top_k": spec.store.top_k,
        "images": " ".join(map(str, images)),
        "setting": f"{_output_settings(spec)} {images}",
    }
    heads = logit_names(model, training=False)
    return TeacherStore(spec.store, about, store_places(spec.store, work_dir), heads)


def store_places(spec: StoreSpec, work_dir: Path) -> list[StoreFiles]:
    """The places where entries are looked for, the nearest first. A store at a URI has a local copy, too."""
    default_folder = work_dir.absolute().parent / STORE_FOLDER
    if spec.dir is not None and is_uri(spec.dir):
        return [store_files(spec.local or default_folder), store_files(spec.dir)]
    return [store_files(spec.dir or default_folder)]


def _output_settings(spec: TeacherSpec) -> str:
    """The parts of a spec, as text, on which a teacher's outputs depend beside its weights."""
    settings = spec.model_dump_json(include={"model", "forward", "features"})
    fitted = [value for value in (spec.class_map and spec.class_map.to, spec.input_scale) if value is not None]
    return " ".join([settings, *map(str, fitted)])


def load_teacher_model(spec: TeacherSpec, *, trust_checkpoint: bool = False) -> nn.Module:
    """Builds a teacher's model from its spec and loads its weights strictly.

    Raises:
        UserError: the model does not build, or the checkpoint belongs to another model.
    """
    assert spec.model is not None
    model_cfg: PlainConfig = copy.deepcopy(dict(spec.model))
    model_cfg["pretrained"] = None  # the checkpoint holds all weights, so nothing is downloaded
    if isinstance(model_cfg.get("backbone"), dict):
        model_cfg["backbone"].pop("init_cfg", None)
    with naming(spec.label):
        model = revert_sync_batchnorm(build_segmentor(model_cfg, what=spec.label, trust_checkpoint=trust_checkpoint))
    if spec.checkpoint is not None:  # the other kinds of teachers contain their weights
        network = getattr(model.backbone, "network", model)  # the user's own module inside the segmentor, if any
        checkpoint.load_weights(network, spec.checkpoint, trust=trust_checkpoint, what="teacher")
    if spec.store is not None:
        note_weights(model)
    fit_to_student(model, spec)
    return model


def fit_to_student(model: nn.Module, spec: TeacherSpec) -> None:
    """Applies a spec's class map and input scale to a teacher's model.

    After that the model predicts the student's classes, and resizes its input images by ``input_scale``.

    Raises:
        UserError: the classes of the model are not those that the class map names.
    """
    if spec.input_scale is not None:
        scale_inputs(model, spec.input_scale)
    if spec.class_map is None:
        return
    with naming(spec.label):
        map_classes(model, spec.class_map.to, len(spec.class_map.student), masks=spec.unmapped == "mask")


def mean_logits(outputs: Sequence[Tensor], weights: Sequence[float]) -> Tensor:
    """The weighted average of several teachers' logits (N x C x h x w), at the largest of their resolutions.

    For two classes, where some teachers have one channel and others two, the result has one channel.
    """
    channels = min(output.shape[1] for output in outputs)
    outputs = [with_logit_channels(output, channels) for output in outputs]
    size = max((output.shape[-2:] for output in outputs), key=lambda shape: shape[0] * shape[1])
    resized = (
        output if output.shape[-2:] == size else nn.functional.interpolate(output, size, mode="bilinear")
        for output in outputs
    )
    return sum(output * (weight / sum(weights)) for output, weight in zip(resized, weights, strict=True))  # type: ignore[return-value]


def _rescaling(student: nn.Module, model: nn.Module) -> tuple[bool, Tensor, Tensor] | None:
    """How to convert images from the student's normalisation to a teacher's: (swap RGB and BGR, scale, shift).

    None if both normalise in the same way.
    """
    teacher = model.data_preprocessor
    flip = input_channels(model) == 3 and swaps_channels(student) != swaps_channels(teacher)
    student_mean, student_std = image_statistics(student)
    teacher_mean, teacher_std = image_statistics(teacher)
    if flip:
        student_mean, student_std = student_mean.flip(0), student_std.flip(0)
    elif torch.allclose(student_mean, teacher_mean) and torch.allclose(student_std, teacher_std):
        return None
    return flip, student_std / teacher_std, (student_mean - teacher_mean) / teacher_std


# Preprocessor -> its statistics on the CPU, as they were when the model was built. So they can be read without waiting
# for a GPU, and compared with those of a model on the CPU.
_STATISTICS: WeakKeyDictionary[nn.Module, tuple[Tensor, Tensor]] = WeakKeyDictionary()


def image_statistics(preprocessor: nn.Module) -> tuple[Tensor, Tensor]:
    """The mean and the standard deviation by which images are normalised, on the CPU.

    Each has the shape (channels, 1, 1) or (1, 1, 1). They are 0 and 1 for a preprocessor that does not normalise.
    """
    if preprocessor not in _STATISTICS:
        mean, std = getattr(preprocessor, "mean", None), getattr(preprocessor, "std", None)
        if not isinstance(mean, Tensor) or not isinstance(std, Tensor):
            mean, std = torch.zeros(1, 1, 1), torch.ones(1, 1, 1)
        _STATISTICS[preprocessor] = (mean.detach().float().cpu(), std.detach().float().cpu())
    return _STATISTICS[preprocessor]

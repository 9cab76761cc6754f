"""Teachers: frozen models that give logits and features, kept out of everything that trains."""

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
from rdistill.core.errors import UserError
from rdistill.core.storage import is_uri
from rdistill.distill.store_files import StoreFiles, store_files
from rdistill.distill.teacher_cache import PATIENCE, TeacherCache, fingerprint
from rdistill.distill.teacher_forward import computed_as, prepare_model
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
    """What a teacher's store and cache did for the batches that it was given."""

    images_of_store: int = 0  # that the store was given
    computed: int = 0  # those of them that the teacher ran on
    damaged: int = 0  # entries of the store
    images_of_cache: int = 0  # that the cache was given
    hits: int = 0  # those of them that were known
    on_disk: int = 0  # those known from the disk

    def __add__(self, more: KeptCounts) -> KeptCounts:
        return KeptCounts(*(a + b for a, b in zip(astuple(self), astuple(more), strict=True)))

    def __sub__(self, before: KeptCounts) -> KeptCounts:
        return KeptCounts(*(a - b for a, b in zip(astuple(self), astuple(before), strict=True)))


def kept_counts(store: TeacherStore | None, cache: TeacherCache | None) -> KeptCounts:
    """What both have counted by now."""
    of_store = (0, 0, 0) if store is None else (store.images, store.computed, store.damaged)
    of_cache = (0, 0, 0) if cache is None else (cache.images, cache.hits, cache.on_disk)
    return KeptCounts(*of_store, *of_cache)


class Teacher:
    """A model in evaluation mode, without gradients.

    Deliberately no ``nn.Module``: so it is in no optimizer, in no checkpoint, outside DDP, and no
    ``train()`` of its surroundings reaches its dropout or BatchNorm.

    Args:
        model: an mmseg segmentor with its weights.
        feature_names: what it gives; see :mod:`rdistill.models.features`.
        student_preprocessor: normalised the images that it will be given.
        weight: its share where several teachers' logits are averaged.
        forward: how it is computed; None takes the model as it is.
        listed: feature names that others may want from this model: the forward is such that they mean the same.

    Attributes:
        cache: of its outputs, if it has one.
        store: of its outputs for the views of training images, if it has one.
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
        """Feature name -> tensor, for one batch as the student's preprocessor normalised it.

        ``views``: which view each image is, in training; the store is for these alone.
        """
        if self.store is not None and views is not None:
            with torch.no_grad():
                return self.store(inputs_nchw, views, self.capture.names, self._prepared)
        return self._prepared(inputs_nchw)

    def kept_counts(self) -> KeptCounts:
        """What its store and its cache did for it by now."""
        return kept_counts(self.store, self.cache)

    @torch.no_grad()
    def _prepared(self, inputs_nchw: Tensor) -> dict[str, Tensor]:
        """As a call, of a teacher that computes every image."""
        # Not torch.inference_mode: the losses save these tensors for the student's backward pass.
        assert not self.model.training
        if next(self.model.parameters()).device != inputs_nchw.device:
            self.model.to(inputs_nchw.device)
        if self.forward is not None:
            prepare_model(self.model, self.forward, (*self.listed, *self.capture.names), inputs_nchw)
        inputs = self._normalise(inputs_nchw)
        return self._compute(inputs) if self.cache is None else self.cache(inputs, self.capture.names, self._compute)

    def aside(self) -> Teacher:
        """The same teacher without its cache: it runs beside the training and leaves nothing that training may find."""
        teacher = copy.copy(self)
        teacher.cache = teacher.store = None
        return teacher

    def giving(self, feature_names: Sequence[str]) -> Teacher:
        """The same teacher, its store included, that gives these features."""
        teacher = copy.copy(self)
        teacher.capture = FeatureCapture(self.model, feature_names)
        return teacher

    def _compute(self, inputs_nchw: Tensor) -> dict[str, Tensor]:
        size, forward = seen_size(self.model, inputs_nchw.shape[-2:]), self.forward or PLAIN
        if forward.channels_last:
            inputs_nchw = inputs_nchw.contiguous(memory_format=torch.channels_last)
        try:
            self.capture.attach()
            with computed_as(forward, inputs_nchw.device):
                run_heads(self.model, self.model.extract_feat(inputs_nchw), self.capture.names)  # type: ignore[operator]
            # Contiguous: a loss may look at a feature as it would at the plain forward's.
            return {name: as_maps(self.capture[name].detach(), size).contiguous() for name in self.capture.names}
        finally:
            if not forward.compile:  # what was compiled has the capture in it
                self.capture.detach()
            self.capture.clear()

    def _normalise(self, inputs_nchw: Tensor) -> Tensor:
        """The same images as this teacher's own preprocessor would give them, where it differs from the student's."""
        if self._rescale is None:
            return inputs_nchw
        flip, scale, shift = self._rescale
        ordered = inputs_nchw.flip(1) if flip else inputs_nchw
        return ordered * scale.to(inputs_nchw) + shift.to(inputs_nchw)


class EmaTeacher(Teacher):
    """The student's own exponential moving average as its teacher (Tarvainen and Valpola, NeurIPS 2017).

    Args:
        student: followed; BatchNorm's statistics are averaged as the weights are.
        decay: share of itself that the teacher keeps at each step.
    """

    def __init__(self, student: nn.Module, feature_names: Sequence[str], decay: float, weight: float = 1.0) -> None:
        self.average = ExponentialMovingAverage(student, momentum=1.0 - decay, update_buffers=True)
        super().__init__(self.average.module, feature_names, student.data_preprocessor, weight)

    def follow(self, student: nn.Module) -> None:
        """Takes one step toward the student; the first time, becomes its copy."""
        # Not `average` itself: mmengine looks at its count of steps each time, for which a GPU would be waited for.
        device = next(student.parameters()).device
        self.average.module.to(device)
        if any(tensor.device != device for tensor in self.average.avg_parameters.values()):
            # mmengine averages into the tensors that it noted when this was made, which are not those of a module that
            # has moved since: the teacher would stay as it was.
            self.average.avg_parameters = self.average.module.state_dict()
        self.average.update_parameters(student)

    def state_dict(self) -> dict[str, Tensor]:
        return self.average.state_dict()

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        self.average.load_state_dict(state)


def cache_of(model: nn.Module, spec: TeacherSpec, work_dir: Path | None, patience: int = PATIENCE) -> TeacherCache:
    """The cache of a teacher's outputs, as its spec has it.

    Args:
        work_dir: of the run: files are kept beside it, where the spec names no folder; None keeps to memory.
        patience: see :class:`rdistill.distill.teacher_cache.TeacherCache`.
    """
    assert spec.cache is not None
    described = _described(spec)
    beside = None if work_dir is None else work_dir.absolute().parent / CACHE_FOLDER
    folder = Path(spec.cache.dir) if spec.cache.dir else beside
    return TeacherCache(lambda: fingerprint(model, described), spec.cache, folder, patience)


def store_of(model: nn.Module, spec: TeacherSpec, work_dir: Path, preprocessor: nn.Module) -> TeacherStore:
    """The store of a teacher's outputs, as its spec has it.

    Args:
        work_dir: of the run: files are kept beside it, where the spec names no folder.
        preprocessor: the student's, by which images are normalised.
    """
    assert spec.store is not None
    mean, std = image_statistics(preprocessor)
    seen = [type(preprocessor).__name__, swaps_channels(preprocessor), mean.flatten().tolist(), std.flatten().tolist()]
    seen += [getattr(preprocessor, "pad_val", None), getattr(preprocessor, "size_divisor", None)]
    about: StoreAbout = {
        "teacher": spec.config or " ".join(map(str, [spec.type, *spec.kind_params.values()])),
        "checkpoint": spec.checkpoint,
        "weights": weights_digest(model),
        "forward": str(spec.forward or PLAIN),
        "bits": spec.store.bits,
        "top_k": spec.store.top_k,
        "images": " ".join(map(str, seen)),
        "setting": f"{_described(spec)} {seen}",
    }
    heads = logit_names(model, training=False)
    return TeacherStore(spec.store, about, store_places(spec.store, work_dir), heads)


def store_places(spec: StoreSpec, work_dir: Path) -> list[StoreFiles]:
    """Where entries are looked for, the nearest first: those at a URI are also kept beside the work dir."""
    beside = work_dir.absolute().parent / STORE_FOLDER
    if spec.dir is not None and is_uri(spec.dir):
        return [store_files(spec.local or beside), store_files(spec.dir)]
    return [store_files(spec.dir or beside)]


def _described(spec: TeacherSpec) -> str:
    """What of a spec a teacher's outputs depend on, beside its weights."""
    described = spec.model_dump_json(include={"model", "forward", "features"})
    fitted = [value for value in (spec.class_map and spec.class_map.to, spec.input_scale) if value is not None]
    return " ".join([described, *map(str, fitted)])


def load_teacher_model(spec: TeacherSpec, *, trust_checkpoint: bool = False) -> nn.Module:
    """Builds a teacher's model from its spec and loads its weights strictly.

    Raises:
        UserError: it does not build, or the checkpoint is not its.
    """
    assert spec.model is not None
    model_cfg: PlainConfig = copy.deepcopy(dict(spec.model))
    model_cfg["pretrained"] = None  # its checkpoint holds everything: nothing else may be fetched
    if isinstance(model_cfg.get("backbone"), dict):
        model_cfg["backbone"].pop("init_cfg", None)
    model = revert_sync_batchnorm(build_segmentor(model_cfg, what=spec.label, trust_checkpoint=trust_checkpoint))
    if spec.checkpoint is not None:  # the others bring their weights with them
        network = getattr(model.backbone, "network", model)  # the user's own module, without what is around it
        checkpoint.load_weights(network, spec.checkpoint, trust=trust_checkpoint, what="teacher")
    if spec.store is not None:
        note_weights(model)
    fit_to_student(model, spec)
    return model


def fit_to_student(model: nn.Module, spec: TeacherSpec) -> None:
    """Lets a teacher's model give the student's classes, and see images at its own size, where its spec has those.

    Raises:
        UserError: the model does not tell those classes apart that the spec names.
    """
    if spec.input_scale is not None:
        scale_inputs(model, spec.input_scale)
    if spec.class_map is None:
        return
    try:
        map_classes(model, spec.class_map.to, len(spec.class_map.student), masks=spec.unmapped == "mask")
    except UserError as error:
        raise UserError(*(f"{spec.label}: {problem}" for problem in error.problems)) from None


def mean_logits(outputs: Sequence[Tensor], weights: Sequence[float]) -> Tensor:
    """The weighted average of several teachers' logits (N x C x h x w), at the largest of their resolutions.

    Of two classes with one channel here and two there: as one channel.
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
    """From the student's preprocessing to a teacher model's: whether to swap RGB and BGR, a scale and a shift.

    None when they agree.
    """
    teacher = model.data_preprocessor
    flip = input_channels(model) == 3 and swaps_channels(student) != swaps_channels(teacher)
    (our_mean, our_std), (their_mean, their_std) = (image_statistics(module) for module in (student, teacher))
    if flip:
        our_mean, our_std = our_mean.flip(0), our_std.flip(0)
    elif torch.allclose(our_mean, their_mean) and torch.allclose(our_std, their_std):
        return None
    return flip, our_std / their_std, (our_mean - their_mean) / their_std


# The key is the preprocessor; the statistics are as they were when a model was built: on the CPU. A model that moved to
# a GPU since need not be waited for, and its statistics can still be compared with those of a student on the CPU.
_STATISTICS: WeakKeyDictionary[nn.Module, tuple[Tensor, Tensor]] = WeakKeyDictionary()


def image_statistics(preprocessor: nn.Module) -> tuple[Tensor, Tensor]:
    """What images are normalised with, on the CPU: shape (channels, 1, 1) or (1, 1, 1) each.

    0 and 1 for a preprocessor that does not normalise.
    """
    if preprocessor not in _STATISTICS:
        mean, std = getattr(preprocessor, "mean", None), getattr(preprocessor, "std", None)
        if not isinstance(mean, Tensor) or not isinstance(std, Tensor):
            mean, std = torch.zeros(1, 1, 1), torch.ones(1, 1, 1)
        _STATISTICS[preprocessor] = (mean.detach().float().cpu(), std.detach().float().cpu())
    return _STATISTICS[preprocessor]

"""The Distiller: a student, its teachers and the losses between them, as one mmengine model."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from typing import Any, Protocol

import torch
from mmengine.config import Config
from mmengine.model import BaseModel, revert_sync_batchnorm
from torch import Tensor, nn

from rdistill.config.distill_spec import DistillSpec, TeacherSpec, UnlabeledSpec
from rdistill.config.load import LoadedConfig
from rdistill.core.errors import UserError
from rdistill.data.datasets import VIEW
from rdistill.distill.batch_labels import (
    BatchLabels,
    batch_labels,
    confident_mask,
    drop_unmapped_pixels,
    mapped_mask,
    restrict_to_classes,
    select_images,
    with_labels,
)
from rdistill.distill.gradients import lengths_at_last_shared, task_loss
from rdistill.distill.loss_weights import MeasuredLossWeight
from rdistill.distill.routes import (
    Route,
    build_terms,
    features_of,
    make_routes,
    probe_channels,
    single_or_list,
    unique_names,
)
from rdistill.distill.teacher import EmaTeacher, Teacher, load_teacher_model, mean_logits
from rdistill.distributed import collectives
from rdistill.losses.functional import with_logit_channels
from rdistill.losses.modules import Term
from rdistill.models import checkpoint
from rdistill.models.activation_checkpointing import checkpoint_activations
from rdistill.models.class_map import known_classes, masking_models
from rdistill.models.features import FeatureCapture, as_maps, parse_feature
from rdistill.models.pretrained import safe_loading
from rdistill.models.segmentor import (
    build_segmentor,
    gives_logits,
    ignore_index,
    input_channels,
    logit_names,
    num_classes,
    training_size,
)
from rdistill.models.task_accuracy import drop_skipped, without_accuracy
from rdistill.models.task_loss import allow_wholly_ignored, losses_of_first_images, zero_without_labels
from rdistill.schemas.mappings import ConfigValues

RAW_PREFIX = "raw/"  # prefix in the log of a distillation loss before it is weighted
WEIGHT_PREFIX = "weight/"  # prefix in the log of a measured weight, before its schedule's factor
LOGGED_ONLY = (RAW_PREFIX, WEIGHT_PREFIX)  # values with these prefixes are logged, but not added to the total loss
# Messages about teachers that do not fit the student: a teacher sees the student's images, and must tell the same
# classes apart if its predictions replace the labels.
CHANNELS_DIFFER = (
    "distill.teachers[{index}]: its model takes images of {teacher} channels, the student's of {student}; both are "
    "given the same images: train a teacher on them"
)
CLASSES_DIFFER = (
    "distill.labels: teachers[{index}] tells {teacher} classes apart, the student {student}; labels need the student's "
    "classes: map the teacher's to them by its `classes`"
)


class Distiller(BaseModel):
    """Trains a student under teachers; predicts with the student alone.

    Without teachers this is the plain training of the student, so the baseline runs through the same code.

    Args:
        student: an mmseg segmentor.
        teachers: see :class:`rdistill.distill.teacher.Teacher`.
        terms: name -> distillation loss, with the adapter that it may train.
        routes: name -> which tensors the term of that name compares.
        task_weight: factor on the student's own losses.
        trust_checkpoint: allows files that the student's ``init_cfg`` names to run code when they are loaded.
        labels_by: the name of each teacher's main head, if the teachers' predictions replace the labels of the masks;
            empty otherwise.
        unlabeled: how images without masks are weighted. They come last in a batch; the data stream sets how many.
        on_ignored: whether losses on logits also use the pixels that the masks ignore.

    Attributes:
        factors: name -> the schedule's factor on that term's weight in this iteration.
        measured: name -> the measured weight, for each term whose weight is given as a share.
        iteration: number of the current training iteration, from 0. None outside of training: a weight is then
            measured for the current step only and not kept.
        notes: messages about this step for the user.
        start: the weights that the student starts from; None if it starts from scratch.
        measure_accuracy: False if nothing reads the heads' ``acc_seg`` of this step; it is then not computed.
    """

    def __init__(
        self,
        student: nn.Module,
        teachers: Sequence[Teacher] = (),
        terms: Mapping[str, Term] | None = None,
        routes: Mapping[str, Route] | None = None,
        task_weight: float = 1.0,
        trust_checkpoint: bool = False,
        labels_by: Sequence[str] = (),
        *,
        unlabeled: UnlabeledSpec | None = None,
        on_ignored: bool = False,
    ) -> None:
        super().__init__(data_preprocessor=student.data_preprocessor)
        self.student = student
        allow_wholly_ignored()
        self.teachers = tuple(teachers)
        self.terms = nn.ModuleDict(dict(terms or {}))
        self.routes = dict(routes or {})
        self.task_weight = task_weight
        self.factors = dict.fromkeys(self.routes, 1.0)
        self.measured = {
            name: MeasuredLossWeight(name, route.share)
            for name, route in self.routes.items()
            if route.share is not None
        }
        self.iteration: int | None = None
        self.notes: list[str] = []
        self.trust_checkpoint = trust_checkpoint
        self.measure_accuracy = True
        self.labels_by = tuple(labels_by)
        self.unlabeled, self.on_ignored = unlabeled, on_ignored
        self.start: checkpoint.MatchingWeights | None = None
        self.capture = FeatureCapture(student, unique_names(route.student_features for route in self.routes.values()))

    def init_weights(self) -> None:
        """Initialises the student as mmseg does. Adapters keep the PyTorch initialisation from when they were built."""
        with safe_loading(trust=self.trust_checkpoint):
            self.student.init_weights()
        if self.start is not None:
            self.student.load_state_dict(self.start.weights, strict=False)

    def forward(self, inputs: Tensor, data_samples: Any = None, mode: str = "tensor") -> Any:
        """Works like an mmseg segmentor: mode 'loss' trains, 'predict' and 'tensor' are passed to the student."""
        if mode == "loss":
            return self.loss(inputs, data_samples)
        return self.student(inputs, data_samples, mode=mode)

    def loss(self, inputs_nchw: Tensor, data_samples: Any) -> dict[str, Tensor]:
        """Computes the student's own losses, and the weighted and the raw value of each distillation loss.

        Args:
            inputs_nchw: normalised images, N x C x H x W.
            data_samples: mmseg's data samples with ground truth; samples without a mask (see
                :mod:`rdistill.data.unlabeled`) come last. All images go through the student in one batch, so that
                BatchNorm computes its statistics over all of them.

        Returns:
            Loss name -> value: the student's losses by mmseg's names, ``distill.loss_NAME`` for each weighted
            distillation loss, ``raw/NAME`` for its value before the weight, and ``weight/NAME`` for a measured weight.
        """
        teacher_outputs = self._teacher_outputs(inputs_nchw, data_samples)
        labels = batch_labels(data_samples, ignore_index(self.student), on_ignored=self.on_ignored)
        losses = self._task_losses(inputs_nchw, labels, teacher_outputs)
        if not self.terms:
            return losses
        size = (inputs_nchw.shape[2], inputs_nchw.shape[3])
        raw: dict[str, Tensor] = {}
        for name, term in self.terms.items():
            route = self.routes[name]
            features = [as_maps(self.capture[feature], size) for feature in route.student_features]
            compared = self.compared_tensors(route, single_or_list(features), teacher_outputs, labels)
            raw[name] = self._raw_loss(term, *compared)
        weights = {name: route.weight for name, route in self.routes.items() if route.weight is not None}
        weights |= self._measured_weights(losses, raw)
        for name, value in raw.items():
            losses[f"distill.loss_{name}"] = value * (weights[name] * self.factors[name])
            losses[RAW_PREFIX + name] = value.detach()
            if name in self.measured:
                losses[WEIGHT_PREFIX + name] = torch.full_like(value.detach(), weights[name])
        return losses

    def _task_losses(
        self, inputs_nchw: Tensor, labels: BatchLabels, teacher_outputs: Sequence[Mapping[str, Tensor]]
    ) -> dict[str, Tensor]:
        """The losses of the student's own heads times ``task_weight``, on the images that have labels."""
        samples, label_nhw = labels.samples, labels.label_nhw[: labels.labeled]
        if self.labels_by:  # the teachers also label the images that have no mask
            label_nhw = self._labels_from_teachers(teacher_outputs, labels)
            samples = with_labels(samples, label_nhw)
        with (
            nullcontext() if self.measure_accuracy else without_accuracy(),
            losses_of_first_images(self.student, len(label_nhw), len(samples)),
        ):
            task_losses = drop_skipped(self.student.loss(inputs_nchw, samples))
        task_losses = zero_without_labels(task_losses, label_nhw, ignore_index(self.student))
        return {
            key: value if "loss" not in key else _scaled(value, self.task_weight) for key, value in task_losses.items()
        }

    def _labels_from_teachers(self, teacher_outputs: Sequence[Mapping[str, Tensor]], labels: BatchLabels) -> Tensor:
        """Labels, N x H x W, from the mean of the teachers' logits.

        On an image with a mask, the teachers' class replaces the labels and leaves ignored pixels ignored. On an image
        without a mask, it is used where the teachers are confident enough.
        """
        ignore, labeled = ignore_index(self.student), labels.labeled
        logits = [output[head] for output, head in zip(teacher_outputs, self.labels_by, strict=True)]
        mean_nchw = mean_logits(logits, [teacher.weight for teacher in self.teachers])
        seen_nhw = labels.label_nhw != ignore
        if labeled < len(labels.samples):
            seen_nhw = torch.cat([seen_nhw[:labeled], self._seen_without_masks(labels, mean_nchw)])
        align_corners = bool(getattr(self.student, "align_corners", False))
        models = [teacher.model for teacher in self.teachers]
        if (classes := known_classes(models)) is not None:  # labels of classes that no teacher knows stay
            of_known = restrict_to_classes(labels, classes, ignore)
            seen_nhw &= (of_known.label_nhw != ignore) | (labels.label_nhw == ignore)
        seen = replace(labels, seen_nhw=seen_nhw)
        mapped = self._drop_unmapped(seen, teacher_outputs, masking_models(models), self.labels_by)
        assert mapped.seen_nhw is not None
        teacher_label_nhw = predicted_classes(mean_nchw, labels.label_nhw, align_corners=align_corners)
        # The other pixels keep the mask's label, which is the ignored one on an image without a mask.
        return torch.where(mapped.seen_nhw, teacher_label_nhw, labels.label_nhw)

    def _teacher_outputs(self, inputs_nchw: Tensor, data_samples: Any) -> list[dict[str, Tensor]]:
        """The outputs of each teacher, by feature name. A store of views finds them by the view of each image."""
        if all(getattr(teacher, "store", None) is None for teacher in self.teachers):
            return [teacher(inputs_nchw) for teacher in self.teachers]
        views = [sample.metainfo.get(VIEW) for sample in data_samples]
        return [teacher(inputs_nchw, views) for teacher in self.teachers]

    def compared_tensors(
        self, route: Route, student: Any, teacher_outputs: Sequence[Mapping[str, Tensor]], labels: BatchLabels
    ) -> tuple[Any, Any, BatchLabels]:
        """The student's tensors, the teacher's tensors and the labels that a loss compares.

        They are restricted to the classes that the teachers know, and the labels to the pixels where no teacher with a
        class map predicts a class that the student does not have.
        """
        teacher = self._teacher_tensors(route, teacher_outputs)
        labels = self._drop_unmapped(labels, teacher_outputs, route.masked_by, route.teacher_features)
        if route.classes is None:
            return student, teacher, labels
        chosen = list(route.classes)
        return student[:, chosen], teacher[:, chosen], restrict_to_classes(labels, chosen, ignore_index(self.student))

    def _drop_unmapped(
        self,
        labels: BatchLabels,
        teacher_outputs: Sequence[Mapping[str, Tensor]],
        masked_by: Sequence[int],
        heads: Sequence[str],
    ) -> BatchLabels:
        """The labels without the pixels where a teacher of ``masked_by`` predicts a class that the student lacks.

        ``heads`` has the name of each teacher's head, or a single name that is used for every teacher.
        """
        for index in masked_by:
            logits_nchw = teacher_outputs[index][heads[index] if len(heads) > 1 else heads[0]]
            mapped_nhw = mapped_mask(logits_nchw, labels.label_nhw.shape[1:])
            labels = drop_unmapped_pixels(labels, mapped_nhw, ignore_index(self.student))
        return labels

    def _raw_loss(self, term: Term, student: Any, teacher: Any, labels: BatchLabels) -> Tensor:
        """The loss on images with a mask, plus ``unlabeled.weight`` times the same loss on images without a mask."""
        images, labeled = len(labels.samples), labels.labeled
        if labeled == images:
            return term(student, teacher, labels.label_nhw, labels.seen_nhw)  # type: ignore[no-any-return]
        assert self.unlabeled is not None and labels.seen_nhw is not None

        def loss_on(images_slice: slice, seen_nhw: Tensor) -> Tensor:
            sides = (select_images(value, images_slice, images) for value in (student, teacher))
            return term(*sides, labels.label_nhw[images_slice], seen_nhw)  # type: ignore[no-any-return]

        value = loss_on(slice(0, labeled), labels.seen_nhw[:labeled])
        if term.info.label:  # this loss needs labels
            return value
        seen_nhw = self._seen_without_masks(labels, teacher if term.on_logits else None)
        return value + self.unlabeled.weight * loss_on(slice(labeled, images), seen_nhw)

    def _seen_without_masks(self, labels: BatchLabels, logits_nchw: Tensor | None) -> Tensor:
        """Which pixels of the images without a mask count, as bool.

        A pixel counts if it is not padding, and if the teacher is confident enough there. ``logits_nchw`` are the
        teacher's logits of the whole batch; with None its confidence is not considered.
        """
        assert self.unlabeled is not None and labels.seen_nhw is not None
        seen_nhw, min_confidence = labels.seen_nhw[labels.labeled :], self.unlabeled.min_confidence
        if logits_nchw is None or min_confidence is None:
            return seen_nhw
        return seen_nhw & confident_mask(logits_nchw[labels.labeled :], seen_nhw.shape[1:], min_confidence)

    def _measured_weights(self, losses: Mapping[str, Any], raw: Mapping[str, Tensor]) -> dict[str, float]:
        """The weights that are given as shares; those due in this iteration are measured from this step's graph."""
        iteration = self.iteration
        due = [
            name
            for name, weight in self.measured.items()
            if (not weight.weight if iteration is None else weight.measures(iteration) and self.factors[name])
        ]
        lengths = lengths_at_last_shared(task_loss(losses), {name: raw[name] for name in due}) if due else {}
        weights = {name: weight.weight for name, weight in self.measured.items()}
        for name, (task, loss) in lengths.items():
            if iteration is None:  # a trial step before training
                weights[name] = self.measured[name].weight_of_one_batch(task, loss)
                continue
            if note := self.measured[name].add(iteration, task, loss):
                self.notes.append(note)
            weights[name] = self.measured[name].weight
        return weights

    def parse_losses(self, losses: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """Adds up the losses like mmengine, which takes every key that contains "loss"; the rest is only logged.

        Logged values are the mean over all workers. They describe the whole batch, and every worker sees the same NaN.
        """
        logged_only = {key: value for key, value in losses.items() if key.startswith(LOGGED_ONLY)}
        total, log_vars = super().parse_losses({key: value for key, value in losses.items() if key not in logged_only})
        return total, collectives.mean_of_logs({**log_vars, **logged_only})

    def effective_values(self) -> ConfigValues:
        """The values that the built model uses, by the config keys that set them."""
        values: ConfigValues = {"distill.task_weight": self.task_weight} if self.terms else {}
        if self.labels_by:
            values["distill.labels"] = "teacher"
        if self.on_ignored:
            values["distill.on_ignored"] = True
        if self.unlabeled is not None:
            values["distill.unlabeled.weight"] = self.unlabeled.weight
            values["distill.unlabeled.min_confidence"] = self.unlabeled.min_confidence
        for name, term in self.terms.items():
            key, route = f"distill.losses.{name}", self.routes[name]
            values[f"{key}.type"] = term.loss_type
            if route.share is None:
                values[f"{key}.weight"] = route.weight
            else:
                values[f"{key}.weight.share"] = route.share.value
                values.update({f"{key}.weight.share.{field}": value for field, value in route.share})
            values[f"{key}.pair"] = route.pair
            values[f"{key}.teacher"] = "mean" if route.teacher is None else route.teacher
            values.update({f"{key}.schedule.{field}": value for field, value in route.schedule})
            values.update({f"{key}.{param}": value for param, value in term.params.items()})
        return values

    def _teacher_tensors(self, route: Route, outputs: Sequence[Mapping[str, Tensor]]) -> Any:
        if route.teacher is not None:
            return single_or_list([outputs[route.teacher][feature] for feature in route.teacher_features])
        logits = [output[head] for output, head in zip(outputs, route.teacher_features, strict=True)]
        return mean_logits(logits, [teacher.weight for teacher in self.teachers])


class TeacherSource(Protocol):
    """Provides the teachers of a run: its own teachers, or teachers that several runs share."""

    def load(self, spec: TeacherSpec, trust_checkpoint: bool) -> nn.Module:
        """Returns the model of a teacher's spec, with its weights."""

    def make_teacher(
        self, model: nn.Module, spec: TeacherSpec, names: list[str], student_preprocessor: nn.Module
    ) -> Teacher:
        """Returns a teacher around that model which outputs the features ``names``."""


class OwnTeachers:
    """Builds teachers that belong to one run alone."""

    def load(self, spec: TeacherSpec, trust_checkpoint: bool) -> nn.Module:
        return load_teacher_model(spec, trust_checkpoint=trust_checkpoint)

    def make_teacher(
        self, model: nn.Module, spec: TeacherSpec, names: list[str], student_preprocessor: nn.Module
    ) -> Teacher:
        return Teacher(model, names, student_preprocessor, spec.weight, spec.forward, spec.features or ())


def build_distiller(
    config: Config | LoadedConfig, *, seed: int, trust_checkpoint: bool = False, source: TeacherSource | None = None
) -> Distiller:
    """Builds student, teachers and losses of a loaded config.

    The student is built first, and all else under a forked random state: the student's weights depend on the seed
    alone, so a baseline and a distilled student start from equal weights. ``source`` provides the teachers; None
    builds them for this run alone.

    Raises:
        UserError: a model does not build or load, a layer does not exist, or shapes do not fit.
    """
    run, source = LoadedConfig.of(config), source or OwnTeachers()
    torch.manual_seed(seed)
    student = _build_student(run.cfg, trust_checkpoint)
    if run.distill is None:
        return Distiller(student, trust_checkpoint=trust_checkpoint)
    spec = run.distill
    with torch.random.fork_rng():
        models = _teacher_models(spec, student, source, trust_checkpoint)
        _require_equal(student, models, input_channels, CHANNELS_DIFFER)
        _check_feature_names(spec, student, models)
        if labels_from_teachers := spec.labels == "teacher":
            _require_logits(models)
            _require_equal(student, models, num_classes, CLASSES_DIFFER)
        routes = make_routes(spec, student, models)
        teachers = _make_teachers(spec, student, models, routes, source)
        channels = probe_channels(student, teachers, routes, training_size(run.cfg))
        torch.manual_seed(seed)  # so the adapters' weights do not depend on which teachers were built in this process
        terms = build_terms(spec, channels, routes, student)
    labels_by = [logit_names(model, training=False)[0] for model in models] if labels_from_teachers else []
    return Distiller(
        student,
        teachers,
        terms,
        routes,
        spec.task_weight,
        trust_checkpoint,
        labels_by,
        unlabeled=spec.unlabeled,
        on_ignored=spec.on_ignored,
    )


def _build_student(cfg: Config, trust_checkpoint: bool) -> nn.Module:
    student = build_segmentor(cfg.model, trust_checkpoint=trust_checkpoint)
    if not (torch.distributed.is_initialized() and torch.cuda.is_available()):
        student = revert_sync_batchnorm(student)  # SyncBN works between GPUs only
    checkpoint_activations(student, cfg.get("activation_checkpointing") or [])
    return student


def _teacher_models(
    spec: DistillSpec, student: nn.Module, source: TeacherSource, trust_checkpoint: bool
) -> list[nn.Module]:
    """The model of each teacher, with its weights; the student itself for an EMA teacher, which copies it later."""
    return [
        student if teacher.ema_decay is not None else source.load(spec.teacher(index), trust_checkpoint)
        for index, teacher in enumerate(spec.teachers)
    ]


def _make_teachers(
    spec: DistillSpec,
    student: nn.Module,
    models: Sequence[nn.Module],
    routes: Mapping[str, Route],
    source: TeacherSource,
) -> list[Teacher]:
    """Builds each teacher with only those features that a loss compares or that the labels are made of."""
    teachers: list[Teacher] = []
    for index, model in enumerate(models):
        own = spec.teacher(index)
        labelling = logit_names(model, training=False)[:1] if spec.labels == "teacher" else ()
        names = unique_names([*(features_of(index, route) for route in routes.values()), labelling])
        if own.ema_decay is not None:
            teachers.append(EmaTeacher(student, names, own.ema_decay, own.weight))
        else:
            teachers.append(source.make_teacher(model, own, names, student.data_preprocessor))
    return teachers


def _require_equal(
    student: nn.Module, teachers: Sequence[nn.Module], count: Callable[[nn.Module], int], problem: str
) -> None:
    """Raises UserError if ``count`` of a teacher differs from the student's.

    ``problem`` is the message, with the fields ``index``, ``teacher`` and ``student``.
    """
    expected = count(student)
    counts = [count(teacher) for teacher in teachers]
    problems = [
        problem.format(index=index, teacher=number, student=expected)
        for index, number in enumerate(counts)
        if number != expected
    ]
    if problems:
        raise UserError(*problems)


def _require_logits(teachers: Sequence[nn.Module]) -> None:
    """Raises UserError for teachers without logits, from which no labels can be made."""
    if without_logits := [index for index, model in enumerate(teachers) if not gives_logits(model)]:
        raise UserError(
            f"distill.labels: teachers[{without_logits[0]}] gives features alone, and no class of a pixel; set "
            f"labels='data'"
        )


def _check_feature_names(spec: DistillSpec, student: nn.Module, teachers: Sequence[nn.Module]) -> None:
    """Raises UserError unless every listed feature exists in its model, also those that no loss uses yet."""
    listed = [("distill.features.student", spec.features.student, [student])]
    without_own_list = [
        model for teacher_spec, model in zip(spec.teachers, teachers, strict=True) if teacher_spec.features is None
    ]
    listed.append(("distill.features.teacher", spec.features.teacher, without_own_list))
    for index, (teacher_spec, model) in enumerate(zip(spec.teachers, teachers, strict=True)):
        listed.append((f"distill.teachers[{index}].features", teacher_spec.features or (), [model]))
    problems: list[str] = []
    for key, names, models in listed:
        for index, name in enumerate(names):
            for model in models:
                try:
                    parse_feature(name, model)
                except UserError as error:
                    problems += [f"{key}[{index}]: {problem}" for problem in error.problems]
    if problems:
        raise UserError(*problems)


@torch.no_grad()
def predicted_classes(logits_nchw: Tensor, like_nhw: Tensor, *, align_corners: bool) -> Tensor:
    """The predicted class of each pixel, N x H x W, with the size and dtype of ``like_nhw``.

    Args:
        logits_nchw: logits of any resolution; a single channel is the logit of a sigmoid over two classes.
        like_nhw: labels whose size and dtype the result gets.
        align_corners: passed to :func:`torch.nn.functional.interpolate`, as in mmseg's prediction.
    """
    logits_nchw = with_logit_channels(logits_nchw.float(), max(2, logits_nchw.shape[1]))
    class_maps = []
    for logits in logits_nchw:  # one image at a time: a whole batch at the labels' size would be the step's memory peak
        resized = nn.functional.interpolate(
            logits[None], like_nhw.shape[-2:], mode="bilinear", align_corners=align_corners
        )
        class_maps.append(resized.argmax(dim=1).to(like_nhw.dtype))
    return torch.cat(class_maps)


def _scaled(value: Any, factor: float) -> Any:
    """Multiplies a loss of mmseg, a tensor or a list of tensors. A factor of 1 returns the loss unchanged."""
    if factor == 1.0:
        return value
    return [item * factor for item in value] if isinstance(value, list) else value * factor

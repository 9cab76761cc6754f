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
    confident,
    mapped_enough,
    of_classes,
    rows_of,
    seen_by,
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
from rdistill.models.class_map import known_classes, masking
from rdistill.models.features import FeatureCapture, as_maps, parse_feature
from rdistill.models.pretrained import weights_alone
from rdistill.models.segmentor import (
    build_segmentor,
    gives_logits,
    ignore_index,
    input_channels,
    logit_names,
    num_classes,
    training_size,
)
from rdistill.models.task_accuracy import drop_left_out, without_accuracy
from rdistill.models.task_loss import allow_wholly_ignored, of_first_images, zero_without_labels
from rdistill.schemas.mappings import ConfigValues

RAW_PREFIX = "raw/"  # logs name a distillation loss before its weight so
WEIGHT_PREFIX = "weight/"  # and a weight that is measured, before its schedule's factor
ASIDE = (RAW_PREFIX, WEIGHT_PREFIX)  # what is logged with the losses, and not added up
# Teachers that do not fit the student: one is given the student's images, and its classes may be to be the labels.
OTHER_CHANNELS = (
    "distill.teachers[{index}]: its model takes images of {teacher} channels, the student's of {student}; both are "
    "given the same images: train a teacher on them"
)
OTHER_CLASSES = (
    "distill.labels: teachers[{index}] tells {teacher} classes apart, the student {student}; labels need a teacher of "
    "the same classes"
)


class Distiller(BaseModel):
    """Trains a student under teachers; predicts with the student alone.

    Without teachers it is the student's plain training, so that the baseline takes the same path.

    Args:
        student: an mmseg segmentor.
        teachers: see :class:`rdistill.distill.teacher.Teacher`.
        terms: name -> distillation loss, with the adapter it may train.
        routes: name -> what the term of that name compares.
        task_weight: factor on the student's own losses.
        trust_checkpoint: lets files that the student's ``init_cfg`` names run code when they are loaded.
        labels_by: each teacher's main head, where their class of each pixel takes the place of the mask's label.
        unlabeled: how images without masks count, which come last in a batch; their number is the data stream's.
        on_ignored: whether losses on logits also look at the pixels that masks ignore.

    Attributes:
        factors: name -> the schedule's factor on that term's weight at this iteration.
        measured: name -> the weight of each term that has a share instead of a number.
        iteration: of the training step that is being computed, from 0; None outside of training, where no weight is
            measured but for that step alone.
        notes: what a user should know of this step.
        start: what the student starts from, if not from scratch.
        measure_accuracy: False where nobody reads the heads' ``acc_seg`` of this step: then it is not computed.
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
        """The student's own initialisation. Adapters keep PyTorch's, drawn when they were built."""
        with weights_alone(trust=self.trust_checkpoint):
            self.student.init_weights()
        if self.start is not None:
            self.student.load_state_dict(self.start.weights, strict=False)

    def forward(self, inputs: Tensor, data_samples: Any = None, mode: str = "tensor") -> Any:
        """As mmseg's segmentors: 'loss' trains, 'predict' and 'tensor' are the student's own."""
        if mode == "loss":
            return self.loss(inputs, data_samples)
        return self.student(inputs, data_samples, mode=mode)

    def loss(self, inputs_nchw: Tensor, data_samples: Any) -> dict[str, Tensor]:
        """The student's own losses, and for each term its weighted loss and its raw value.

        Args:
            inputs_nchw: normalised images.
            data_samples: mmseg's, with ground truth; those without (see :mod:`rdistill.data.unlabeled`) come last. All
                images go through the student at once, so that a BatchNorm sees them all.
        """
        teacher_outputs = self._outputs_of_teachers(inputs_nchw, data_samples)
        labels = batch_labels(data_samples, ignore_index(self.student), on_ignored=self.on_ignored)
        samples, label_nhw = labels.samples, labels.label_nhw[: labels.labeled]
        if self.labels_by:  # which then also have those without a mask
            label_nhw = self._labels_of_teachers(teacher_outputs, labels)
            samples = with_labels(samples, label_nhw)
        with (
            nullcontext() if self.measure_accuracy else without_accuracy(),
            of_first_images(self.student, len(label_nhw), len(samples)),
        ):
            of_task = drop_left_out(self.student.loss(inputs_nchw, samples))
        of_task = zero_without_labels(of_task, label_nhw, ignore_index(self.student))
        losses = {
            key: value if "loss" not in key else _scaled(value, self.task_weight) for key, value in of_task.items()
        }
        if not self.terms:
            return losses
        size = (inputs_nchw.shape[2], inputs_nchw.shape[3])
        raw: dict[str, Tensor] = {}
        for name, term in self.terms.items():
            route = self.routes[name]
            features = [as_maps(self.capture[feature], size) for feature in route.student_features]
            raw[name] = self._raw(term, *self.compared(route, single_or_list(features), teacher_outputs, labels))
        weights = {name: route.weight for name, route in self.routes.items() if route.weight is not None}
        weights |= self._measured_weights(losses, raw)
        for name, value in raw.items():
            losses[f"distill.loss_{name}"] = value * (weights[name] * self.factors[name])
            losses[RAW_PREFIX + name] = value.detach()
            if name in self.measured:
                losses[WEIGHT_PREFIX + name] = torch.full_like(value.detach(), weights[name])
        return losses

    def _labels_of_teachers(self, teacher_outputs: Sequence[Mapping[str, Tensor]], labels: BatchLabels) -> Tensor:
        """The teachers' class where the mask has a label, and on images without masks wherever they are sure enough."""
        ignore, labeled = ignore_index(self.student), labels.labeled
        logits = [output[head] for output, head in zip(teacher_outputs, self.labels_by, strict=True)]
        mean_nchw = mean_logits(logits, [teacher.weight for teacher in self.teachers])
        seen_nhw = labels.label_nhw != ignore
        if labeled < len(labels.samples):
            seen_nhw = torch.cat([seen_nhw[:labeled], self._seen_without_masks(labels, mean_nchw)])
        align_corners = bool(getattr(self.student, "align_corners", False))
        models = [teacher.model for teacher in self.teachers]
        if (classes := known_classes(models)) is not None:  # a class that the teachers do not know stays the mask's
            of_known = of_classes(labels, classes, ignore)
            seen_nhw &= (of_known.label_nhw != ignore) | (labels.label_nhw == ignore)
        mapped = self._mapped(replace(labels, seen_nhw=seen_nhw), teacher_outputs, masking(models), self.labels_by)
        assert mapped.seen_nhw is not None
        by_teacher = classes_of(mean_nchw, labels.label_nhw, align_corners=align_corners)
        # Elsewhere the mask's: of an image without one that is the ignored label.
        return torch.where(mapped.seen_nhw, by_teacher, labels.label_nhw)

    def _outputs_of_teachers(self, inputs_nchw: Tensor, data_samples: Any) -> list[dict[str, Tensor]]:
        """Of each; where their outputs are kept, by the views that the images are."""
        if all(getattr(teacher, "store", None) is None for teacher in self.teachers):
            return [teacher(inputs_nchw) for teacher in self.teachers]
        views = [sample.metainfo.get(VIEW) for sample in data_samples]
        return [teacher(inputs_nchw, views) for teacher in self.teachers]

    def compared(
        self, route: Route, student: Any, teacher_outputs: Sequence[Mapping[str, Tensor]], labels: BatchLabels
    ) -> tuple[Any, Any, BatchLabels]:
        """The two sides of a loss and the labels it gets: of the classes, and where, teachers have something to say."""
        teacher = self._teachers_side(route, teacher_outputs)
        labels = self._mapped(labels, teacher_outputs, route.masked_by, route.teacher_features)
        if route.classes is None:
            return student, teacher, labels
        chosen = list(route.classes)
        return student[:, chosen], teacher[:, chosen], of_classes(labels, chosen, ignore_index(self.student))

    def _mapped(
        self,
        labels: BatchLabels,
        teacher_outputs: Sequence[Mapping[str, Tensor]],
        masked_by: Sequence[int],
        heads: Sequence[str],
    ) -> BatchLabels:
        """The labels without the pixels where one of some teachers sees a class that the student does not have.

        ``heads``: each teacher's, or that of the only one.
        """
        for index in masked_by:
            logits_nchw = teacher_outputs[index][heads[index] if len(heads) > 1 else heads[0]]
            mapped_nhw = mapped_enough(logits_nchw, labels.label_nhw.shape[1:])
            labels = seen_by(labels, mapped_nhw, ignore_index(self.student))
        return labels

    def _raw(self, term: Term, student: Any, teacher: Any, labels: BatchLabels) -> Tensor:
        """A loss on the images with masks, and ``unlabeled.weight`` times the same loss on those without."""
        images, labeled = len(labels.samples), labels.labeled
        if labeled == images:
            return term(student, teacher, labels.label_nhw, labels.seen_nhw)  # type: ignore[no-any-return]
        assert self.unlabeled is not None and labels.seen_nhw is not None

        def of(rows: slice, seen_nhw: Tensor) -> Tensor:
            of_rows = (rows_of(value, rows, images) for value in (student, teacher))
            return term(*of_rows, labels.label_nhw[rows], seen_nhw)  # type: ignore[no-any-return]

        value = of(slice(0, labeled), labels.seen_nhw[:labeled])
        if term.info.label:  # has nothing to say without labels
            return value
        seen_nhw = self._seen_without_masks(labels, teacher if term.on_logits else None)
        return value + self.unlabeled.weight * of(slice(labeled, images), seen_nhw)

    def _seen_without_masks(self, labels: BatchLabels, logits_nchw: Tensor | None) -> Tensor:
        """The pixels that count of the images without masks, bool: on the image, and where a teacher's logits of all
        images, if there are any, are sure enough."""
        assert self.unlabeled is not None and labels.seen_nhw is not None
        seen_nhw, least = labels.seen_nhw[labels.labeled :], self.unlabeled.min_confidence
        if logits_nchw is None or least is None:
            return seen_nhw
        return seen_nhw & confident(logits_nchw[labels.labeled :], seen_nhw.shape[1:], least)

    def _measured_weights(self, losses: Mapping[str, Any], raw: Mapping[str, Tensor]) -> dict[str, float]:
        """The weights that are measured, from this step's own graph where it is their turn."""
        iteration = self.iteration
        turns = [
            name
            for name, weight in self.measured.items()
            if (not weight.weight if iteration is None else weight.measures(iteration) and self.factors[name])
        ]
        lengths = lengths_at_last_shared(task_loss(losses), {name: raw[name] for name in turns}) if turns else {}
        weights = {name: weight.weight for name, weight in self.measured.items()}
        for name, (task, loss) in lengths.items():
            if iteration is None:  # a step that is tried, before training
                weights[name] = self.measured[name].of_one_batch(task, loss)
                continue
            if note := self.measured[name].add(iteration, task, loss):
                self.notes.append(note)
            weights[name] = self.measured[name].weight
        return weights

    def parse_losses(self, losses: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """As mmengine's, which adds up every key that contains "loss"; raw values and weights only ride along.

        What is logged is the mean over workers: the whole batch's, and all of them see the same NaN.
        """
        aside = {key: value for key, value in losses.items() if key.startswith(ASIDE)}
        total, log_vars = super().parse_losses({key: value for key, value in losses.items() if key not in aside})
        return total, collectives.mean_of_logs({**log_vars, **aside})

    def effective_values(self) -> ConfigValues:
        """What this model really uses, under the config keys that set it."""
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

    def _teachers_side(self, route: Route, outputs: Sequence[Mapping[str, Tensor]]) -> Any:
        if route.teacher is not None:
            return single_or_list([outputs[route.teacher][feature] for feature in route.teacher_features])
        logits = [output[head] for output, head in zip(outputs, route.teacher_features, strict=True)]
        return mean_logits(logits, [teacher.weight for teacher in self.teachers])


class TeacherSource(Protocol):
    """Where teachers come from: a run's own, or one for several runs."""

    def load(self, spec: TeacherSpec, trust_checkpoint: bool) -> nn.Module:
        """The model of a spec, with its weights."""

    def make_teacher(
        self, model: nn.Module, spec: TeacherSpec, names: list[str], student_preprocessor: nn.Module
    ) -> Teacher:
        """The teacher with that model, which gives these features."""


class OwnTeachers:
    """A run's own teachers."""

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

    The student is built first and the rest aside from the random stream: its weights depend on the
    seed alone, so a baseline and a distilled student start equal. ``source``: of the teachers.

    Raises:
        UserError: a model that does not build or load, a layer that is not there, shapes that do not fit.
    """
    run, source = LoadedConfig.of(config), source or OwnTeachers()
    torch.manual_seed(seed)
    student = _build_student(run.cfg, trust_checkpoint)
    if run.distill is None:
        return Distiller(student, trust_checkpoint=trust_checkpoint)
    spec = run.distill
    with torch.random.fork_rng():
        models = _teacher_models(spec, student, source, trust_checkpoint)
        _require_equal(student, models, input_channels, OTHER_CHANNELS)
        _check_feature_names(spec, student, models)
        if by_teacher := spec.labels == "teacher":
            _require_logits(models)
            _require_equal(student, models, num_classes, OTHER_CLASSES)
        routes = make_routes(spec, student, models)
        teachers = _make_teachers(spec, student, models, routes, source)
        channels = probe_channels(student, teachers, routes, training_size(run.cfg))
        torch.manual_seed(seed)  # adapters are drawn next: not to depend on which teachers were built here
        terms = build_terms(spec, channels, routes, student)
    labels_by = [logit_names(model, training=False)[0] for model in models] if by_teacher else []
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
    """The model of each teacher, with its weights; the student's own for one that follows it."""
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
    """Each teacher with those of its features that some loss compares, or that labels are made of."""
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
    """Refuses teachers whose ``count`` is not the student's; ``problem`` names index, teacher and student."""
    own = count(student)
    counts = [count(teacher) for teacher in teachers]
    problems = [
        problem.format(index=index, teacher=number, student=own) for index, number in enumerate(counts) if number != own
    ]
    if problems:
        raise UserError(*problems)


def _require_logits(teachers: Sequence[nn.Module]) -> None:
    """Refuses teachers that tell no class of a pixel, where their classes are to be the labels."""
    if without := [index for index, model in enumerate(teachers) if not gives_logits(model)]:
        raise UserError(
            f"distill.labels: teachers[{without[0]}] gives features alone, and no class of a pixel; set labels='data'"
        )


def _check_feature_names(spec: DistillSpec, student: nn.Module, teachers: Sequence[nn.Module]) -> None:
    """Every listed name must be in its model; also those that no loss uses yet."""
    listed = [("distill.features.student", spec.features.student, [student])]
    followers = [
        model for teacher_spec, model in zip(spec.teachers, teachers, strict=True) if teacher_spec.features is None
    ]
    listed.append(("distill.features.teacher", spec.features.teacher, followers))
    for index, (teacher_spec, model) in enumerate(zip(spec.teachers, teachers, strict=True)):
        listed.append((f"distill.teachers[{index}].features", teacher_spec.features or (), [model]))
    problems: list[str] = []
    for where, names, models in listed:
        for index, name in enumerate(names):
            for model in models:
                try:
                    parse_feature(name, model)
                except UserError as error:
                    problems += [f"{where}[{index}]: {problem}" for problem in error.problems]
    if problems:
        raise UserError(*problems)


@torch.no_grad()
def classes_of(logits_nchw: Tensor, like_nhw: Tensor, *, align_corners: bool) -> Tensor:
    """The class of each pixel by some logits, N x H x W, of the size and type of ``like_nhw``.

    Args:
        logits_nchw: of any resolution; one channel is a sigmoid's of two classes.
        like_nhw: labels.
        align_corners: as in the resizing of a prediction.
    """
    logits_nchw = with_logit_channels(logits_nchw.float(), max(2, logits_nchw.shape[1]))
    of_images = []
    for logits in logits_nchw:  # one by one: at the labels' size all of a batch would be the peak of a step
        resized = nn.functional.interpolate(
            logits[None], like_nhw.shape[-2:], mode="bilinear", align_corners=align_corners
        )
        of_images.append(resized.argmax(dim=1).to(like_nhw.dtype))
    return torch.cat(of_images)


def _scaled(value: Any, factor: float) -> Any:
    """mmseg's losses are tensors or lists of tensors. A factor of 1 leaves the bits alone."""
    if factor == 1.0:
        return value
    return [item * factor for item in value] if isinstance(value, list) else value * factor

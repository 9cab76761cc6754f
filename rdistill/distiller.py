"""The Distiller: a student, its teachers and the losses between them, as one mmengine model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from mmengine.config import Config
from mmengine.model import BaseModel, revert_sync_batchnorm
from torch import Tensor, nn

from rdistill import checkpoint, workers
from rdistill.activation_checkpointing import checkpoint_activations
from rdistill.config import DistillSpec, LossSpec, ScheduleSpec, TeacherSpec, distill_spec
from rdistill.errors import UserError, blaming
from rdistill.features import FeatureCapture, as_maps, parse_feature
from rdistill.losses.modules import Term
from rdistill.pretrained import weights_alone
from rdistill.segmentor import (
    blank_image,
    build_segmentor,
    ignore_index,
    input_channels,
    logit_channels,
    logit_names,
    num_classes,
    run_heads,
    training_outputs,
    training_size,
)
from rdistill.teacher import EmaTeacher, Teacher, load_teacher_model, mean_logits

RAW_PREFIX = "raw/"  # in logs: a distillation loss before its weight


@dataclass(frozen=True)
class Route:
    """Between which tensors a loss stands, and how much it counts."""

    student_features: tuple[str, ...]  # one, but for a loss over several layers
    teacher_features: tuple[str, ...]  # as many; for the mean of teachers: each teacher's head
    teacher: int | None  # None: the weighted mean of all teachers' logits
    weight: float
    pair: Any  # as the config has it
    schedule: ScheduleSpec


class Distiller(BaseModel):
    """Trains a student under teachers; predicts with the student alone.

    Without teachers it is the student's plain training, so that the baseline takes the same path.

    Args:
        student: an mmseg segmentor.
        teachers: see :class:`rdistill.teacher.Teacher`.
        terms: name -> distillation loss, with the adapter it may train.
        routes: name -> what the term of that name compares.
        task_weight: factor on the student's own losses.
        trust_checkpoint: lets files that the student's ``init_cfg`` names run code when they are loaded.

    Attributes:
        factors: name -> the schedule's factor on that term's weight at this iteration.
        start: what the student starts from, if not from scratch.
    """

    def __init__(
        self,
        student: nn.Module,
        teachers: Sequence[Teacher] = (),
        terms: Mapping[str, Term] | None = None,
        routes: Mapping[str, Route] | None = None,
        task_weight: float = 1.0,
        trust_checkpoint: bool = False,
    ) -> None:
        super().__init__(data_preprocessor=student.data_preprocessor)
        self.student = student
        self.teachers = tuple(teachers)
        self.terms = nn.ModuleDict(dict(terms or {}))
        self.routes = dict(routes or {})
        self.task_weight = task_weight
        self.factors = dict.fromkeys(self.routes, 1.0)
        self.trust_checkpoint = trust_checkpoint
        self.start: checkpoint.MatchingWeights | None = None
        self.capture = FeatureCapture(student, _names(route.student_features for route in self.routes.values()))

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
            data_samples: mmseg's, with ground truth.
        """
        teacher_outputs = [teacher(inputs_nchw) for teacher in self.teachers]
        losses = {
            key: value if "loss" not in key else _scaled(value, self.task_weight)
            for key, value in self.student.loss(inputs_nchw, data_samples).items()
        }
        if not self.terms:
            return losses
        size = (inputs_nchw.shape[2], inputs_nchw.shape[3])
        label_nhw = torch.stack([sample.gt_sem_seg.data.squeeze(0) for sample in data_samples])
        for name, term in self.terms.items():
            route = self.routes[name]
            ours = [as_maps(self.capture[feature], size) for feature in route.student_features]
            raw = term(_one_or_all(ours), self._teachers_side(route, teacher_outputs), label_nhw)
            losses[f"distill.loss_{name}"] = raw * (route.weight * self.factors[name])
            losses[RAW_PREFIX + name] = raw.detach()
        return losses

    def parse_losses(self, losses: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """As mmengine's, which adds up every key that contains "loss"; raw values only ride along.

        What is logged is the mean over workers: the whole batch's, and all of them see the same NaN.
        """
        raw = {key: value for key, value in losses.items() if key.startswith(RAW_PREFIX)}
        total, log_vars = super().parse_losses({key: value for key, value in losses.items() if key not in raw})
        return total, workers.mean_of_logs({**log_vars, **raw})

    def effective_values(self) -> dict[str, Any]:
        """What this model really uses, under the config keys that set it."""
        values: dict[str, Any] = {"distill.task_weight": self.task_weight} if self.terms else {}
        for name, term in self.terms.items():
            key, route = f"distill.losses.{name}", self.routes[name]
            values[f"{key}.type"] = term.loss_type
            values[f"{key}.weight"] = route.weight
            values[f"{key}.pair"] = route.pair
            values[f"{key}.teacher"] = "mean" if route.teacher is None else route.teacher
            values.update({f"{key}.schedule.{field}": value for field, value in route.schedule})
            values.update({f"{key}.{param}": value for param, value in term.params.items()})
        return values

    def _teachers_side(self, route: Route, outputs: Sequence[Mapping[str, Tensor]]) -> Any:
        if route.teacher is not None:
            return _one_or_all([outputs[route.teacher][feature] for feature in route.teacher_features])
        logits = [output[head] for output, head in zip(outputs, route.teacher_features, strict=True)]
        return mean_logits(logits, [teacher.weight for teacher in self.teachers])


class TeacherSource(Protocol):
    """Where teachers come from: a run's own, or one for several runs."""

    def load(self, spec: TeacherSpec, trust_checkpoint: bool) -> nn.Module:
        """The model of a spec, with its weights."""

    def ask(self, model: nn.Module, spec: TeacherSpec, names: list[str], student_preprocessor: nn.Module) -> Teacher:
        """The teacher with that model, asked for some features."""


class OwnTeachers:
    """A run's own teachers."""

    def load(self, spec: TeacherSpec, trust_checkpoint: bool) -> nn.Module:
        return load_teacher_model(spec, trust_checkpoint=trust_checkpoint)

    def ask(self, model: nn.Module, spec: TeacherSpec, names: list[str], student_preprocessor: nn.Module) -> Teacher:
        return Teacher(model, names, student_preprocessor, spec.weight, spec.forward, spec.features or ())


def build_distiller(
    cfg: Config, *, seed: int, trust_checkpoint: bool = False, source: TeacherSource | None = None
) -> Distiller:
    """Builds student, teachers and losses of a loaded config.

    The student is built first and the rest aside from the random stream: its weights depend on the
    seed alone, so a baseline and a distilled student start equal. ``source``: of the teachers.

    Raises:
        UserError: a model that does not build or load, a layer that is not there, shapes that do not fit.
    """
    torch.manual_seed(seed)
    student = build_segmentor(cfg.model, trust_checkpoint=trust_checkpoint)
    spec = distill_spec(cfg)
    if not (torch.distributed.is_initialized() and torch.cuda.is_available()):
        student = revert_sync_batchnorm(student)  # SyncBN works between GPUs only
    checkpoint_activations(student, cfg.get("activation_checkpointing") or [])
    if spec is None:
        return Distiller(student, trust_checkpoint=trust_checkpoint)
    with torch.random.fork_rng():
        return _with_teachers(student, spec, cfg, seed, trust_checkpoint, source or OwnTeachers())


def _with_teachers(
    student: nn.Module, spec: DistillSpec, cfg: Config, seed: int, trust_checkpoint: bool, source: TeacherSource
) -> Distiller:
    specs = [spec.teacher(index) for index in range(len(spec.teachers))]
    models = [student if one.ema_decay is not None else source.load(one, trust_checkpoint) for one in specs]
    _check_channels(student, models)
    _check_feature_names(spec, student, models)
    ours, heads = logit_names(student, training=True), [logit_names(model, training=False) for model in models]
    routes = {name: _route(name, loss, spec, ours, heads) for name, loss in spec.losses.items()}
    teachers: list[Teacher] = []
    for index, (one, model) in enumerate(zip(specs, models, strict=True)):
        wanted = _names(_asked_of(index, route) for route in routes.values())
        if one.ema_decay is not None:
            teachers.append(EmaTeacher(student, wanted, one.ema_decay, one.weight))
        else:
            teachers.append(source.ask(model, one, wanted, student.data_preprocessor))
    channels = _probe_channels(student, teachers, routes, training_size(cfg))
    torch.manual_seed(seed)  # adapters are drawn next: not to depend on which teachers were built here
    terms = {name: _build_term(name, loss, channels[name], student) for name, loss in spec.losses.items()}
    return Distiller(student, teachers, terms, routes, spec.task_weight, trust_checkpoint)


def _build_term(name: str, loss: LossSpec, channels: tuple[int, int], student: nn.Module) -> Term:
    try:
        return Term(
            loss.type,
            student_channels=channels[0],
            teacher_channels=channels[1],
            num_classes=num_classes(student),
            ignore_index=ignore_index(student),
            on_logits=loss.pair is None,
            params=loss.params,
        )
    except ValueError as error:
        raise UserError(f"distill.losses.{name}: {error}") from None


def _route(
    name: str, loss: LossSpec, spec: DistillSpec, student_heads: list[str], teacher_heads: Sequence[list[str]]
) -> Route:
    """Turns a loss's ``on`` or ``pair`` into the feature names it compares."""
    weight = loss.effective_weight
    teacher = None if loss.teacher == "mean" else loss.teacher
    if loss.pair is not None:
        assert teacher is not None
        names = spec.teacher_features(teacher)
        ours = tuple(spec.features.student[student] for student, _ in loss.pairs)
        theirs = tuple(names[index] for _, index in loss.pairs)
        return Route(ours, theirs, teacher, weight, loss.pair, loss.schedule)
    asked = list(teacher_heads) if teacher is None else [teacher_heads[teacher]]
    for side, heads in (("student", student_heads), *(("teacher", heads) for heads in asked)):
        if loss.output >= len(heads):
            raise UserError(
                f"distill.losses.{name}.on: {loss.on!r}, but the {side} has {len(heads)} outputs: {', '.join(heads)}"
            )
    theirs = tuple(heads[loss.output] for heads in asked)
    return Route((student_heads[loss.output],), theirs, teacher, weight, None, loss.schedule)


def _asked_of(teacher: int, route: Route) -> tuple[str, ...]:
    """The features that a route wants from one of the teachers."""
    if route.teacher is None:
        return (route.teacher_features[teacher],)
    return route.teacher_features if route.teacher == teacher else ()


def _check_channels(student: nn.Module, teachers: Sequence[nn.Module]) -> None:
    """A teacher is given the student's images: it must take as many channels."""
    ours = input_channels(student)
    problems = [
        f"distill.teachers[{index}]: its model takes images of {input_channels(teacher)} channels, the student's of "
        f"{ours}; both are given the same images: train a teacher on them"
        for index, teacher in enumerate(teachers)
        if input_channels(teacher) != ours
    ]
    if problems:
        raise UserError(*problems)


def _check_feature_names(spec: DistillSpec, student: nn.Module, teachers: Sequence[nn.Module]) -> None:
    """Every listed name must be in its model; also those that no loss uses yet."""
    listed = [("distill.features.student", spec.features.student, [student])]
    followers = [model for one, model in zip(spec.teachers, teachers, strict=True) if one.features is None]
    listed.append(("distill.features.teacher", spec.features.teacher, followers))
    for index, (one, model) in enumerate(zip(spec.teachers, teachers, strict=True)):
        listed.append((f"distill.teachers[{index}].features", one.features or (), [model]))
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


def channels_of_logits(name: str, route: Route, student: nn.Module, teachers: Sequence[nn.Module]) -> tuple[int, int]:
    """Channels of the student's and of the teacher's logits that the loss of that name compares.

    Raises:
        UserError: a mean of teachers of different classes. (One channel and two both tell two classes apart.)
    """
    asked = teachers if route.teacher is None else [teachers[route.teacher]]
    channels = [logit_channels(model, head) for model, head in zip(asked, route.teacher_features, strict=True)]
    if len(set(channels)) > 1 and set(channels) != {1, 2}:
        raise UserError(
            f"distill.losses.{name}.teacher: the mean of the teachers' logits needs teachers of the same classes, got "
            f"{', '.join(map(str, channels))}; give each teacher a loss of its own, with teacher=0 and so on"
        )
    return logit_channels(student, route.student_features[0]), min(channels)


@torch.no_grad()
def _probe_channels(
    student: nn.Module, teachers: Sequence[Teacher], routes: Mapping[str, Route], size: tuple[int, int]
) -> dict[str, tuple[int, int]]:
    """Name of a loss -> channels of the two tensors it compares; for several layers, of the last."""
    models = [teacher.model for teacher in teachers]
    on_logits = {
        name: channels_of_logits(name, route, student, models) for name, route in routes.items() if route.pair is None
    }
    if len(on_logits) == len(routes):
        return on_logits
    # Features say how many channels they have when they run: once, on a blank image.
    inputs = blank_image(student, size)
    with blaming(f"model, on an image of {size[0]} x {size[1]}"):
        with (
            training_outputs(student),
            FeatureCapture(student, _names(route.student_features for route in routes.values())) as capture,
        ):
            run_heads(student, student.extract_feat(inputs), capture.names)
            ours = {name: as_maps(capture[name], size) for name in capture.names}
        theirs = [teacher(inputs) for teacher in teachers]
    found = {
        name: (ours[route.student_features[-1]], theirs[route.teacher or 0][route.teacher_features[-1]])
        for name, route in routes.items()
        if route.pair is not None
    }
    return on_logits | {name: (pair[0].shape[1], pair[1].shape[1]) for name, pair in found.items()}


def _names(groups: Any) -> list[str]:
    """All names of several groups, each once, in a fixed order."""
    return sorted({name for group in groups for name in group})


def _one_or_all(tensors: list[Tensor]) -> Tensor | list[Tensor]:
    """A loss over one layer takes a tensor, one over several a list."""
    return tensors[0] if len(tensors) == 1 else tensors


def _scaled(value: Any, factor: float) -> Any:
    """mmseg's losses are tensors or lists of tensors. A factor of 1 leaves the bits alone."""
    if factor == 1.0:
        return value
    return [item * factor for item in value] if isinstance(value, list) else value * factor

"""The Distiller: a student, its frozen teachers and the losses between them, as one mmengine model."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from mmengine.config import Config, ConfigDict
from mmengine.model import BaseModel, revert_sync_batchnorm
from mmengine.registry import init_default_scope
from torch import Tensor, nn

from rdistill import checkpoint
from rdistill.config import DistillSpec, LossSpec, TeacherSpec, distill_spec
from rdistill.errors import UserError
from rdistill.features import FeatureCapture, parse_feature
from rdistill.losses.modules import Term
from rdistill.quiet_mmseg import MODELS

RAW_PREFIX = "raw/"  # in logs: a distillation loss before its weight


def build_segmentor(model_cfg: Mapping[str, Any], *, what: str = "model") -> nn.Module:
    """Builds an mmseg segmentor from a config's ``model`` section.

    Raises:
        UserError: the section does not build, or needs compiled mmcv operators that are absent.
    """
    init_default_scope("mmseg")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # mmseg's own deprecations
            model = MODELS.build(ConfigDict(copy.deepcopy(model_cfg)))
    except Exception as error:  # mmseg raises anything from KeyError to AssertionError for a wrong config
        text = " ".join(str(error).split())
        if "mmcv._ext" in text or "mmcv.ops" in text:
            raise UserError(
                f"{what}: needs mmcv's compiled operators ({text[:120]}); install torch first, then build mmcv with "
                f"MMCV_WITH_OPS=1 pip install --no-build-isolation --no-binary onedl-mmcv onedl-mmcv"
            ) from error
        raise UserError(f"{what}: cannot be built: {type(error).__name__}: {text[:300]}") from error
    if not hasattr(model, "decode_head"):
        raise UserError(f"{what}: {type(model).__name__} is not an encoder-decoder segmentor of mmseg")
    return model


def decode_heads(model: nn.Module) -> list[str]:
    """Names of the layers that give the model's outputs: the main head, then the auxiliary ones."""
    names = []
    for name in ("decode_head", "auxiliary_head"):
        head = getattr(model, name, None)
        if isinstance(head, nn.ModuleList):
            # The last stage of a cascade is its result; auxiliary heads all count.
            indices = [len(head) - 1] if name == "decode_head" else range(len(head))
            names += [f"{name}.{index}" for index in indices]
        elif head is not None:
            names.append(name)
    return names


class Teacher:
    """A frozen model that is asked for logits and features.

    Deliberately no ``nn.Module``: so it is in no optimizer, in no checkpoint, outside DDP, and no
    ``train()`` of its surroundings reaches its dropout or BatchNorm.
    """

    def __init__(self, model: nn.Module, feature_names: Sequence[str], student_preprocessor: nn.Module) -> None:
        self.model = model.eval().requires_grad_(False)
        self.heads = decode_heads(model)
        self.capture = FeatureCapture(model, feature_names)
        self._rescale = _rescaling(student_preprocessor, model.data_preprocessor)

    @torch.no_grad()
    def __call__(self, inputs_nchw: Tensor) -> dict[str, Tensor]:
        """Feature name -> tensor, for one batch as the student's preprocessor normalised it."""
        self.model.to(inputs_nchw.device)
        assert not self.model.training
        with self.capture:
            features = self.model.extract_feat(self._normalise(inputs_nchw))
            _run_heads(self.model, features, self.capture.names)
            return {name: self.capture[name].detach() for name in self.capture.names}

    def _normalise(self, inputs_nchw: Tensor) -> Tensor:
        """The same images with this teacher's own mean and deviation, where they differ from the student's."""
        if self._rescale is None:
            return inputs_nchw
        scale, shift = (tensor.to(inputs_nchw) for tensor in self._rescale)
        return inputs_nchw * scale + shift


@dataclass(frozen=True)
class Route:
    """Between which tensors a loss stands, and how much it counts."""

    student_feature: str
    teacher_feature: str
    teacher: int
    weight: float
    pair: tuple[int, int] | None


class Distiller(BaseModel):
    """Trains a student under frozen teachers; predicts with the student alone.

    Without teachers it is the student's plain training, so that the baseline takes the same path.

    Args:
        student: an mmseg segmentor.
        teachers: see :class:`Teacher`.
        terms: name -> distillation loss, with the adapter it may train.
        routes: name -> what the term of that name compares.
        task_weight: factor on the student's own losses.
    """

    def __init__(
        self,
        student: nn.Module,
        teachers: Sequence[Teacher] = (),
        terms: Mapping[str, Term] | None = None,
        routes: Mapping[str, Route] | None = None,
        task_weight: float = 1.0,
    ) -> None:
        super().__init__(data_preprocessor=student.data_preprocessor)
        self.student = student
        self.teachers = tuple(teachers)
        self.terms = nn.ModuleDict(dict(terms or {}))
        self.routes = dict(routes or {})
        self.task_weight = task_weight
        self.capture = FeatureCapture(student, sorted({route.student_feature for route in self.routes.values()}))
        self.start: checkpoint.MatchingWeights | None = None  # what the student starts from, if not from scratch

    def init_weights(self) -> None:
        """The student's own initialisation. Adapters keep PyTorch's, drawn when they were built."""
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
        label_nhw = torch.stack([sample.gt_sem_seg.data.squeeze(0) for sample in data_samples])
        for name, term in self.terms.items():
            route = self.routes[name]
            raw = term(
                self.capture[route.student_feature], teacher_outputs[route.teacher][route.teacher_feature], label_nhw
            )
            losses[f"distill.loss_{name}"] = raw * route.weight
            losses[RAW_PREFIX + name] = raw.detach()
        return losses

    def parse_losses(self, losses: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """As mmengine's, which adds up every key that contains "loss"; raw values only ride along."""
        raw = {key: value for key, value in losses.items() if key.startswith(RAW_PREFIX)}
        total, log_vars = super().parse_losses({key: value for key, value in losses.items() if key not in raw})
        return total, {**log_vars, **raw}

    def effective_values(self) -> dict[str, Any]:
        """What this model really uses, under the config keys that set it."""
        values: dict[str, Any] = {"distill.task_weight": self.task_weight} if self.terms else {}
        for name, term in self.terms.items():
            key = f"distill.losses.{name}"
            values[f"{key}.weight"] = self.routes[name].weight
            values[f"{key}.pair"] = self.routes[name].pair
            values.update({f"{key}.{param}": value for param, value in term.params.items()})
        return values


def build_distiller(cfg: Config, *, seed: int, trust_checkpoint: bool = False) -> Distiller:
    """Builds student, teachers and losses of a loaded config.

    The student is built first and the rest aside from the random stream: its weights depend on the
    seed alone, so a baseline and a distilled student start equal.

    Raises:
        UserError: a model that does not build or load, a layer that is not there, shapes that do not fit.
    """
    torch.manual_seed(seed)
    student = build_segmentor(cfg.model)
    spec = distill_spec(cfg)
    if not (torch.distributed.is_initialized() and torch.cuda.is_available()):
        student = revert_sync_batchnorm(student)  # SyncBN works between GPUs only
    if spec is None:
        return Distiller(student)
    with torch.random.fork_rng():
        return _with_teachers(student, spec, cfg, seed=seed, trust_checkpoint=trust_checkpoint)


def build_teacher(spec: TeacherSpec, *, trust_checkpoint: bool = False) -> nn.Module:
    """Builds one teacher's model and loads its weights strictly."""
    model_cfg = copy.deepcopy(dict(spec.model or {}))
    model_cfg["pretrained"] = None  # its checkpoint holds everything: nothing else may be fetched
    if isinstance(model_cfg.get("backbone"), dict):
        model_cfg["backbone"].pop("init_cfg", None)
    model = revert_sync_batchnorm(build_segmentor(model_cfg, what=f"teacher {spec.config or ''}".strip()))
    checkpoint.load_weights(model, spec.checkpoint, trust=trust_checkpoint, what="teacher")
    return model


def _with_teachers(
    student: nn.Module, spec: DistillSpec, cfg: Config, *, seed: int, trust_checkpoint: bool
) -> Distiller:
    torch.manual_seed(seed)
    models = [build_teacher(teacher, trust_checkpoint=trust_checkpoint) for teacher in spec.teachers]
    _check_feature_names(spec, student, models)
    student_heads = decode_heads(student)
    routes = {
        name: _route(name, loss, spec, student_heads, decode_heads(models[loss.teacher]))
        for name, loss in spec.losses.items()
    }
    wanted: list[set[str]] = [set() for _ in models]
    for route in routes.values():
        wanted[route.teacher].add(route.teacher_feature)
    teachers = [
        Teacher(model, sorted(names), student.data_preprocessor) for model, names in zip(models, wanted, strict=True)
    ]
    channels = _probe_channels(student, teachers, routes, cfg)
    terms = {}
    for name, loss in spec.losses.items():
        on_logits = loss.pair is None
        student_channels, teacher_channels = channels[name]
        try:
            terms[name] = Term(
                loss.type,
                student_channels=student_channels,
                teacher_channels=teacher_channels,
                num_classes=student.num_classes,
                ignore_index=_ignore_index(student),
                on_logits=on_logits,
                params=loss.params,
            )
        except ValueError as error:
            raise UserError(f"distill.losses.{name}: {error}") from None
    return Distiller(student, teachers, terms, routes, spec.task_weight)


def _check_feature_names(spec: DistillSpec, student: nn.Module, teachers: Sequence[nn.Module]) -> None:
    """Every listed name must be in the student, or in some teacher; also those that no loss uses yet."""
    problems = []
    for side, names, models in (
        ("student", spec.features.student, [student]),
        ("teacher", spec.features.teacher, teachers),
    ):
        for index, name in enumerate(names):
            wrong = []
            for model in models:
                try:
                    parse_feature(name, model)
                except UserError as error:
                    wrong += error.problems
            if len(wrong) == len(models):
                problems.append(f"distill.features.{side}[{index}]: {wrong[0]}")
    if problems:
        raise UserError(*problems)


def _route(name: str, loss: LossSpec, spec: DistillSpec, student_heads: list[str], teacher_heads: list[str]) -> Route:
    """Turns a loss's ``on`` or ``pair`` into the two feature names it compares."""
    if loss.pair is not None:
        features = spec.features.student[loss.pair[0]], spec.features.teacher[loss.pair[1]]
        return Route(*features, loss.teacher, loss.effective_weight, loss.pair)
    head = 0 if loss.on == "logits" else int(loss.on.removeprefix("logits[").rstrip("]"))
    for side, heads in (("student", student_heads), ("teacher", teacher_heads)):
        if head >= len(heads):
            raise UserError(
                f"distill.losses.{name}.on: {loss.on!r}, but the {side} has {len(heads)} outputs: {', '.join(heads)}"
            )
    return Route(student_heads[head], teacher_heads[head], loss.teacher, loss.effective_weight, None)


@torch.no_grad()
def _probe_channels(
    student: nn.Module, teachers: Sequence[Teacher], routes: Mapping[str, Route], cfg: Config
) -> dict[str, tuple[int, int]]:
    """Name of a loss -> channels of the two tensors it compares, from one forward pass of a blank image."""
    if all(route.pair is None for route in routes.values()):
        counts = [
            [_num_classes(model, head) for head in decode_heads(model)]
            for model in (student, *(t.model for t in teachers))
        ]
        return {
            name: (
                counts[0][decode_heads(student).index(route.student_feature)],
                counts[1 + route.teacher][teachers[route.teacher].heads.index(route.teacher_feature)],
            )
            for name, route in routes.items()
        }
    inputs = torch.zeros(1, 3, *training_size(cfg))
    student.eval()
    with FeatureCapture(student, sorted({route.student_feature for route in routes.values()})) as capture:
        _run_heads(student, student.extract_feat(inputs), capture.names)
        student_shapes = {name: capture[name].shape for name in capture.names}
    student.train()
    teacher_shapes = [{name: tensor.shape for name, tensor in teacher(inputs).items()} for teacher in teachers]
    return {
        name: (student_shapes[route.student_feature][1], teacher_shapes[route.teacher][route.teacher_feature][1])
        for name, route in routes.items()
    }


def training_size(cfg: Config) -> tuple[int, int]:
    """Height and width in pixels of the images a student trains on."""
    size = (cfg.model.get("data_preprocessor") or {}).get("size") or cfg.get("crop_size")
    return (int(size[0]), int(size[1])) if size else (512, 512)


def _run_heads(model: nn.Module, features: Any, names: Sequence[str]) -> Tensor:
    """Runs the main head, and those auxiliary heads that somebody wants; returns the main logits."""
    head = model.decode_head
    if isinstance(head, nn.ModuleList):  # a cascade: each stage refines the one before
        logits = head[0].forward(features)
        for stage in head[1:]:
            logits = stage.forward(features, logits)
    else:
        logits = head.forward(features)
    for name in decode_heads(model)[1:]:
        if any(wanted == name or wanted.startswith((f"{name}.", f"{name}[", f"{name}:")) for wanted in names):
            model.get_submodule(name).forward(features)
    return logits


def _num_classes(model: nn.Module, head: str) -> int:
    module = model.get_submodule(head)
    return int(getattr(module, "out_channels", None) or module.num_classes)


def _ignore_index(model: nn.Module) -> int:
    """The label that counts nowhere, as the student's own loss has it."""
    return int(model.get_submodule(decode_heads(model)[0]).ignore_index)


def _scaled(value: Any, factor: float) -> Any:
    """mmseg's losses are tensors or lists of tensors. A factor of 1 leaves the bits alone."""
    if factor == 1.0:
        return value
    return [item * factor for item in value] if isinstance(value, list) else value * factor


def _rescaling(student: nn.Module, teacher: nn.Module) -> tuple[Tensor, Tensor] | None:
    """Scale and shift from the student's normalisation to the teacher's; None when they agree."""
    ours, theirs = (_mean_and_std(module) for module in (student, teacher))
    if all(torch.allclose(a, b) for a, b in zip(ours, theirs, strict=True)):
        return None
    scale = ours[1] / theirs[1]
    return scale, (ours[0] - theirs[0]) / theirs[1]


def _mean_and_std(preprocessor: nn.Module) -> tuple[Tensor, Tensor]:
    """Shape (3, 1, 1) each; 0 and 1 for a preprocessor that does not normalise."""
    mean, std = getattr(preprocessor, "mean", None), getattr(preprocessor, "std", None)
    if not isinstance(mean, Tensor) or not isinstance(std, Tensor):
        return torch.zeros(3, 1, 1), torch.ones(3, 1, 1)
    return mean.float(), std.float()

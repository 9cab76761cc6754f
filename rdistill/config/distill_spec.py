"""The ``distill`` section of a config: the teachers and how they are computed, the features, and the losses.

``distill_spec`` parses and checks it. The fields of the classes are the keys of the section; comments give their units
and meanings.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from mmengine.config import Config, ConfigDict
from pydantic import BaseModel, ByteSize, Discriminator, Field, Tag, ValidationError, field_validator, model_validator
from pydantic import ConfigDict as ModelConfig

from rdistill.config.schedules import SHARE_BATCHES
from rdistill.core.errors import UserError
from rdistill.core.storage import is_uri
from rdistill.core.validation import MAX_SEED, Number, Section, Whole, mistakes
from rdistill.core.words import counted
from rdistill.losses import LOSSES, LossInfo, check_params
from rdistill.registration.parameters import problems_of
from rdistill.schemas.mappings import LossParams, PlainConfig
from rdistill.teachers import TEACHERS
from rdistill.teachers.registry import COMMON_KEYS

MMSEG = "mmseg"  # the kind of teacher that is given by a config file of mmseg
IndexPair = tuple[Whole, Whole]
A_PAIR = "a pair of feature indices such as [1, 1], or for a loss over layers a list of them such as [[0, 0], [1, 1]]"


class ForwardSpec(BaseModel):
    """How a frozen teacher's forward pass is computed. In a config, ``'plain'`` means the defaults."""

    model_config = ModelConfig(extra="forbid", frozen=True)

    fuse: bool = False  # fuse each convolution with the BatchNorm after it
    channels_last: bool = False  # memory format of images and weights
    autocast: Literal["float16", "bfloat16"] | None = None  # usually changes logits by more than 1e-4
    compile: bool = False  # torch.compile for the backbone: needs a C++ compiler, and a minute at the start

    def __str__(self) -> str:
        parts = {
            "fused": self.fuse,
            "channels-last": self.channels_last,
            f"in {self.autocast}": self.autocast,
            "compiled": self.compile,
        }
        return ", ".join(part for part, used in parts.items() if used) or "plain"


PLAIN = ForwardSpec()
FUSED = ForwardSpec(fuse=True)  # the default without a measurement: it is never slower


class CacheSpec(BaseModel):
    """The cache of teachers' outputs. A config may have the mode only: ``cache='off'``."""

    model_config = ModelConfig(extra="forbid", frozen=True)

    mode: Literal["auto", "on", "off"] = "auto"  # auto: on if training repeats its inputs often enough
    # The memory of this process, such as '2GiB'; default: a tenth of the free memory, at most 2 GiB.
    memory: ByteSize | None = None
    # The disk space of all runs that use `dir`; default: a tenth of the free space, at most 10 GiB.
    disk: ByteSize | None = None
    dir: str | None = None  # default: `.teacher_cache` beside the work dir

    @model_validator(mode="before")
    @classmethod
    def _from_mode(cls, value: Any) -> Any:
        # YAML reads `on` and `off` without quotes as true and false.
        options = value if isinstance(value, dict) else {"mode": value}
        if isinstance(options.get("mode"), bool):
            return {**options, "mode": "on" if options["mode"] else "off"}
        return options if isinstance(value, (dict, str, bool)) else value


class StoreSpec(Section):
    """The store of views: a few augmented versions of each image, with the stored outputs of a teacher for them.

    See :mod:`rdistill.distill.teacher_store`.
    """

    # Number of views of each image; a run with fewer passes over the data uses fewer of them.
    views: Annotated[Whole, Field(ge=1, le=100_000)] = 16
    # 'features': stores logits as well; 'nothing': the run uses the views, but stores no outputs.
    keep: Literal["logits", "features", "nothing"] = "logits"
    bits: Literal[32, 16, 8] = 16  # bits for each number; 32 is exact
    # Keeps only the most probable classes of each pixel of the logits, and the total of all others; None: all classes.
    top_k: Annotated[Whole, Field(ge=1)] | None = None
    dir: str | None = None  # a folder or a URI; default: `.teacher_store` beside the work dir
    local: str | None = None  # the folder for local copies of entries at a URI; default: as for `dir`
    seed: Annotated[Whole, Field(ge=0, le=MAX_SEED)] = 0  # the seed of the views, which runs of all seeds share


def forward_from_config(value: Any) -> Any:
    """Expands the short values 'auto' (to None) and 'plain'; pydantic checks the result."""
    if value is None or value == "auto":
        return None
    if value == "plain":
        return {}
    if isinstance(value, (dict, ForwardSpec)):
        return value
    raise ValueError("must be 'auto', 'plain', or dict(fuse=..., channels_last=..., autocast=..., compile=...)")


Side = Annotated[Whole, Field(ge=1, le=16_384)]  # pixels


class ClassMapSpec(Section):
    """A teacher's ``classes`` as numbers; filled in when the config is loaded."""

    to: tuple[Whole | None, ...]  # each class of the teacher -> the student's class, or None
    teacher: tuple[str, ...]  # names of the teacher's classes; empty if they are not known
    student: tuple[str, ...]  # names of the student's classes


class TeacherSpec(Section):
    """One teacher: a frozen model, or the moving average of the student (self-distillation)."""

    type: str = Field(default=MMSEG, description="the name of a teacher kind")  # a registered kind
    params: PlainConfig = Field(default={})  # parameters of another kind than mmseg; in a config they are beside `type`
    config: str | None = None  # an mmseg config file, of which only `model` is used; not read if `model` is set
    checkpoint: str | None = None  # the weights of that model, from rdistill or plain mmseg
    model: PlainConfig | None = None  # the model itself; filled in when the config is loaded
    custom_imports: PlainConfig | None = None  # those of the teacher's config; filled in, see import_custom_modules
    # Makes the teacher an EMA of the student instead: factor on its own weights at each step.
    ema_decay: Annotated[Number, Field(gt=0.5, lt=1)] | None = None
    weight: Number = Field(default=1.0, gt=0)  # weight in the mean of several teachers (a loss's `teacher='mean'`)
    features: tuple[str, ...] | None = None  # feature names of this teacher, instead of `features.teacher`
    forward: ForwardSpec | None = None  # 'plain', or dict(fuse=True, ...); None and 'auto': chosen by a measurement
    cache: CacheSpec | None = None  # cache of this teacher, instead of `distill.cache`
    store: StoreSpec | None = None  # filled in: `distill.store`, which is for all teachers
    # Class of the teacher -> class of the student, or None; by name, or by number from 0. None: the classes are equal.
    classes: dict[str | Whole, str | Whole | None] | None = Field(
        default=None, description="a mapping from the teacher's classes to the student's (or None), by name or number"
    )
    # Pixels where the teacher's classes that map to None have more than half of the probability: 'mask' leaves them out
    # of losses on logits, 'renormalise' divides that probability among the other classes.
    unmapped: Literal["mask", "renormalise"] = "mask"
    class_map: ClassMapSpec | None = None  # filled in from `classes`
    # Height and width, in pixels, to which the teacher resizes an image of training size; other images are resized by
    # the same factors. None: no resizing.
    input_size: tuple[Side, Side] | None = Field(
        default=None, description="height and width in pixels, or one for both"
    )
    input_scale: tuple[Number, Number] | None = None  # filled in: `input_size` divided by the training size

    @field_validator("forward", mode="before")
    @classmethod
    def _forward_in_short(cls, value: Any) -> Any:
        return forward_from_config(value)

    @field_validator("input_size", mode="before")
    @classmethod
    def _square(cls, value: Any) -> Any:
        return (value, value) if isinstance(value, int) and not isinstance(value, bool) else value

    @model_validator(mode="before")
    @classmethod
    def _gather_params(cls, value: Any) -> Any:
        """Moves the parameters of another kind than mmseg to ``params``; a config has them beside the common keys."""
        if not isinstance(value, dict) or value.get("type", MMSEG) == MMSEG:
            return value
        common = {name: value[name] for name in value if name in COMMON_KEYS and name != "params"}
        return {**common, "params": {name: value[name] for name in value if name not in common}}

    @property
    def follows_student(self) -> bool:
        """Whether it is the moving average of the student."""
        return self.ema_decay is not None

    @property
    def label(self) -> str:
        """The name of its model in messages."""
        return f"teacher {self.config or ('' if self.type == MMSEG else self.type)}".strip()

    @property
    def kind_params(self) -> PlainConfig:
        """The parameters from which its kind builds the model."""
        return {"config": self.config} if self.type == MMSEG else dict(self.params)

    def problems(self) -> list[str]:
        """Mistakes in the kind of teacher and its parameters, one line each."""
        try:
            info = TEACHERS.get(self.type)
        except UserError as error:  # an error in an installed package
            return [f"type: {line}" for line in error.problems]
        if info is None:
            return [f"type: no teacher kind {self.type!r}{TEACHERS.hint(self.type)}"]
        return [] if self.type == MMSEG else problems_of(self.params, info.params, f"a teacher of kind {self.type}")

    @model_validator(mode="after")
    def _is_one_kind(self) -> TeacherSpec:
        if self.type != MMSEG:
            if self.ema_decay is not None:
                raise ValueError("`ema_decay` makes the student its own teacher: no type beside it")
            return self
        if self.params:
            raise ValueError("`params` stand beside `type`, and a teacher of mmseg has none")
        if self.ema_decay is None and self.config is None and self.model is None:
            raise ValueError("needs `config`, the teacher's mmseg config file (or `ema_decay`, to follow the student)")
        if self.ema_decay is None and self.checkpoint is None:
            raise ValueError("needs `checkpoint`, the teacher's weights")
        if self.ema_decay is not None and (self.config or self.checkpoint or self.model):
            raise ValueError("`ema_decay` makes the student its own teacher: no config or checkpoint beside it")
        if self.ema_decay is not None and self.classes is not None:
            raise ValueError("`ema_decay` makes the student its own teacher: it has the same classes")
        if self.ema_decay is not None and self.input_size is not None:
            raise ValueError("`ema_decay` makes the student its own teacher: it sees what the student sees")
        return self


class FeatureNames(Section):
    """The feature names of student and teacher; the ``pair=(s, t)`` of a loss contains indices into these lists."""

    student: tuple[str, ...] = ()
    teacher: tuple[str, ...] = ()


class ScheduleSpec(Section):
    """How the weight of a loss changes during training; all values are in iterations from the start."""

    warmup: Whole = Field(default=0, ge=0)  # the weight rises linearly from 0 in this number of iterations
    decay: Literal["none", "linear", "cosine"] = "none"  # how it falls to 0 from the end of the warm-up to `stop`
    stop: Annotated[Whole, Field(ge=1)] | None = None  # the weight is 0 from here on; None: a decay ends with training

    def factor(self, iteration: int, last_iteration: int) -> float:
        """The factor on the weight at an iteration, counted from 0."""
        end = last_iteration if self.stop is None else self.stop
        if self.stop is not None and iteration >= self.stop:
            return 0.0
        if iteration < self.warmup:
            return (iteration + 1) / self.warmup
        progress = min(1.0, (iteration - self.warmup) / max(1, end - self.warmup))
        if self.decay == "linear":
            return 1.0 - progress
        return 0.5 * (1.0 + math.cos(math.pi * progress)) if self.decay == "cosine" else 1.0


class ShareSpec(Section):
    """The weight of a loss as a share: its gradient becomes this share of the task loss's gradient.

    A config may have the value only: ``share=0.5``. See :mod:`rdistill.distill.loss_weights`.
    """

    value: Annotated[Number, Field(gt=0)]  # length of the loss's gradient divided by that of the task loss's gradient
    batches: Annotated[Whole, Field(ge=1)] = SHARE_BATCHES  # number of batches over which both are measured
    every: Annotated[Whole, Field(ge=1)] | None = None  # iterations between two measurements; None: only one

    @model_validator(mode="before")
    @classmethod
    def _from_value(cls, value: Any) -> Any:
        return value if isinstance(value, (Mapping, ShareSpec)) else {"value": value}

    @model_validator(mode="after")
    def _fits_between(self) -> ShareSpec:
        if self.every is not None and self.every < self.batches:
            raise ValueError(f"`every` ({self.every}) must be at least `batches` ({self.batches})")
        return self


class MeasuredWeight(Section):
    """The weight of a loss that is measured, instead of a number."""

    share: ShareSpec


def _kind_of_weight(value: Any) -> str:
    return "mapping" if isinstance(value, (Mapping, MeasuredWeight)) else "number"


Weight = Annotated[
    Annotated[Number, Field(ge=0), Tag("number")] | Annotated[MeasuredWeight, Tag("mapping")],
    Discriminator(_kind_of_weight),
]


class LossSpec(BaseModel):
    """One distillation loss. Further keys are parameters of the loss type, such as ``tau``."""

    model_config = ModelConfig(extra="allow", frozen=True, allow_inf_nan=False)

    type: str  # a name in rdistill.losses.LOSSES
    # Factor in the total loss, or dict(share=...) to measure it; None: the default of the type.
    weight: Weight | None = None
    # (student feature index, teacher feature index), or several for a loss over layers; None: the loss is on logits.
    pair: IndexPair | Annotated[tuple[IndexPair, ...], Field(min_length=1)] | None = Field(None, description=A_PAIR)
    # 'logits': the logits that `predict` uses; 'logits[k]': those of the k-th auxiliary head, then further outputs.
    on: str = "logits"
    teacher: Whole | Literal["mean"] = 0  # index of the teacher; 'mean': the weighted mean of all (logits only)
    schedule: ScheduleSpec = ScheduleSpec()

    @property
    def pairs(self) -> tuple[tuple[int, int], ...]:
        """The feature pairs; empty for a loss on logits."""
        if self.pair is None:
            return ()
        return self.pair if self.pair and isinstance(self.pair[0], tuple) else (self.pair,)  # type: ignore[return-value]

    @property
    def output(self) -> int:
        """The index of the logits that the loss compares, as in `logit_names`: 0 is the main head."""
        return 0 if self.on == "logits" else int(self.on[len("logits[") : -1])

    @property
    def params(self) -> LossParams:
        """The parameters of the loss type that the config has set."""
        return dict(self.model_extra or {})

    @property
    def share(self) -> ShareSpec | None:
        """The share by which the weight is measured; None if the weight is a number."""
        return self.weight.share if isinstance(self.weight, MeasuredWeight) else None

    @property
    def effective_weight(self) -> float | None:
        """The weight in the config, or the default of this loss on logits or features; None if it is measured."""
        if isinstance(self.weight, MeasuredWeight):
            return None
        if self.weight is not None:
            return self.weight
        return LOSSES[self.type].default_weight(self._domain)

    @property
    def _domain(self) -> Literal["logits", "features"]:
        return "logits" if self.pair is None else "features"

    def problems(self, info: LossInfo, where: str) -> list[str]:
        """Mistakes in the loss's own keys, given the declaration of its type; ``where`` is its key in the config."""
        problems = []
        if not re.fullmatch(r"logits(\[\d+\])?", self.on):
            problems.append(f"{where}.on: must be 'logits' or 'logits[k]', got {self.on!r}; features take a `pair`")
        domain = self._domain
        if domain not in info.on:
            fix = "give it a feature `pair`" if domain == "logits" else "remove `pair`"
            problems.append(f"{where}: {self.type} does not apply to {domain}; {fix}")
        return problems + [f"{where}.{problem}" for problem in check_params(self.type, self.params, domain)]


class DiagnoseSpec(Section):
    """Measurements at each validation that show why a distillation gains or not; they do not change the training."""

    batches: Annotated[Whole, Field(ge=0, le=100)] = 2  # batches of training images; as many validation images. 0: off


class UnlabeledSpec(Section):
    """Images without masks, on which the student learns from the teacher alone. See docs/unlabeled.md."""

    # The folder, with its subfolders; relative to the working directory, or to the data root of the training data.
    img_dir: str
    img_suffix: str | None = None  # suffix of the images' names; None: that of the training images
    # Number of images that are added to each batch, over all workers together; or
    per_batch: Annotated[Whole, Field(ge=1)] | None = None
    share: Annotated[Number, Field(gt=0, lt=1)] | None = None  # their share of the whole batch
    weight: Number = Field(default=1.0, ge=0)  # factor on each distillation loss on these images
    # Losses on logits leave out pixels where the teacher's largest probability is lower; None: all pixels count.
    min_confidence: Annotated[Number, Field(gt=0, lt=1)] | None = None

    @model_validator(mode="after")
    def _has_one_count(self) -> UnlabeledSpec:
        if (self.per_batch is None) == (self.share is None):
            got = "got neither" if self.share is None else "got both"
            raise ValueError(f"needs either `per_batch`, a number of images, or `share`, a part of the batch; {got}")
        return self

    def count(self, labeled: int) -> int:
        """The number of images that are added to a batch of ``labeled`` images."""
        if self.per_batch is not None:
            return self.per_batch
        assert self.share is not None
        return max(1, round(labeled * self.share / (1 - self.share)))


class DistillSpec(Section):
    """The ``distill`` section. Total loss = task_weight x the student's own losses + sum of weight x loss."""

    teachers: tuple[TeacherSpec, ...] = Field(min_length=1)
    features: FeatureNames = FeatureNames()
    losses: dict[str, LossSpec]  # must not be empty, unless `labels` is 'teacher'
    # 'teacher': the teacher's predictions replace the labels of the masks, and label images without masks.
    labels: Literal["data", "teacher"] = "data"
    task_weight: Number = Field(default=1.0, ge=0)
    unlabeled: UnlabeledSpec | None = None  # images without masks in addition to the training images
    on_ignored: bool = False  # whether losses on logits also use the pixels that the masks ignore (label 255)
    # The cache of teachers' outputs: 'auto', 'on', 'off', or dict(mode=..., memory='2GiB', ...).
    cache: CacheSpec = CacheSpec()
    store: StoreSpec | None = None  # a few views of each image, with stored outputs of the teachers; None: off
    custom_imports: tuple[str, ...] = ()  # modules that only training needs; `student.py` does not import them
    diagnose: DiagnoseSpec | None = None  # None: off, except in the confirmation runs of a sweep

    def teacher(self, index: int) -> TeacherSpec:
        """The spec of a teacher, with the settings that are common to all teachers filled in."""
        own = self.teachers[index]
        cache = own.cache or self.cache
        if self.store is not None:  # the store replaces the cache
            cache = cache.model_copy(update={"mode": "off"})
        # An EMA teacher changes at every step, so that its outputs cannot be stored.
        store = None if own.follows_student else self.store
        features = self.teacher_features(index)
        return own.model_copy(update={"features": features, "cache": cache, "store": store})

    def teacher_features(self, teacher: int) -> tuple[str, ...]:
        """The feature names of one teacher."""
        own = self.teachers[teacher].features
        return self.features.teacher if own is None else own

    @property
    def shares(self) -> dict[str, ShareSpec]:
        """The losses whose weights are measured, by name."""
        return {name: loss.share for name, loss in self.losses.items() if loss.share is not None}

    def problems(self) -> list[str]:
        """Mistakes that concern several fields, such as loss types with parameters and indices into lists."""
        problems = []
        if not self.losses and self.labels == "data":
            problems.append("distill.losses: must have at least 1 entry, got 0")
        if not self.losses and self.unlabeled is not None and self.unlabeled.weight != 1:
            problems.append(
                "distill.unlabeled.weight: is a factor on distillation losses, and there are none; leave it out"
            )
        if self.labels == "teacher" and any(teacher.ema_decay is not None for teacher in self.teachers):
            problems.append("distill.labels: 'teacher' needs teachers with a checkpoint, and one follows the student")
        if self.task_weight == 0:
            problems += [
                f"distill.losses.{name}.weight.share: is of the task loss's gradient, which distill.task_weight=0 "
                f"makes zero; give the loss a number as its weight, or a task_weight above 0"
                for name in self.shares
            ]
        for index, own in enumerate(self.teachers):
            problems += [f"distill.teachers[{index}].{problem}" for problem in own.problems()]
            if own.store is not None:
                problems.append(f"distill.teachers[{index}].store: is one for all teachers; set distill.store")
        problems += self._store_problems()
        for name, loss in self.losses.items():
            where = f"distill.losses.{name}"
            try:
                info = LOSSES.get(loss.type)
            except UserError as error:  # an error in an installed package
                problems += [f"{where}.type: {line}" for line in error.problems]
                continue
            if info is None:
                problems.append(f"{where}.type: no loss {loss.type!r}{LOSSES.hint(loss.type)}")
                continue
            problems += loss.problems(info, where)
            problems += self._reference_problems(loss, info, where)
        return problems

    def _reference_problems(self, loss: LossSpec, info: LossInfo, where: str) -> list[str]:
        """Mistakes in a loss's indices of teachers and features, which refer to other keys of the section."""
        if loss.teacher == "mean" and loss.pair is not None:
            return [f"{where}.teacher: 'mean' averages logits; a feature pair needs one teacher's index"]
        if loss.teacher != "mean" and not 0 <= loss.teacher < len(self.teachers):
            number = counted(len(self.teachers), "teacher")
            return [f"{where}.teacher: got {loss.teacher}, but the config has {number}"]
        problems = []
        if len(loss.pairs) > 1 and not info.layers:
            several = ", ".join(name for name, loss_info in LOSSES.registered().items() if loss_info.layers)
            problems.append(f"{where}.pair: {loss.type} compares one pair; several are for {several}")
        for pair in loss.pairs:
            for side, index in zip(("student", "teacher"), pair, strict=True):
                names = self.features.student if side == "student" else self.teacher_features(int(loss.teacher))
                if not 0 <= index < len(names):
                    problems.append(
                        f"{where}.pair: {side} feature index {index} is not in distill.features.{side}, "
                        f"which has {len(names)} names" + (f" (0 to {len(names) - 1})" if names else "")
                    )
        return problems

    def _store_problems(self) -> list[str]:
        """Mistakes in the store and settings that it excludes."""
        store = self.store
        if store is None:
            return []
        problems = []
        if store.local is not None and (is_uri(store.local) or store.dir is None or not is_uri(store.dir)):
            problems.append("distill.store.local: is the folder that entries of a URI are kept in too, and needs one")
        if self.cache.mode == "on" or any(own.cache is not None and own.cache.mode == "on" for own in self.teachers):
            problems.append("distill.store: keeps what distill.cache would remember; leave cache out, or the store")
        if all(own.follows_student for own in self.teachers):
            problems.append("distill.store: needs a teacher with a checkpoint, and these follow the student")
        named = [name for name, loss in self.losses.items() if loss.pair is not None]
        if store.keep == "logits" and named:
            problems.append(
                f"distill.store.keep: 'logits' leaves out the features that distill.losses.{named[0]} compares, and "
                f"the teacher would run for them; set keep='features'"
            )
        return problems


def distill_spec(cfg: Config) -> DistillSpec | None:
    """The checked ``distill`` section, or None for a plain config.

    Raises:
        UserError: every problem of the section, one line each.
    """
    if cfg.get("distill") is None:
        return None
    section = cfg.distill.to_dict() if isinstance(cfg.distill, ConfigDict) else cfg.distill
    if isinstance(section, Mapping) and isinstance(section.get("losses"), Mapping):
        losses = {name: loss for name, loss in section["losses"].items() if loss is not None}
        section = {**section, "losses": losses}  # setting a loss to None removes it
    try:
        spec = DistillSpec.model_validate(section)
    except ValidationError as error:
        raise UserError(*mistakes(error, DistillSpec, section, "distill")) from None
    problems = spec.problems() + _sharing_problems(cfg, spec) + _view_problems(cfg, spec)
    if problems:
        raise UserError(*problems)
    return spec


def _view_problems(cfg: Config, spec: DistillSpec) -> list[str]:
    """Settings that change images after their view was made: the view would not identify the teacher's input."""
    preprocessor = (cfg.get("model") or {}).get("data_preprocessor") or {}
    if spec.store is None or not preprocessor.get("batch_augments"):
        return []
    return [
        "model.data_preprocessor.batch_augments: makes new images of each view, whose teacher outputs could not be "
        "kept; leave it or distill.store out"
    ]


def _sharing_problems(cfg: Config, spec: DistillSpec) -> list[str]:
    """Settings with which shares cannot be measured, because a step has no plain autograd graph."""
    wrapper = str((cfg.get("model_wrapper_cfg") or {}).get("type", "DistributedDataParallel"))
    reasons = ["compile: a compiled step has"] if cfg.get("compile") else []
    reasons += [f"model_wrapper_cfg.type: {wrapper} has"] if "DistributedDataParallel" not in wrapper else []
    return [
        f"{reason} no gradients between its layers, by which distill.losses.{name}.weight.share is measured; give the "
        f"loss a number as its weight, or leave that key out"
        for reason in reasons
        for name in spec.shares
    ]

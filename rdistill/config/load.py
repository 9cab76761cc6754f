"""A run's config: an mmengine Config of the student plus a checked ``distill`` section.

``load_run`` is the one door (``load_config`` for what wants mmengine's Config alone). What comes out is complete:
overrides applied, paths absolute, each teacher's model copied in. It can be sent to another machine, or dumped and
loaded again. Its ``distill`` section is parsed here, once: the :class:`LoadedConfig` goes with it to the run's end.
"""

from __future__ import annotations

import ast
import copy
import math
import re
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from mmengine.config import Config, ConfigDict
from pydantic import BaseModel, Field, ValidationError, field_validator, model_validator
from pydantic import ConfigDict as ModelConfig

from rdistill._compat.mmengine import config_dict
from rdistill.config.arguments import argument_problems, model_problems
from rdistill.config.read import PACKAGE, find_config, read_config_file
from rdistill.config.render import as_written, top_key_problem
from rdistill.config.sections import key_problems, shape_problems
from rdistill.config.shortcuts import Shortcuts, apply_shortcuts
from rdistill.config.teacher_spec import CacheSpec, ForwardSpec, forward_from_config
from rdistill.config.tracking import parse_tracking
from rdistill.config.types import as_names, replace_types_by_names
from rdistill.config.walk import dataloaders, leaf_datasets
from rdistill.core.errors import UserError, did_you_mean
from rdistill.core.validation import Number, Section, Whole, mistakes
from rdistill.core.yaml_data import not_plain, parse_yaml, yaml_problem
from rdistill.losses import LOSSES, check_params
from rdistill.models.packages import absent_behind
from rdistill.registration.user_modules import import_user_modules
from rdistill.schemas.mappings import ConfigValues

OWN_DATA = "rdistill.data.datasets"  # registers PaddleSegDataset and MapLabels; by name, since it stands above `config`
REQUIRED_KEYS = ("model", "train_dataloader", "val_dataloader", "val_evaluator", "optim_wrapper", "train_cfg")
INIT_SEED = "randomness.init_seed"  # draws the student's and the adapters' first weights; default: the run's seed
IndexPair = tuple[Whole, Whole]
A_PAIR = "a pair of feature indices such as [1, 1], or for a loss over layers a list of them such as [[0, 0], [1, 1]]"


class TeacherSpec(Section):
    """One teacher: a frozen model, or the student's own moving average (self-distillation)."""

    config: str | None = None  # an mmseg config file, of which only `model` counts; not read when `model` is given
    checkpoint: str | None = None  # rdistill's or plain mmseg's weights of that model
    model: dict[str, Any] | None = None  # the model itself, as load_config copies it in
    custom_imports: dict[str, Any] | None = None  # its config's, copied in alike: see import_custom_modules
    ema_decay: Annotated[Number, Field(gt=0.5, lt=1)] | None = None  # instead: share of itself it keeps at each step
    weight: Number = Field(default=1.0, gt=0)  # share in averaged logits (a loss's `teacher='mean'`)
    features: tuple[str, ...] | None = None  # this teacher's own feature names, instead of `features.teacher`
    forward: ForwardSpec | None = None  # 'plain', or dict(fuse=True, ...); None and 'auto': what a measurement chooses
    cache: CacheSpec | None = None  # this teacher's own, instead of `distill.cache`

    @field_validator("forward", mode="before")
    @classmethod
    def _forward_in_short(cls, value: Any) -> Any:
        return forward_from_config(value)

    @model_validator(mode="after")
    def _is_one_kind(self) -> TeacherSpec:
        if self.ema_decay is None and self.config is None and self.model is None:
            raise ValueError("needs `config`, the teacher's mmseg config file (or `ema_decay`, to follow the student)")
        if self.ema_decay is None and self.checkpoint is None:
            raise ValueError("needs `checkpoint`, the teacher's weights")
        if self.ema_decay is not None and (self.config or self.checkpoint or self.model):
            raise ValueError("`ema_decay` makes the student its own teacher: no config or checkpoint beside it")
        return self


class FeatureNames(Section):
    """Feature names by index, for each side; ``pair=(s, t)`` of a loss points into these two lists."""

    student: tuple[str, ...] = ()
    teacher: tuple[str, ...] = ()


class ScheduleSpec(Section):
    """How a loss's weight changes during training. All in iterations from the start."""

    warmup: Whole = Field(default=0, ge=0)  # rises linearly from 0 to the weight in this time
    decay: Literal["none", "linear", "cosine"] = "none"  # falls to 0 from the end of the warm-up to `stop`
    stop: Annotated[Whole, Field(ge=1)] | None = None  # 0 from here on; a decay without it ends with training

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


class LossSpec(BaseModel):
    """One distillation loss. Keys beyond these are the loss type's own parameters, such as ``tau``."""

    model_config = ModelConfig(extra="allow", frozen=True, allow_inf_nan=False)

    type: str  # a name in rdistill.losses.LOSSES
    weight: Annotated[Number, Field(ge=0)] | None = None  # factor in the total; the type's default when absent
    # (student feature index, teacher feature index), or several for a loss over layers; absent: on logits
    pair: IndexPair | Annotated[tuple[IndexPair, ...], Field(min_length=1)] | None = Field(None, description=A_PAIR)
    # 'logits': those that `predict` uses; 'logits[k]': the k-th auxiliary head's, then what heads give beside
    on: str = "logits"
    teacher: Whole | Literal["mean"] = 0  # which of the teachers; 'mean': their weighted average (logits only)
    schedule: ScheduleSpec = ScheduleSpec()

    @property
    def pairs(self) -> tuple[tuple[int, int], ...]:
        """The feature pairs; empty for a loss on logits."""
        if self.pair is None:
            return ()
        return self.pair if self.pair and isinstance(self.pair[0], tuple) else (self.pair,)  # type: ignore[return-value]

    @property
    def output(self) -> int:
        """Which of the model's outputs a loss on logits compares: 0 is the main head's; as `logit_names` counts."""
        return 0 if self.on == "logits" else int(self.on[len("logits[") : -1])

    @property
    def params(self) -> dict[str, Any]:
        """The loss type's own parameters, as far as they were given."""
        return dict(self.model_extra or {})

    @property
    def effective_weight(self) -> float:
        """The given weight, or the default of this loss on logits or on features."""
        if self.weight is not None:
            return self.weight
        return LOSSES[self.type].default_weight("logits" if self.pair is None else "features")


class DiagnoseSpec(Section):
    """Figures at each validation that say why a distillation gains or does not; training stays what it is."""

    batches: Annotated[Whole, Field(ge=0, le=100)] = 2  # of training images, and as many validation images; 0: off


class DistillSpec(Section):
    """The ``distill`` section: total loss = task_weight x the student's own + sum of weight x loss."""

    teachers: tuple[TeacherSpec, ...] = Field(min_length=1)
    features: FeatureNames = FeatureNames()
    losses: dict[str, LossSpec]  # at least one, unless `labels` are the teacher's
    labels: Literal["data", "teacher"] = "data"  # 'teacher': its class of each pixel in place of the mask's
    task_weight: Number = Field(default=1.0, ge=0)
    cache: CacheSpec = (
        CacheSpec()
    )  # keeps teachers' outputs: 'auto', 'on', 'off', or dict(mode=..., memory='2GiB', ...)
    diagnose: DiagnoseSpec | None = None  # None: off, but for the confirmation runs of a sweep

    def teacher(self, index: int) -> TeacherSpec:
        """A teacher with what it shares with the others filled in."""
        own = self.teachers[index]
        return own.model_copy(update={"features": self.teacher_features(index), "cache": own.cache or self.cache})

    def teacher_features(self, teacher: int) -> tuple[str, ...]:
        """The feature names of one teacher."""
        own = self.teachers[teacher].features
        return self.features.teacher if own is None else own

    def problems(self) -> list[str]:
        """What one field alone cannot show: loss types and parameters, indices into the lists."""
        problems = []
        if not self.losses and self.labels == "data":
            problems.append("distill.losses: must have at least 1 entry, got 0")
        if self.labels == "teacher" and any(teacher.ema_decay is not None for teacher in self.teachers):
            problems.append("distill.labels: 'teacher' needs teachers with a checkpoint, and one follows the student")
        for name, loss in self.losses.items():
            where = f"distill.losses.{name}"
            try:
                info = LOSSES.get(loss.type)
            except UserError as error:  # an installed package's
                problems += [f"{where}.type: {line}" for line in error.problems]
                continue
            if info is None:
                problems.append(f"{where}.type: no loss {loss.type!r}{LOSSES.hint(loss.type)}")
                continue
            if not re.fullmatch(r"logits(\[\d+\])?", loss.on):
                problems.append(f"{where}.on: must be 'logits' or 'logits[k]', got {loss.on!r}; features take a `pair`")
            on = "logits" if loss.pair is None else "features"
            if on not in info.on:
                fix = "give it a feature `pair`" if on == "logits" else "remove `pair`"
                problems.append(f"{where}: {loss.type} does not apply to {on}; {fix}")
            problems += [f"{where}.{problem}" for problem in check_params(loss.type, loss.params, on)]
            if loss.teacher == "mean" and loss.pair is not None:
                problems.append(f"{where}.teacher: 'mean' averages logits; a feature pair needs one teacher's index")
                continue
            if loss.teacher != "mean" and not 0 <= loss.teacher < len(self.teachers):
                problems.append(f"{where}.teacher: got {loss.teacher}, but there are {len(self.teachers)} teachers")
                continue
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


@dataclass(frozen=True)
class LoadedConfig:
    """A loaded config and its checked ``distill`` section, which travel together from the door to the run's end.

    Nothing writes to either: whatever changes one makes another LoadedConfig, so that the two always agree.
    """

    cfg: Config  # mmengine's, complete
    distill: DistillSpec | None  # None: a teacher, or a student alone

    @classmethod
    def of(cls, config: Config | LoadedConfig) -> LoadedConfig:
        """Parses the section of a Config that was loaded before; a LoadedConfig is returned as it is.

        Raises:
            UserError: every problem of the section, one line each.
        """
        return config if isinstance(config, LoadedConfig) else cls(config, distill_spec(config))

    @property
    def distillation(self) -> DistillSpec:
        """The section where there must be one: a sweep's base has been refused without it."""
        assert self.distill is not None
        return self.distill

    def with_overrides(self, overrides: Mapping[str, Any]) -> LoadedConfig:
        """As :func:`with_overrides`."""
        return LoadedConfig.of(_overridden(self.cfg, overrides))

    def with_section(self, name: str, value: Any) -> LoadedConfig:
        """Another value at one of the config's top keys, but for ``distill``; None removes the key."""
        assert name != "distill"
        cfg = copy.deepcopy(self.cfg)
        if value is None:
            cfg.pop(name, None)
        else:
            cfg[name] = value
        return LoadedConfig(cfg, self.distill)

    def with_diagnosis(self) -> LoadedConfig:
        """Measures at each validation why the distillation gains or does not, unless the config decides that itself."""
        if self.distill is None or self.distill.diagnose is not None:
            return self
        cfg = copy.deepcopy(self.cfg)
        cfg.distill.diagnose = {}
        return LoadedConfig(cfg, self.distill.model_copy(update={"diagnose": DiagnoseSpec()}))

    def without_distillation(self) -> LoadedConfig:
        """Trains the student alone: the baseline."""
        cfg = copy.deepcopy(self.cfg)
        cfg.pop("distill", None)
        return LoadedConfig(cfg, None)


def load_config(
    config: str | Path | Config,
    overrides: Mapping[str, Any] | None = None,
    shortcuts: Shortcuts | None = None,
    *,
    with_teachers: bool = True,
    with_data: bool = True,
) -> Config:
    """As :func:`load_run`, for what wants mmengine's Config alone."""
    return load_run(config, overrides, shortcuts, with_teachers=with_teachers, with_data=with_data).cfg


def load_run(
    config: str | Path | Config,
    overrides: Mapping[str, Any] | None = None,
    shortcuts: Shortcuts | None = None,
    *,
    with_teachers: bool = True,
    with_data: bool = True,
) -> LoadedConfig:
    """Reads a config file, applies overrides, checks it and makes it self-contained.

    Args:
        config: a file, or a Config that was read already: plain mmseg's, or one with a ``distill`` section.
        overrides: dotted key -> value. A key must exist already, unless it is written ``+key``.
        shortcuts: see :class:`Shortcuts`; applied before ``overrides``.
        with_teachers: False leaves the ``distill`` section out, for what needs the student alone.
        with_data: False needs no data on the disk, nor teachers' checkpoints: for looking at models.

    Raises:
        UserError: every mistake found, one line each.
    """
    if isinstance(config, Config):
        path, cfg = Path(config.filename or "config"), as_names(copy.deepcopy(config))
    else:
        path, cfg = Path(config), read_config_file(Path(config))
    unknown, _ = key_problems(config_dict(cfg))
    missing = [key for key in REQUIRED_KEYS if cfg.get(key) is None]
    if missing:
        text = f"not a complete training config: {', '.join(missing)} missing; inherit them with _base_"
        raise UserError(*(f"{path}: {problem}" for problem in [text, *unknown]))
    if problems := [*unknown, *shape_problems(config_dict(cfg))]:
        raise UserError(*(f"{path}: {problem}" for problem in problems))
    problems = apply_shortcuts(cfg, shortcuts or Shortcuts()) + _apply_overrides(cfg, overrides or {})
    problems += (misshapen := _shape_after(cfg))
    if not misshapen:
        _fit_val_interval(cfg)
        problems += _locate_data(cfg) if with_data else []
    if problems:
        raise UserError(*(f"{path}: {problem}" for problem in problems))
    if cfg.get("tracking") is not None:
        cfg.tracking = parse_tracking(cfg.tracking, f"{path}: tracking").model_dump(exclude_none=True)
    if not with_teachers:
        cfg.pop("distill", None)
    import_custom_modules(cfg)
    if problems := argument_problems(config_dict(cfg)):
        raise UserError(*(f"{path}: {problem}" for problem in problems))
    return LoadedConfig(cfg, _resolve_distill(cfg, path, with_checkpoints=with_data))


def with_overrides(cfg: Config, overrides: Mapping[str, Any]) -> Config:
    """A copy of a loaded config with some keys changed, as one trial of a sweep has them.

    Raises:
        UserError: an unknown key, or a value that its key does not take.
    """
    return LoadedConfig.of(_overridden(cfg, overrides)).cfg


def _overridden(cfg: Config, overrides: Mapping[str, Any]) -> Config:
    """As :func:`with_overrides`; its ``distill`` section is yet to be checked."""
    cfg = copy.deepcopy(cfg)
    if problems := _apply_overrides(cfg, overrides) + _shape_after(cfg):
        raise UserError(*problems)
    import_custom_modules(cfg)
    if problems := argument_problems(config_dict(cfg)):
        raise UserError(*problems)
    return cfg


def import_custom_modules(cfg: Config) -> None:
    """Imports rdistill's data sets and transforms, and the modules that a config and its teachers name.

    mmengine imports those of ``custom_imports`` when it reads the file. A process that was sent the config has yet to
    register what they hold; and no command needs to have trained before ``MapLabels`` has a name.

    Args:
        cfg: its ``distill`` section need not be checked: its losses may be in one of those modules.

    Raises:
        UserError: one cannot be imported.
    """
    import_module(OWN_DATA)
    section = cfg.get("distill")
    teachers = (section.get("teachers") if isinstance(section, dict) else None) or []
    wanted = [entry.get("custom_imports") for entry in (cfg, *teachers) if isinstance(entry, (Config, dict))]
    for entry in filter(None, wanted):
        try:
            import_user_modules(entry)
        except UserError as error:
            if absent := absent_behind(error):
                raise UserError(f"custom_imports: {absent}") from error
            raise


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
        section = {**section, "losses": losses}  # setting a loss to None takes it out
    try:
        spec = DistillSpec.model_validate(section)
    except ValidationError as error:
        raise UserError(*mistakes(error, DistillSpec, section, "distill")) from None
    problems = spec.problems()
    if problems:
        raise UserError(*problems)
    return spec


def parse_assignments(assignments: list[str]) -> ConfigValues:
    """``['a.b=1e-3', '+c=[1, 2]']`` -> ``{'a.b': 0.001, '+c': [1, 2]}``; values are Python or YAML literals."""
    values: ConfigValues = {}
    problems = []
    for assignment in assignments:
        key, equals, text = assignment.partition("=")
        if not equals or not key.strip():
            problems.append(f"--set {assignment}: must be key=value")
            continue
        try:
            value = _parse_value(text.strip())
        except yaml.YAMLError as error:
            why = yaml_problem(error).split("is not valid YAML: ", maxsplit=1)[-1]
            problems.append(f"--set {assignment}: the value is neither a Python nor a YAML literal: {why}")
            continue
        values[key.strip()] = value
        problems += not_plain(value, f"--set {key.strip()}", as_json=False)
    if problems:
        raise UserError(*problems)
    return values


def lookup(node: Any, dotted: str) -> Any:
    """The value at a dotted key of a config. Raises KeyError where there is none."""
    for part in dotted.split("."):
        if isinstance(node, (list, tuple)) and (index := _index(part, node)) is not None:
            node = node[index]
        elif isinstance(node, Mapping) and part in node:
            node = node[part]
        else:
            raise KeyError(dotted)
    return node


def _index(part: str, node: Sequence[Any]) -> int | None:
    """A part of a dotted key as an index into a list, counted from its end if negative; None if it is none."""
    if not re.fullmatch(r"-?[0-9]{1,9}", part):  # not isdigit, which takes '²' too
        return None
    return int(part) if -len(node) <= int(part) < len(node) else None


def _parse_value(text: str) -> Any:
    if text.startswith("@"):  # YAML's reserved character, but a feature name's first
        return text
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Python's of doubtful literals, such as '\\d'
            return ast.literal_eval(text)
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):  # the last two of deep nesting
        return parse_yaml(text)


def _apply_overrides(cfg: Config, overrides: Mapping[str, Any]) -> list[str]:
    return [problem for key, value in overrides.items() if (problem := _override(cfg, key, value))]


def _shape_after(cfg: Config) -> list[str]:
    """What overrides have made of a config whose shape was right: the same questions again."""
    replace_types_by_names(config_dict(cfg))
    return [f"{key}: is required, got None" for key in REQUIRED_KEYS if cfg.get(key) is None] or shape_problems(
        config_dict(cfg)
    )


def _override(cfg: Config, key: str, value: Any) -> str | None:
    """Sets one dotted key in place; returns the problem, if there is one."""
    may_add = key.startswith("+")
    parts = key.lstrip("+").split(".")
    if "" in parts or not key.isprintable():
        return f"{key!r} is no key; keys are written as a.b.c"
    if parts[0] not in config_dict(cfg) and may_add and (problem := top_key_problem(parts[0])):
        return f"{key!r}: {problem}"
    try:
        value = as_written(value, key)
    except UserError as error:
        return error.problems[0]
    node: Any = config_dict(cfg)
    for depth, part in enumerate(parts):
        where = ".".join(parts[: depth + 1])
        last = depth == len(parts) - 1
        # A loss takes parameters that its config need not spell out: its own check names the unknown ones.
        free = may_add or (parts[0] == "distill" and depth > 0) or key == INIT_SEED
        if isinstance(node, (list, tuple)):
            index: Any = _index(part, node)
            if index is None:
                return f"{where}: no such index; the list has {len(node)} entries"
            if isinstance(node, tuple) and last:
                return f"{where}: a tuple is set as a whole, not by index"
        elif isinstance(node, dict):
            if part not in node and not free:
                return f"unknown key {where}{did_you_mean(part, node)} (write +{key} to add a new key)"
            index = part
            if not last and (part not in node or node[part] is None):
                node[part] = ConfigDict()
        else:
            return f"{where}: {'.'.join(parts[:depth])} is {node!r}, which has no keys"
        if last:
            old = node[index] if isinstance(node, list) else node.get(index)
            if problem := _wrong_kind(old, value):
                return f"{where}: {problem}"
            node[index] = ConfigDict(value) if isinstance(value, dict) else value
        else:
            node = node[index]
    return None


def _wrong_kind(old: Any, new: Any) -> str | None:
    """Says what is wrong when a number is replaced by a text, a section by a number, and the like."""
    if old is None or new is None:
        return None
    if isinstance(old, bool):
        return None if isinstance(new, bool) else f"must be true or false, got {new!r}"
    if isinstance(old, (int, float)):
        if isinstance(new, (int, float)) and not isinstance(new, bool):
            lost = isinstance(new, float) and not math.isfinite(new) and math.isfinite(old)
            return f"must be a finite number, got {new}" if lost else None
        return f"must be a number, got {new!r}"
    if isinstance(old, dict):
        return None if isinstance(new, dict) else f"is a section with keys {', '.join(old)}, got {new!r}"
    return None


def _fit_val_interval(cfg: Config) -> None:
    """A run shorter than its validation interval validates once, at its end."""
    total = cfg.train_cfg.get("max_iters") or cfg.train_cfg.get("max_epochs")
    if total and cfg.train_cfg.get("val_interval", 1) > total:
        cfg.train_cfg.val_interval = total


def _locate_data(cfg: Config) -> list[str]:
    """Makes data roots absolute and recognises PaddleSeg's layout by its ``train_list.txt``."""
    problems = []
    for dataset in (leaf for name, _ in dataloaders(cfg) for leaf in leaf_datasets(cfg, name)):
        if dataset.get("data_root") is None:
            continue
        root = Path(dataset.data_root).expanduser().absolute()
        dataset.data_root = str(root)
        if not root.is_dir():
            problems.append(
                f"data_root: no such directory {root}; pass --data-root DIR, or make data with "
                f"`rdistill data synthetic DIR`"
            )
            continue
        images = (dataset.get("data_prefix") or {}).get("img_path") or ""
        if (root / "train_list.txt").is_file() and not (root / images).is_dir():
            split = "train" if "train" in images else "test" if "test" in images else "val"
            dataset.update(
                type="PaddleSegDataset", ann_file=f"{split}_list.txt", data_prefix=dict(img_path="", seg_map_path="")
            )
    return list(dict.fromkeys(problems))


def _resolve_distill(cfg: Config, path: Path, *, with_checkpoints: bool) -> DistillSpec | None:
    """Checks the section, copies each teacher's model in, and makes its checkpoint's path absolute.

    Returns:
        What the section then says.
    """
    try:
        spec = distill_spec(cfg)
    except UserError as error:
        raise UserError(*(f"{path}: {problem}" for problem in error.problems)) from None
    if spec is None:
        return None
    problems, resolved = [], list(spec.teachers)
    for index, teacher in enumerate(spec.teachers):
        entry = cfg.distill.teachers[index]
        where = f"{path}: distill.teachers[{index}]"
        if teacher.ema_decay is not None:
            continue
        if teacher.model is None:
            assert teacher.config is not None
            file = find_beside(teacher.config, path)
            if file is None:
                problems.append(f"{where}.config: no such config file {teacher.config}")
                continue
            teacher_cfg = read_config_file(file)
            if wrong := _model_problems(teacher_cfg):
                problems += [f"{where}.config: {file}: {problem}" for problem in wrong]
                continue
            entry.model = copy.deepcopy(teacher_cfg.model)
            if teacher_cfg.get("custom_imports"):
                entry.custom_imports = copy.deepcopy(teacher_cfg.custom_imports)
            entry.config = str(file)
        assert teacher.checkpoint is not None
        checkpoint = find_beside(teacher.checkpoint, path) or Path(teacher.checkpoint).expanduser().absolute()
        entry.checkpoint = str(checkpoint)
        if with_checkpoints and not checkpoint.is_file():
            problems.append(
                f"{where}.checkpoint: no such file {teacher.checkpoint}; train the teacher with "
                f"`rdistill train {teacher.config}`, or pass --teacher-checkpoint FILE"
            )
        written = entry.to_dict()
        filled_in = {key: written[key] for key in ("config", "checkpoint", "model", "custom_imports") if key in written}
        resolved[index] = teacher.model_copy(update=filled_in)
    if problems:
        raise UserError(*problems)
    return spec.model_copy(update={"teachers": tuple(resolved)})


def _model_problems(cfg: Config) -> list[str]:
    """What is wrong with the model of a teacher's config, of which nothing else is read."""
    if cfg.get("model") is None:
        return ["has no model"]
    if problems := shape_problems({"model": cfg.model}):
        return problems
    return model_problems(cfg.model, "model") if cfg.get("default_scope") in (None, "mmseg") else []


def find_beside(name: str, config_file: Path) -> Path | None:
    """A file named in a config: absolute, from the working directory, from a folder above the config, or a package's.

    Raises:
        UserError: a package's (``mmseg::FOLDER/NAME.py``) that is not there.
    """
    if PACKAGE in name:
        return find_config(Path(name))
    path = Path(name).expanduser()
    for folder in (Path.cwd(), *config_file.absolute().parents):
        if (folder / path).is_file():
            return (folder / path).absolute()
    return None

"""A run's config: an mmengine Config of the student plus a checked ``distill`` section.

All configs are loaded by ``load_run``, or by ``load_config`` where only mmengine's Config is needed. The result is
complete: overrides are applied, paths are absolute, and each teacher's model is copied in. So it can be sent to another
machine, or dumped and loaded again. The ``distill`` section is parsed here once and stays with the config in a
:class:`LoadedConfig`.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from mmengine.config import Config, ConfigDict
from mmengine.registry import init_default_scope

from rdistill._compat.mmengine import config_dict
from rdistill.config.arguments import argument_problems, model_problems
from rdistill.config.distill_spec import MMSEG, DiagnoseSpec, DistillSpec, TeacherSpec, distill_spec
from rdistill.config.overrides import apply_overrides
from rdistill.config.read import PACKAGE, find_config, read_config_file
from rdistill.config.sections import key_problems, shape_problems
from rdistill.config.shortcuts import Shortcuts, apply_shortcuts
from rdistill.config.tracking import parse_tracking
from rdistill.config.types import as_names, replace_types_by_names
from rdistill.config.walk import class_names, dataloaders, first_leaf, leaf_datasets, without_stream
from rdistill.core.errors import UserError
from rdistill.layouts import SPLITS, find_keys
from rdistill.models.packages import absent_behind
from rdistill.registration.user_modules import import_user_modules
from rdistill.teachers import TEACHERS, TeacherModel
from rdistill.teachers.classes import student_classes
from rdistill.teachers.registry import COMMON_KEYS

# This module registers PaddleSegDataset and MapLabels. It is imported by name, because `config` may not import `data`.
OWN_DATA = "rdistill.data.datasets"
MODEL_KEYS = ("type", "classes", "input_size")  # keys of a teacher that change how its model is built
REQUIRED_KEYS = ("model", "train_dataloader", "val_dataloader", "val_evaluator", "optim_wrapper", "train_cfg")


@dataclass(frozen=True)
class LoadedConfig:
    """A loaded config together with its checked ``distill`` section.

    Both are never changed: each change makes a new LoadedConfig, so that the two always agree.
    """

    cfg: Config  # mmengine's Config, complete
    distill: DistillSpec | None  # None for a teacher, or a student alone

    @classmethod
    def of(cls, config: Config | LoadedConfig) -> LoadedConfig:
        """Parses the ``distill`` section of a loaded Config; a LoadedConfig is returned unchanged.

        Raises:
            UserError: all problems of the section, one line each.
        """
        return config if isinstance(config, LoadedConfig) else cls(config, distill_spec(config))

    @property
    def distillation(self) -> DistillSpec:
        """The ``distill`` section of a config that has one, such as the base config of a sweep."""
        assert self.distill is not None
        return self.distill

    def with_overrides(self, overrides: Mapping[str, Any]) -> LoadedConfig:
        """Like :func:`with_overrides`, but returns a LoadedConfig."""
        return LoadedConfig.of(_overridden(self.cfg, overrides))

    def with_section(self, name: str, value: Any) -> LoadedConfig:
        """A copy with another value at a top-level key other than ``distill``; None removes the key."""
        assert name != "distill"
        cfg = copy.deepcopy(self.cfg)
        if value is None:
            cfg.pop(name, None)
        else:
            cfg[name] = value
        return LoadedConfig(cfg, self.distill)

    def with_diagnosis(self) -> LoadedConfig:
        """A copy that measures a diagnosis at each validation, unless the config has set ``distill.diagnose``."""
        if self.distill is None or self.distill.diagnose is not None:
            return self
        cfg = copy.deepcopy(self.cfg)
        cfg.distill.diagnose = {}
        return LoadedConfig(cfg, self.distill.model_copy(update={"diagnose": DiagnoseSpec()}))

    def with_modules(self, modules: Sequence[str]) -> LoadedConfig:
        """A copy with more modules in ``distill.custom_imports``, which every training process imports."""
        if self.distill is None or not (added := [name for name in modules if name not in self.distill.custom_imports]):
            return self
        cfg = copy.deepcopy(self.cfg)
        cfg.distill.custom_imports = [*self.distill.custom_imports, *added]
        custom_imports = tuple(cfg.distill.custom_imports)
        return LoadedConfig(cfg, self.distill.model_copy(update={"custom_imports": custom_imports}))

    def without_distillation(self) -> LoadedConfig:
        """The config of the baseline: the student alone, on the same views if there is a store of views."""
        cfg = copy.deepcopy(self.cfg)
        cfg.pop("distill", None)
        if self.distill is not None and (store := self.distill.store) is not None:
            dataset = without_stream(cfg.train_dataloader.dataset)
            cfg.train_dataloader.dataset = dict(
                type="StreamDataset", dataset=dataset, views=store.views, view_seed=store.seed
            )
        return LoadedConfig(cfg, None)


def load_config(
    config: str | Path | Config,
    overrides: Mapping[str, Any] | None = None,
    shortcuts: Shortcuts | None = None,
    *,
    with_teachers: bool = True,
    with_data: bool = True,
) -> Config:
    """Like :func:`load_run`, but returns only mmengine's Config."""
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
        overrides: dotted key -> value. A key must exist already, unless it is written as ``+key``.
        shortcuts: see :class:`Shortcuts`; they are applied before ``overrides``.
        with_teachers: whether to keep the ``distill`` section; False loads the student alone.
        with_data: whether data and teachers' checkpoints must exist on the disk; False is for inspecting models.

    Raises:
        UserError: all mistakes that were found, one line each.
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
    problems = apply_shortcuts(cfg, shortcuts or Shortcuts()) + apply_overrides(cfg, overrides or {})
    for _, teacher in _remade_teachers(cfg, overrides or {}):
        teacher.pop("model")  # an override changes how the model is built, so it is built again below
        teacher.pop("class_map", None)
        teacher.pop("input_scale", None)
    problems += (misshapen := _shape_problems_after(cfg))
    if not with_teachers:
        cfg.pop("distill", None)
    if not misshapen:
        _fit_val_interval(cfg)
        import_custom_modules(cfg)  # these modules may define a layout of the data
        problems += _locate_data(cfg) if with_data else []
    if problems:
        raise UserError(*(f"{path}: {problem}" for problem in problems))
    if cfg.get("tracking") is not None:
        cfg.tracking = parse_tracking(cfg.tracking, f"{path}: tracking").model_dump(exclude_none=True)
    if problems := argument_problems(config_dict(cfg)):
        raise UserError(*(f"{path}: {problem}" for problem in problems))
    return LoadedConfig(cfg, _resolve_distill(cfg, path, with_checkpoints=with_data))


def with_overrides(cfg: Config, overrides: Mapping[str, Any]) -> Config:
    """A copy of a loaded config with some keys changed, such as for a trial of a sweep.

    Raises:
        UserError: a key is unknown, or does not accept its value.
    """
    return LoadedConfig.of(_overridden(cfg, overrides)).cfg


def _overridden(cfg: Config, overrides: Mapping[str, Any]) -> Config:
    """Like :func:`with_overrides`, but the ``distill`` section is not checked yet."""
    cfg = copy.deepcopy(cfg)
    if problems := apply_overrides(cfg, overrides) + _shape_problems_after(cfg):
        raise UserError(*problems)
    if model_keys := [key for key, _ in _remade_teachers(cfg, overrides)]:
        text = "the teacher's model is made of it when the config is loaded, and does not change with it afterwards"
        raise UserError(*(f"{key}: {text}; use --set or another config" for key in model_keys))
    import_custom_modules(cfg)
    if problems := argument_problems(config_dict(cfg)):
        raise UserError(*problems)
    return cfg


def _remade_teachers(cfg: Config, overrides: Mapping[str, Any]) -> Iterator[tuple[str, ConfigDict]]:
    """The overridden keys that change how a teacher's model is built, with the entry of that teacher.

    Only teachers whose model was copied in before are included.
    """
    section = cfg.get("distill")
    teachers = section.get("teachers") if isinstance(section, dict) else None
    for key in overrides:
        prefix, _, rest = key.lstrip("+").partition("distill.teachers.")
        index, _, name = rest.partition(".")
        if prefix or not name or not isinstance(teachers, (list, tuple)) or not index.isdecimal():
            continue
        teacher = teachers[int(index)] if int(index) < len(teachers) else None
        if isinstance(teacher, dict) and teacher.get("model") is not None:
            part = name.partition(".")[0]
            is_kind_param = part == "config" if teacher.get("type", MMSEG) == MMSEG else part not in COMMON_KEYS
            if is_kind_param or part in MODEL_KEYS:
                yield key, teacher


def import_custom_modules(cfg: Config) -> None:
    """Imports the modules that register the names in a config: those of mmseg, of rdistill, and of the user.

    mmengine imports ``custom_imports`` when it reads a config file, but a process that gets a config from another
    process must import them itself. rdistill's own module registers ``MapLabels``. mmseg becomes the default scope of
    the process (functions of the Python API restore the caller's scope).

    Args:
        cfg: a config; its ``distill`` section need not be checked yet, because its losses may be in these modules.

    Raises:
        UserError: a module cannot be imported.
    """
    init_default_scope("mmseg")
    import_module(OWN_DATA)
    section = cfg.get("distill")
    teachers = (section.get("teachers") if isinstance(section, dict) else None) or []
    parts = (cfg, section, *teachers)
    imports = [entry.get("custom_imports") for entry in parts if isinstance(entry, (Config, dict))]
    for entry in filter(None, imports):
        try:
            import_user_modules(entry)
        except UserError as error:
            if absent := absent_behind(error):
                raise UserError(f"custom_imports: {absent}") from error
            raise


def _shape_problems_after(cfg: Config) -> list[str]:
    """Checks the kinds of values again after overrides were applied."""
    replace_types_by_names(config_dict(cfg))
    return [f"{key}: is required, got None" for key in REQUIRED_KEYS if cfg.get(key) is None] or shape_problems(
        config_dict(cfg)
    )


def _fit_val_interval(cfg: Config) -> None:
    """Makes a run that is shorter than its validation interval validate once, at its end."""
    total = cfg.train_cfg.get("max_iters") or cfg.train_cfg.get("max_epochs")
    if total and cfg.train_cfg.get("val_interval", 1) > total:
        cfg.train_cfg.val_interval = total


def _locate_data(cfg: Config) -> list[str]:
    """Makes data roots absolute. If a folder does not have the config's image folders, its layout is recognised."""
    problems: list[str] = []
    for loader, dataset in ((name, leaf) for name, _ in dataloaders(cfg) for leaf in leaf_datasets(cfg, name)):
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
        if not (root / images).is_dir():
            try:
                dataset.update(find_keys(root, _split_of(images, loader)))
            except UserError as error:
                problems += [f"data_root: {problem}" for problem in error.problems]
    return list(dict.fromkeys(problems))


def _split_of(images: str, loader: str) -> str:
    """The split of a dataset: from the name of its image folder if it has one, otherwise from its dataloader."""
    # The test dataloader is usually the same as that of the validation.
    by_section = "train" if loader == "train_dataloader" else "val"
    return next((split for split in SPLITS if split in images), by_section)


def _resolve_distill(cfg: Config, path: Path, *, with_checkpoints: bool) -> DistillSpec | None:
    """Checks the ``distill`` section, copies each teacher's model in, and makes the paths of checkpoints absolute.

    Returns:
        The section after that; None if the config has none.
    """
    try:
        spec = distill_spec(cfg)
    except UserError as error:
        raise UserError(*(f"{path}: {problem}" for problem in error.problems)) from None
    if spec is None:
        return None
    problems, resolved = [], list(spec.teachers)
    for index, teacher in enumerate(spec.teachers):
        if teacher.ema_decay is not None:
            continue
        entry = cfg.distill.teachers[index]
        if wrong := _resolve_teacher(teacher, entry, cfg, path, with_checkpoint=with_checkpoints):
            problems += [f"{path}: distill.teachers[{index}].{problem}" for problem in wrong]
        else:
            resolved[index] = TeacherSpec.model_validate(entry.to_dict())
    unlabeled = spec.unlabeled
    if unlabeled is not None:
        folder = find_images(unlabeled.img_dir, cfg)
        cfg.distill.unlabeled.img_dir = str(folder)
        if with_checkpoints and not folder.is_dir():
            problems.append(
                f"{path}: distill.unlabeled.img_dir: no such folder {unlabeled.img_dir}, neither from here nor "
                f"from the data root; give a folder of images"
            )
        unlabeled = unlabeled.model_copy(update={"img_dir": str(folder)})
    if problems:
        raise UserError(*problems)
    return spec.model_copy(update={"teachers": tuple(resolved), "unlabeled": unlabeled})


def _resolve_teacher(
    teacher: TeacherSpec, entry: ConfigDict, cfg: Config, path: Path, *, with_checkpoint: bool
) -> list[str]:
    """Completes the entry of a teacher in place: its model, class map, scale of the input, and path of the checkpoint.

    Returns:
        The mistakes, each of which begins with the key in the entry.
    """
    names, source = tuple[str, ...](), None
    if teacher.model is None:
        try:
            built = TEACHERS[teacher.type].build(teacher.kind_params, _FilesBeside(path))
        except UserError as error:
            return [_with_key(teacher, problem) for problem in error.problems]
        _fill_in(entry, built, fusible=TEACHERS[teacher.type].fusible)
        names, source = built.classes, built.config
    if teacher.classes is not None and teacher.class_map is None:
        try:
            if not names and source is not None:
                names = _class_names(read_config_file(Path(source)))
            entry.class_map = _class_map(teacher.classes, names, cfg)
        except UserError as error:
            return list(error.problems)
    if teacher.input_size is not None and teacher.input_scale is None:
        from rdistill.models.segmentor import training_size  # imported here, because it imports mmseg, which is slow

        size = training_size(cfg)
        entry.input_scale = [new / side for new, side in zip(teacher.input_size, size, strict=True)]
    if teacher.checkpoint is None:
        return []
    checkpoint = find_beside(teacher.checkpoint, path) or Path(teacher.checkpoint).expanduser().absolute()
    entry.checkpoint = str(checkpoint)
    if not with_checkpoint or checkpoint.is_file():
        return []
    trained = f"train the teacher with `rdistill train {teacher.config}`, or " if teacher.config else ""
    return [f"checkpoint: no such file {teacher.checkpoint}; {trained}pass --teacher-checkpoint FILE"]


def _with_key(teacher: TeacherSpec, problem: str) -> str:
    """A problem of a kind of teacher, with the key in the entry that it is about; most of them begin with that key."""
    if teacher.type == MMSEG:
        return f"config: {problem}"
    return problem if problem.partition(":")[0] in TEACHERS[teacher.type].params else f"type: {problem}"


def _class_map(
    classes: Mapping[str | int, str | int | None], teacher: tuple[str, ...], cfg: Config
) -> dict[str, list[Any]]:
    """A teacher's ``classes`` as numbers, in the form of :class:`rdistill.config.distill_spec.ClassMapSpec`."""
    student = _class_names(cfg)
    to = student_classes(classes, teacher, student)
    return dict(to=list(to), teacher=list(teacher), student=list(student))


def _class_names(cfg: Config) -> tuple[str, ...]:
    """The class names of a config's training data; empty if there are none, or if the dataset type is not known."""
    init_default_scope("mmseg")
    import_module(OWN_DATA)
    try:
        return class_names(first_leaf(cfg.train_dataloader.dataset))
    except Exception:  # an error of the dataset is ignored: only the model of a teacher's config must be right
        return ()


def find_images(name: str, cfg: Config) -> Path:
    """The absolute path of a folder of images; ``name`` is relative to the working directory or to the data root."""
    here = Path(name).expanduser().absolute()
    root = first_leaf(cfg.train_dataloader.dataset).get("data_root")
    return Path(root, name).absolute() if root and not here.is_dir() and Path(root, name).is_dir() else here


class _FilesBeside:
    """Finds the files that a config names, see :class:`rdistill.teachers.Files`."""

    def __init__(self, config_file: Path) -> None:
        self.config_file = config_file

    def find(self, name: str) -> Path:
        file = find_beside(name, self.config_file)
        if file is None:
            raise UserError(f"no such file {name}")
        return file

    def find_folder(self, name: str) -> Path | None:
        return next((folder for folder in _places_of(name, self.config_file) if folder.is_dir()), None)

    def read_teacher(self, name: str) -> TeacherModel:
        file = find_beside(name, self.config_file)
        if file is None:
            raise UserError(f"no such config file {name}")
        teacher_cfg = read_config_file(file)
        if wrong := _model_problems(teacher_cfg):
            raise UserError(*(f"{file}: {problem}" for problem in wrong))
        imports = config_dict(teacher_cfg).to_dict().get("custom_imports") or {}
        return TeacherModel(copy.deepcopy(teacher_cfg.model), imports, str(file))


def _fill_in(entry: ConfigDict, built: TeacherModel, *, fusible: bool) -> None:
    """Writes a teacher's model into its entry, so that the config is complete."""
    entry.model = copy.deepcopy(dict(built.model))
    if built.custom_imports:
        imports = built.custom_imports
        entry.custom_imports = dict(imports) if isinstance(imports, Mapping) else dict(imports=list(imports))
        import_user_modules(entry.custom_imports)
    if built.config is not None and entry.get("type", MMSEG) == MMSEG:
        entry.config = built.config
    if not fusible and entry.get("forward") is None:
        entry.forward = "plain"


def _model_problems(cfg: Config) -> list[str]:
    """Mistakes in the ``model`` section of a teacher's config; nothing else of that config is used."""
    if cfg.get("model") is None:
        return ["has no model"]
    if problems := shape_problems({"model": cfg.model}):
        return problems
    return model_problems(cfg.model, "model") if cfg.get("default_scope") in (None, "mmseg") else []


def find_beside(name: str, config_file: Path) -> Path | None:
    """The file that a config names; None if it does not exist.

    The name is absolute, or relative to the working directory or to a folder above the config; or it is a file of a
    package (``mmseg::FOLDER/NAME.py``).

    Raises:
        UserError: the package has no such file.
    """
    if PACKAGE in name:
        return find_config(Path(name))
    return next((file for file in _places_of(name, config_file) if file.is_file()), None)


def _places_of(name: str, config_file: Path) -> Iterator[Path]:
    """The paths that a name in a config may mean: absolute, from the working directory, or from a folder above."""
    path = Path(name).expanduser()
    for folder in (Path.cwd(), *config_file.absolute().parents):
        yield (folder / path).absolute()

"""Lists the layers of a config's models for `rdistill layers`, and the feature pairs that can be compared."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

from mmengine.config import Config
from mmengine.model import revert_sync_batchnorm
from rich.console import Console
from rich.table import Table
from torch import nn

from rdistill.config.distill_spec import DistillSpec, TeacherSpec
from rdistill.config.load import LoadedConfig
from rdistill.core.errors import UserError, naming
from rdistill.core.words import counted
from rdistill.distill.teacher import fit_to_student
from rdistill.models.features import parse_feature
from rdistill.models.segmentor import build_segmentor, training_size
from rdistill.models.shapes import Layer, Shape, describe, pair_problem, probe_features, sensible_pairs, stride_of

DEFAULT_DEPTH = 2  # 22 of DeepLabV3+'s 152 layers are shown
MAX_TYPE_CHARACTERS = 16  # characters of a layer's class name, so that full layer names fit into 80 columns


@dataclass(frozen=True)
class Model:
    """One of a config's models, with the layers that ran in a forward pass."""

    role: str  # 'model', 'student', 'teacher', or 'teacher 1' if there are several
    type: str
    layers: list[Layer]

    @property
    def parameters(self) -> int:
        return sum(layer.parameters or 0 for layer in self.layers if layer.depth == 1)

    @property
    def flops(self) -> int:
        return sum(layer.flops or 0 for layer in self.layers if layer.depth == 1)


@dataclass(frozen=True)
class Features:
    """The listed features of the student and of one teacher."""

    role: str  # the teacher's role
    student: dict[str, Shape | str]  # feature name -> shape, or the reason why it has none; in the config's order
    teacher: dict[str, Shape | str]
    sensible: list[tuple[int, int]]  # recommended index pairs, best first
    problems: dict[tuple[int, int], str]  # index pair -> reason why it cannot be compared


@dataclass(frozen=True)
class Overview:
    """Everything that `rdistill layers` shows."""

    height_width: tuple[int, int]  # size of the image in pixels
    models: list[Model]
    features: list[Features]  # one for each teacher that has a model of its own


def overview(config: Config | LoadedConfig, *, trust_checkpoint: bool = False) -> Overview:
    """Builds a config's models, without checkpoints or data, and runs each once on a blank image.

    Args:
        config: from :func:`rdistill.config.load.load_run`; ``with_data=False`` is enough.
        trust_checkpoint: let a teacher of another library run the Python code that its folder holds.

    Raises:
        UserError: a model does not build or run, or does not have a listed feature.
    """
    run = LoadedConfig.of(config)
    spec, size = run.distill, training_size(run.cfg)
    student = revert_sync_batchnorm(build_segmentor(run.cfg.model))
    if spec is None:
        return Overview(size, [_model("model", student, size)], [])
    models, features = [_model("student", student, size)], []
    for index, teacher_spec in enumerate(spec.teachers):
        role = "teacher" if len(spec.teachers) == 1 else f"teacher {index}"
        teacher = student if teacher_spec.ema_decay is not None else build_teacher(teacher_spec, trust_checkpoint)
        if teacher is not student:
            models.append(_model(role, teacher, size))
        features.append(_features(role, spec, index, student, teacher, size))
    return Overview(size, models, features)


def build_teacher(spec: TeacherSpec, trust_checkpoint: bool = False) -> nn.Module:
    """Builds a teacher's model without its checkpoint, to measure shapes."""
    assert spec.model is not None
    with naming(spec.label):
        model = build_segmentor(spec.model, what=spec.label, trust_checkpoint=trust_checkpoint)
    model = revert_sync_batchnorm(model)
    fit_to_student(model, spec)
    return model


def as_json(models_overview: Overview) -> dict[str, object]:
    """Returns the overview as plain data."""
    return {
        "image": list(models_overview.height_width),
        "models": [
            {
                "role": model.role,
                "type": model.type,
                "parameters": model.parameters,
                "flops": model.flops,
                "layers": [asdict(layer) for layer in model.layers],
            }
            for model in models_overview.models
        ],
        "features": [
            {
                "role": features.role,
                "student": _json_side(features.student, models_overview.height_width),
                "teacher": _json_side(features.teacher, models_overview.height_width),
                "sensible_pairs": [list(pair) for pair in features.sensible],
                "incompatible_pairs": [
                    {"pair": list(pair), "reason": reason} for pair, reason in features.problems.items()
                ],
            }
            for features in models_overview.features
        ],
    }


def show(models_overview: Overview, console: Console, depth: int = DEFAULT_DEPTH) -> None:
    """Prints the overview as tables that fit a terminal of 80 columns."""
    for model in models_overview.models:
        _show_model(model, models_overview.height_width, console, depth)
    for features in models_overview.features:
        _show_features(features, models_overview.height_width, console)


def _model(role: str, model: nn.Module, size: tuple[int, int]) -> Model:
    try:
        return Model(role, type(model).__name__, describe(model, size))
    except UserError as error:
        raise UserError(*(f"{role}: {problem}" for problem in error.problems)) from error


def _features(
    role: str, spec: DistillSpec, index: int, student: nn.Module, teacher: nn.Module, size: tuple[int, int]
) -> Features:
    student_shapes, by_teacher = listed_shapes(spec, student, {index: teacher}, size)
    teacher_shapes = by_teacher[index]
    problems = {
        (s, t): problem
        for s, shape in enumerate(student_shapes)
        for t, teacher_shape in enumerate(teacher_shapes)
        if (problem := pair_problem(shape, teacher_shape)) is not None
    }
    return Features(
        role,
        dict(zip(spec.features.student, student_shapes, strict=True)),
        dict(zip(spec.teacher_features(index), teacher_shapes, strict=True)),
        sensible_pairs(student_shapes, teacher_shapes, size),
        problems,
    )


def listed_shapes(
    spec: DistillSpec, student: nn.Module, teachers: Mapping[int, nn.Module], size: tuple[int, int]
) -> tuple[list[Shape | str], dict[int, list[Shape | str]]]:
    """Returns the shapes of the listed features: those of the student, and those of some teachers by teacher index.

    The lists are in the order of feature indices; a feature without a shape has the reason as text in its place.

    Raises:
        UserError: lists every feature that its model does not have.
    """
    unknown = _unknown_features("distill.features.student", spec.features.student, student)
    for index, teacher in teachers.items():
        own = spec.teachers[index].features is not None
        where = f"distill.teachers[{index}].features" if own else "distill.features.teacher"
        unknown += _unknown_features(where, spec.teacher_features(index), teacher)
    if unknown:
        raise UserError(*dict.fromkeys(unknown))
    sides = [(spec.features.student, student, True)]
    sides += [(spec.teacher_features(index), teacher, False) for index, teacher in teachers.items()]
    by_side = []
    for names, model, training in sides:
        shapes = probe_features(model, names, size, training=training)
        by_side.append([shapes[name] for name in names])
    return by_side[0], dict(zip(teachers, by_side[1:], strict=True))


def _unknown_features(where: str, names: Sequence[str], model: nn.Module) -> list[str]:
    problems = []
    for index, name in enumerate(names):
        try:
            parse_feature(name, model)
        except UserError as error:
            problems += [f"{where}[{index}]: {problem}" for problem in error.problems]
    return problems


def _json_side(side: dict[str, Shape | str], size: tuple[int, int]) -> list[dict[str, object]]:
    return [
        {"index": index, "name": name, "problem": shape}
        if isinstance(shape, str)
        else {"index": index, "name": name, "shape": list(shape), "stride": _stride_or_none(shape, size)}
        for index, (name, shape) in enumerate(side.items())
    ]


def _stride_or_none(shape: Shape, size: tuple[int, int]) -> float | None:
    return stride_of(shape, size) if len(shape) == 4 else None


def _show_model(model: Model, size: tuple[int, int], console: Console, depth: int) -> None:
    console.print(
        f"\n{model.role}  {model.type}: {short_number(model.parameters)} parameters, {short_number(model.flops)} FLOPs "
        f"an image of {size[0]} x {size[1]}",
        style="bold",
        highlight=False,
    )
    table = _table("layer", "type", "shape", "stride", "params", "FLOPs")
    for layer in model.layers:
        if layer.depth > depth:
            continue
        kind = "" if layer.parameters is None else layer.type  # an element of a tuple; the row above has its layer
        if len(kind) > MAX_TYPE_CHARACTERS:
            kind = kind[: MAX_TYPE_CHARACTERS - 2] + ".."
        table.add_row(
            layer.name,
            kind,
            _size(layer),
            _number(layer.stride),
            short_number(layer.parameters),
            short_number(layer.flops),
        )
    console.print(table)
    hidden = sum(layer.depth > depth for layer in model.layers)
    if hidden:
        console.print(
            f"{counted(hidden, 'deeper layer')} hidden: --depth {depth + 1} shows more, and --json shows all",
            highlight=False,
        )


def _show_features(features: Features, size: tuple[int, int], console: Console) -> None:
    console.print(f"\nfeatures of student and {features.role}", style="bold", highlight=False)
    if not features.student or not features.teacher:
        console.print("no features are listed: add names from the tables to distill.features", highlight=False)
        return
    table = _table("", "student", "shape /stride", "", features.role, "shape /stride")
    sides = [_side_rows(side, size) for side in (features.student, features.teacher)]
    for row in range(max(map(len, sides))):
        table.add_row(*(cell for side in sides for cell in (side[row] if row < len(side) else ("",) * 3)))
    console.print(table)
    console.print(f"\npairs [student, {features.role}]", style="bold", highlight=False, markup=False)
    console.print(_pair_table(features, size))
    console.print("= same stride   ~ nearest stride   . can be compared   x cannot", highlight=False)
    for (s, t), problem in features.problems.items():
        console.print(f"[{s}, {t}]: {problem}", highlight=False, markup=False)


def _side_rows(side: dict[str, Shape | str], size: tuple[int, int]) -> list[tuple[str, str, str]]:
    rows = []
    for index, (name, shape) in enumerate(side.items()):
        stride = None if isinstance(shape, str) else _stride_or_none(shape, size)
        text = "none" if isinstance(shape, str) else _compact(shape)
        rows.append((str(index), name, text if stride is None else f"{text} /{_number(stride)}"))
    return rows


def _pair_table(features: Features, size: tuple[int, int]) -> Table:
    """Returns a table with a row for each student feature and a column for each teacher feature."""
    table = _table("", *(str(t) for t in range(len(features.teacher))))
    student_shapes, teacher_shapes = list(features.student.values()), list(features.teacher.values())
    for s in range(len(student_shapes)):
        marks = []
        for t in range(len(teacher_shapes)):
            if (s, t) in features.problems:
                marks.append("x")
            elif (s, t) not in features.sensible:
                marks.append(".")
            else:
                strides = [
                    stride_of(shape, size)
                    for shape in (student_shapes[s], teacher_shapes[t])
                    if not isinstance(shape, str)
                ]
                marks.append("=" if max(strides) / min(strides) < 1.2 else "~")
        table.add_row(str(s), *marks)
    return table


def _table(*headings: str) -> Table:
    table = Table(box=None, padding=(0, 1, 0, 0), pad_edge=False, show_edge=False)
    for heading in headings:
        text = heading in ("layer", "type", "student") or heading.startswith("teacher")
        table.add_column(heading, justify="left" if text else "right", no_wrap=not text, overflow="fold")
    return table


def _size(layer: Layer) -> str:
    """Returns channels x height x width; tokens that form a feature map are shown as the map."""
    return _compact(layer.map_shape or layer.shape) if layer.shape else ""


def _compact(shape: Shape) -> str:
    return "x".join(str(side) for side in shape[1:])


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.1f}".removesuffix(".0")


def short_number(count: int | None) -> str:
    """Shortens a number: ``1234567`` -> ``1.23M``."""
    if count is None:
        return ""
    if count < 1000:
        return str(count)
    value = float(count)
    for unit in ("k", "M", "G"):
        value /= 1000
        if value < 999.5:
            return f"{value:.3g}{unit}"
    return f"{value / 1000:.3g}T"

"""Implements `rdistill init`: reads a folder of images and masks, and writes and checks the files of a study."""

from __future__ import annotations

import shlex
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

from rdistill.checks.run import check_run
from rdistill.config.load import load_run
from rdistill.config.shortcuts import Shortcuts
from rdistill.core.errors import UserError
from rdistill.core.files import write_whole
from rdistill.core.words import counted, rough_time
from rdistill.distill.distiller import build_distiller
from rdistill.handover.onnx_file import busy_machine
from rdistill.init import proposals
from rdistill.init.data import SEED, Data, read_data
from rdistill.init.images import ImageSurvey
from rdistill.init.models import Fitted, Task, build, features_of, fit, min_size
from rdistill.init.own_models import STUDENT, TEACHER, has_imagenet
from rdistill.init.write import FILES, Study, texts
from rdistill.models.shapes import probe_features, sensible_pairs
from rdistill.sweeps.trial.step_profile import measure_step

WORK = Path("work_dirs")
TEACHER_OF_ANY_CHANNELS, STUDENT_OF_ANY_CHANNELS = "deeplabv3plus_r50", STUDENT
PROBE_BATCH, PROBE_ITERS = 2, 100  # used for the first measurement, before a batch and a length are proposed
MAX_VAL_BATCH = 8


@dataclass
class InitResult:
    """The files that `init` has written, and what it prints."""

    files: list[Path] = field(default_factory=list)
    decisions: list[tuple[str, str]] = field(default_factory=list)  # (topic, decision and reason)
    commands: list[str] = field(default_factory=list)  # commands to run next
    notes: list[str] = field(default_factory=list)  # notes of the check; they are not errors


@dataclass(frozen=True)
class InitOptions:
    """The options of the command line; None lets `init` decide."""

    data: Path
    student: str | None = None
    teacher: str | None = None
    size: int | None = None  # pixels of the images' shorter side
    out: Path | None = None
    classes: tuple[str, ...] | None = None
    colors: Path | None = None  # file with the table of colours
    pretrained: bool = False
    force: bool = False  # replace existing files


def write_study(options: InitOptions) -> InitResult:
    """Writes student, teacher, distillation and sweep for a folder of images and masks.

    Raises:
        UserError: the folder is not recognised, files exist already, or the written configs have problems that
            :func:`rdistill.checks.run.check_run` finds.
    """
    root = options.data.expanduser().absolute()
    out = options.out or WORK / "init" / (root.name or "data")
    if not options.force and (existing := [name for name in FILES if (out / name).exists()]):
        raise UserError(f"{out / existing[0]}: exists already; pass --force to replace it, or another --out")
    if options.size is not None and options.size < proposals.SMALLEST:
        raise UserError(f"--size: must be at least {proposals.SMALLEST} pixels, got {options.size}")
    result = InitResult()
    data = read_data(options.data, out, classes=options.classes, colors=options.colors)
    result.decisions += data.decisions
    size = options.size or proposals.probe_size(data.images.shortest)
    student, teacher = _models(options, _task(data, size, pretrained=options.pretrained), result)
    min_side = _min_size(options, student, teacher, size)
    size = max(size, min_side)
    student, teacher = _resized(student, size), _resized(teacher, size)
    study = Study(
        out, _work(out), str(options.data), data.labels.classes, data.labels.palette, data.datasets, size,
        proposals.test_scale(data.images.sizes, size), data.images.loader, PROBE_BATCH, 1, PROBE_ITERS,
        student, teacher,
        data.absent, data.labels.label_map, data.labels.reduce_zero_label,
    )  # fmt: skip
    study = _fit_to_machine(study, options, data.images, data.train_images, min_side, result)
    study = _with_features(study)
    study = replace(study, decisions=tuple(result.decisions))
    result.files = _write(study)
    result.notes += _check(study)
    result.commands = _commands(study)
    return result


def _task(data: Data, size: int, *, pretrained: bool) -> Task:
    images = data.images
    classes = len(data.labels.classes)
    return Task(classes, (size, size), images.channels, data.weights, images.mean, images.std, pretrained)


# --- models -----------------------------------------------------------------------------------------------------------


def _models(options: InitOptions, task: Task, result: InitResult) -> tuple[Fitted, Fitted]:
    any_channels = task.channels != 3
    student_name = options.student or (STUDENT_OF_ANY_CHANNELS if any_channels else STUDENT)
    default_teacher = TEACHER if has_imagenet() and not any_channels else TEACHER_OF_ANY_CHANNELS
    teacher_name = options.teacher or default_teacher
    student = fit(student_name, task, "--student")
    teacher = fit(teacher_name, task, "--teacher")
    for topic, fitted, name, requested_name in (
        ("student", student, student_name, options.student), ("teacher", teacher, teacher_name, options.teacher),
    ):  # fmt: skip
        parameters = sum(weight.numel() for weight in build(fitted).parameters())
        text = f"{fitted.name} ({parameters / 1e6:.3g} M parameters)"
        if requested_name is None:
            text += ": " + (
                "it starts from ImageNet without a network" if fitted.name == TEACHER else "the default; "
                f"choose another with --{topic} NAME, see `rdistill models`"
            )  # fmt: skip
        elif fitted.name.replace("_", "-") != name.lower().replace("_", "-"):
            text += f", the model that {name!r} stands for"
        if fitted.pretrained_files and not task.pretrained:
            text += "; from random weights: pass --pretrained to start from the zoo's, which are downloaded"
        result.decisions.append((topic, text))
    return student, teacher


def _min_size(options: InitOptions, student: Fitted, teacher: Fitted, size: int) -> int:
    """Returns the size in pixels that both models need. Raises UserError if ``--size`` is smaller."""
    min_side = {}
    for flag, fitted in (("--student", student), ("--teacher", teacher)):
        try:
            min_side[flag] = min_size(fitted, size if options.size is not None else proposals.SMALLEST)
        except UserError as error:
            raise UserError(*(f"{flag}: {problem}" for problem in error.problems)) from None
        if options.size is not None and min_side[flag] > options.size:
            text = f"{fitted.name} does not run on images of {options.size} pixels"
            raise UserError(f"{flag}: {text}; pass --size {min_side[flag]}, or choose another model")
    return max(min_side.values())


def _resized(fitted: Fitted, size: int) -> Fitted:
    model = {**fitted.model, "data_preprocessor": {**fitted.model["data_preprocessor"], "size": (size, size)}}
    return replace(fitted, model=model)


def _with_features(study: Study) -> Study:
    size = (study.size, study.size)
    student, teacher = build(study.student), build(study.teacher)
    student_names = features_of(student, size, training=True)
    teacher_names = features_of(teacher, size, training=False)
    shapes = (
        list(probe_features(student, student_names, size, training=True).values()),
        list(probe_features(teacher, teacher_names, size).values()),
    )
    pairs = sensible_pairs(shapes[0], shapes[1], size)
    return replace(study, features=(student_names, teacher_names), pairs=sorted(pairs))


# --- size, batch, length ----------------------------------------------------------------------------------------------


def _fit_to_machine(
    study: Study, options: InitOptions, images: ImageSurvey, count: int, min_side: int, result: InitResult
) -> Study:
    """Measures a step of both models and returns the study with a size, batch and length that suit the machine."""
    _write(study)
    machine = proposals.this_machine()
    costs = [_measure_step(study, name) for name in ("student", "teacher")]
    if options.size is None:
        size, reason = proposals.propose_size(images.shortest, costs, machine, min_side)
    else:
        size, reason = options.size, "as --size says"
    batch, batch_reason = proposals.propose_batch(size, count, costs, machine)
    iters = proposals.propose_iters(count, batch, machine)
    scale = proposals.test_scale(images.sizes, size)
    result.decisions += _about_sizes(images, size, scale, reason)
    result.decisions.append(("batch", f"{counted(batch, 'image')}: {batch_reason}"))
    seconds = iters * sum(model.seconds_at(size, batch) for model in costs)
    busy = f"; {text}, so that it may be less" if (text := busy_machine()) else ""
    result.decisions.append(
        ("length", f"{iters} iterations, {iters * batch / count:.0f} passes over the images; teacher and student alone "
                   f"take about {rough_time(seconds)} on this machine{busy}")
    )  # fmt: skip
    same = len(images.sizes) == 1
    return replace(
        study, size=size, scale=scale, batch=batch, iters=iters, val_batch=min(batch, MAX_VAL_BATCH) if same else 1,
        student=_resized(study.student, size), teacher=_resized(study.teacher, size),
    )  # fmt: skip


def _about_sizes(images: ImageSurvey, size: int, scale: tuple[int, int], reason: str) -> list[tuple[str, str]]:
    width, height = images.typical
    factor = min(max(scale) / max(width, height), min(scale) / min(width, height))
    if len(images.sizes) == 1:
        subject, verb = f"images of {width} x {height}", "reach"
    else:
        subject, verb = f"the median image of {width} x {height}", "reaches"
    return [
        ("size", f"{size}: {reason}"),
        ("aspect", f"kept: {subject} {verb} the model as {round(width * factor)} x {round(height * factor)}, "
                   f"in training as crops of {size} x {size}"),
    ]  # fmt: skip


def _measure_step(study: Study, name: str) -> proposals.StepCost:
    """Measures a training step of one of the models, without distillation."""
    with _quiet():
        run = load_run(study.out / f"{name}.py", shortcuts=Shortcuts(batch_size=study.batch))
        distiller = build_distiller(run.without_distillation(), seed=SEED)
        profile = measure_step(distiller, run.cfg)
    return proposals.StepCost(
        study.size, study.batch, profile.held_bytes, profile.passing_bytes, sum(profile.seconds[1])
    )


@contextmanager
def _quiet() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


# --- files ------------------------------------------------------------------------------------------------------------


def _work(out: Path) -> Path:
    """Returns the folder of the study's runs: ``out`` itself if it lies below work_dirs/."""
    return out if WORK.absolute() in out.absolute().parents else WORK / out.name


def _write(study: Study) -> list[Path]:
    study.out.mkdir(parents=True, exist_ok=True)
    files = []
    for name, text in texts(study).items():
        write_whole(study.out / name, text)
        files.append(study.out / name)
    return files


def _check(study: Study) -> list[str]:
    """Checks student and teacher like `rdistill check`, and returns its notes.

    The distillation is not checked, because that needs the teacher's weights.

    Raises:
        UserError: every problem in the written files or in the data.
    """
    notes: list[str] = []
    for name in ("student", "teacher"):
        with _quiet():
            report = check_run(load_run(study.out / f"{name}.py"), with_data=name == "student")
        if report.problems:
            lines = [f"{study.out / f'{name}.py'}: {problem}" for problem in report.problems]
            raise UserError(*lines)
        notes += [note for note in report.notes if note not in notes]
    return notes


def _commands(study: Study) -> list[str]:
    def quoted(path: Path) -> str:
        return shlex.quote(str(path))

    return [
        f"rdistill train {quoted(study.out / 'teacher.py')} --work-dir {quoted(study.work / 'teacher')}",
        f"rdistill sweep {quoted(study.out / 'sweep.yaml')} --work-dir {quoted(study.work / 'sweep')}",
        f"rdistill report {quoted(study.work / 'sweep')}",
    ]

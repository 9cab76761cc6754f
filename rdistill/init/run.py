"""`rdistill init`: looks at a folder, decides, writes the files of a study, and checks that they train."""

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
from rdistill.distill.distiller import build_distiller
from rdistill.handover.onnx_file import busy_machine
from rdistill.init import proposals
from rdistill.init.data import SEED, Data, read_data
from rdistill.init.images import ImageSurvey
from rdistill.init.models import Fitted, Task, build, features_of, fit, least_size
from rdistill.init.own_models import STUDENT, TEACHER, has_imagenet
from rdistill.init.write import FILES, Study, texts
from rdistill.models.shapes import probe_features, sensible_pairs
from rdistill.sweeps.trial.step_profile import measure_step

WORK = Path("work_dirs")
TEACHER_OF_ANY_CHANNELS, STUDENT_OF_ANY_CHANNELS = "deeplabv3plus_r50", STUDENT
PROBE_BATCH, PROBE_ITERS = 2, 100  # they hold until others are proposed
MOST_VAL_BATCH = 8


@dataclass
class Started:
    """What `init` has made."""

    files: list[Path] = field(default_factory=list)
    decisions: list[tuple[str, str]] = field(default_factory=list)  # (about, what and why)
    commands: list[str] = field(default_factory=list)  # those to run next
    notes: list[str] = field(default_factory=list)  # worth knowing, wrong with nothing


@dataclass(frozen=True)
class Wanted:
    """What the command line says. None leaves it to `init`."""

    data: Path
    student: str | None = None
    teacher: str | None = None
    size: int | None = None  # pixels of the images' shorter side
    out: Path | None = None
    classes: tuple[str, ...] | None = None
    colors: Path | None = None  # a table of colours
    pretrained: bool = False
    force: bool = False  # files that are there are replaced


def start(wanted: Wanted) -> Started:
    """Writes student, teacher, distillation and sweep for a folder of images and masks.

    Raises:
        UserError: the folder is not understood, files are there already, or what was written does not train: every
            problem of :func:`rdistill.checks.run.check_run`.
    """
    root = wanted.data.expanduser().absolute()
    out = wanted.out or WORK / "init" / (root.name or "data")
    if not wanted.force and (there := [name for name in FILES if (out / name).exists()]):
        raise UserError(f"{out / there[0]}: is there already; pass --force to replace it, or another --out")
    if wanted.size is not None and wanted.size < proposals.SMALLEST:
        raise UserError(f"--size: must be at least {proposals.SMALLEST} pixels, got {wanted.size}")
    made = Started()
    data = read_data(wanted.data, out, classes=wanted.classes, colors=wanted.colors)
    made.decisions += data.decisions
    size = wanted.size or proposals.probe_size(data.images.shortest)
    student, teacher = _models(wanted, _task(data, size, pretrained=wanted.pretrained), made)
    least = _least_size(wanted, student, teacher, size)
    size, student, teacher = max(size, least), _resized(student, max(size, least)), _resized(teacher, max(size, least))
    study = Study(
        out, _work(out), str(wanted.data), data.labels.classes, data.labels.palette, data.datasets, size,
        proposals.test_scale(data.images.sizes, size), data.images.loader, PROBE_BATCH, 1, PROBE_ITERS,
        student, teacher,
        data.absent, data.labels.label_map, data.labels.reduce_zero_label,
    )  # fmt: skip
    study = _measured(study, wanted, data.images, data.train_images, least, made)
    study = _with_features(study)
    study = replace(study, decisions=tuple(made.decisions))
    made.files = _write(study)
    made.notes += _check(study)
    made.commands = _commands(study)
    return made


def _task(data: Data, size: int, *, pretrained: bool) -> Task:
    images = data.images
    classes = len(data.labels.classes)
    return Task(classes, (size, size), images.channels, data.weights, images.mean, images.std, pretrained)


# --- models -----------------------------------------------------------------------------------------------------------


def _models(wanted: Wanted, task: Task, made: Started) -> tuple[Fitted, Fitted]:
    any_channels = task.channels != 3
    student_name = wanted.student or (STUDENT_OF_ANY_CHANNELS if any_channels else STUDENT)
    default_teacher = TEACHER if has_imagenet() and not any_channels else TEACHER_OF_ANY_CHANNELS
    teacher_name = wanted.teacher or default_teacher
    student = fit(student_name, task, "--student")
    teacher = fit(teacher_name, task, "--teacher")
    for about, fitted, name, asked_name in (
        ("student", student, student_name, wanted.student), ("teacher", teacher, teacher_name, wanted.teacher),
    ):  # fmt: skip
        parameters = sum(weight.numel() for weight in build(fitted).parameters())
        text = f"{fitted.name} ({parameters / 1e6:.3g} M parameters)"
        if asked_name is None:
            text += ": " + (
                "it starts from ImageNet without a network" if fitted.name == TEACHER else "the default; "
                f"another by --{about} NAME, see `rdistill models`"
            )  # fmt: skip
        elif fitted.name.replace("_", "-") != name.lower().replace("_", "-"):
            text += f", which {name!r} stands for"
        if fitted.start and not task.pretrained:
            text += "; from random weights: pass --pretrained to start from the zoo's, which are downloaded"
        made.decisions.append((about, text))
    return student, teacher


def _least_size(wanted: Wanted, student: Fitted, teacher: Fitted, size: int) -> int:
    """Pixels that the models need. Raises UserError where ``--size`` says less."""
    least = {}
    for flag, fitted in (("--student", student), ("--teacher", teacher)):
        try:
            least[flag] = least_size(fitted, size if wanted.size is not None else proposals.SMALLEST)
        except UserError as error:
            raise UserError(*(f"{flag}: {problem}" for problem in error.problems)) from None
        if wanted.size is not None and least[flag] > wanted.size:
            text = f"{fitted.name} does not run on images of {wanted.size} pixels"
            raise UserError(f"{flag}: {text}; pass --size {least[flag]}, or choose another model")
    return max(least.values())


def _resized(fitted: Fitted, size: int) -> Fitted:
    model = {**fitted.model, "data_preprocessor": {**fitted.model["data_preprocessor"], "size": (size, size)}}
    return replace(fitted, model=model)


def _with_features(study: Study) -> Study:
    size = (study.size, study.size)
    student, teacher = build(study.student), build(study.teacher)
    of_student = features_of(student, size, training=True)
    of_teacher = features_of(teacher, size, training=False)
    shapes = (
        list(probe_features(student, of_student, size, training=True).values()),
        list(probe_features(teacher, of_teacher, size).values()),
    )
    pairs = sensible_pairs(shapes[0], shapes[1], size)
    return replace(study, features=(of_student, of_teacher), pairs=sorted(pairs))


# --- size, batch, length ----------------------------------------------------------------------------------------------


def _measured(study: Study, wanted: Wanted, images: ImageSurvey, count: int, least: int, made: Started) -> Study:
    """The study with the size, batch and length that the machine can do."""
    _write(study)
    machine = proposals.this_machine()
    measured = [_measure(study, name) for name in ("student", "teacher")]
    if wanted.size is None:
        size, why = proposals.propose_size(images.shortest, measured, machine, least)
    else:
        size, why = wanted.size, "as --size says"
    batch, why_batch = proposals.propose_batch(size, count, measured, machine)
    iters = proposals.propose_iters(count, batch, machine)
    scale = proposals.test_scale(images.sizes, size)
    made.decisions += _about_sizes(images, size, scale, why)
    made.decisions.append(("batch", f"{batch} images: {why_batch}"))
    seconds = iters * sum(model.seconds_at(size, batch) for model in measured)
    busy = f"; {text}, so that it may be less" if (text := busy_machine()) else ""
    made.decisions.append(
        ("length", f"{iters} iterations, {iters * batch / count:.0f} passes over the images; teacher and student alone "
                   f"take about {_duration(seconds)} on this machine{busy}")
    )  # fmt: skip
    same = len(images.sizes) == 1
    return replace(
        study, size=size, scale=scale, batch=batch, iters=iters, val_batch=min(batch, MOST_VAL_BATCH) if same else 1,
        student=_resized(study.student, size), teacher=_resized(study.teacher, size),
    )  # fmt: skip


def _about_sizes(images: ImageSurvey, size: int, scale: tuple[int, int], why: str) -> list[tuple[str, str]]:
    width, height = images.typical
    factor = min(max(scale) / max(width, height), min(scale) / min(width, height))
    what = f"images of {width} x {height}" if len(images.sizes) == 1 else f"the median image of {width} x {height}"
    return [
        ("size", f"{size}: {why}"),
        ("aspect", f"kept: {what} reach{'' if len(images.sizes) == 1 else 'es'} the model as {round(width * factor)} x "
                   f"{round(height * factor)}, in training as crops of {size} x {size}"),
    ]  # fmt: skip


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def _measure(study: Study, name: str) -> proposals.Measured:
    """A step of one of the models, alone."""
    with _quiet():
        run = load_run(study.out / f"{name}.py", shortcuts=Shortcuts(batch_size=study.batch))
        distiller = build_distiller(run.without_distillation(), seed=SEED)
        profile = measure_step(distiller, run.cfg)
    return proposals.Measured(
        study.size, study.batch, profile.held_bytes, profile.passing_bytes, sum(profile.seconds[1])
    )


@contextmanager
def _quiet() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


# --- files ------------------------------------------------------------------------------------------------------------


def _work(out: Path) -> Path:
    """Where the study's runs go: beside its files where these are below work_dirs/ already."""
    return out if WORK.absolute() in out.absolute().parents else WORK / out.name


def _write(study: Study) -> list[Path]:
    study.out.mkdir(parents=True, exist_ok=True)
    files = []
    for name, text in texts(study).items():
        write_whole(study.out / name, text)
        files.append(study.out / name)
    return files


def _check(study: Study) -> list[str]:
    """What `rdistill check` says of student and teacher; the distillation's needs the teacher's weights.

    Raises:
        UserError: what is wrong, with what `init` has written or with the data.
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

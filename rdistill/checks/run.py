"""Checks a run before training, and reports all problems together.

:func:`check_run` checks a loaded config, with the models if they are built already. :func:`check_config` checks a
file; if it does not load, the parts that do load are still checked.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config
from mmengine.model import revert_sync_batchnorm
from torch import Tensor, nn

from rdistill.checks.batches import aspect_note, check_batches
from rdistill.checks.data import inspect_data
from rdistill.checks.dry_run import check_batch, class_map_notes, tiny_batch
from rdistill.checks.layers import build_teacher, listed_shapes
from rdistill.checks.store import cache_folder_problems, describe_store, inspect_store
from rdistill.checks.unlabeled import inspect_unlabeled, unlabeled_notes
from rdistill.config.distill_spec import DistillSpec, ShareSpec, TeacherSpec
from rdistill.config.load import LoadedConfig, Shortcuts, load_run
from rdistill.config.render import checked_source
from rdistill.config.schedules import schedule_notes
from rdistill.core.errors import UserError, error_line
from rdistill.core.files import nearest_existing
from rdistill.core.words import counted, in_bytes, the_first
from rdistill.data.splits import READ_BY_TRAINING, data_classes, data_splits, describe_data, describe_layouts
from rdistill.distill.distiller import Distiller, build_distiller
from rdistill.distill.optimizer import build_optimizer
from rdistill.distill.routes import build_term, channels_of_logits, make_route, with_class_maps
from rdistill.distill.teacher import EmaTeacher, load_teacher_model
from rdistill.distributed.shares import share_problems
from rdistill.models.class_map import class_map_of
from rdistill.models.pretrained import pretrained_fit, pretrained_problems, start_weights
from rdistill.models.quiet_mmseg import CrossEntropyLoss
from rdistill.models.segmentor import (
    build_segmentor,
    decode_heads,
    gives_logits,
    labels_of,
    logit_channels,
    logit_names,
    num_classes,
    training_size,
    why_unscored,
)
from rdistill.models.shapes import pair_problem
from rdistill.teachers.classes import describe_classes

NO_CHECKPOINT = ".checkpoint: no such file"  # load_config reports the same text
DEFAULT_CLASS_NAME = "LABEL_"  # transformers' default name of a class
IMAGES = 2  # images in the tried batch
DISK_MARGIN = 1.1  # factor on the estimated disk space, for logs, tables and records


@dataclass
class Report:
    """Results of the checks."""

    passed: list[tuple[str, str]] = field(default_factory=list)  # (part, summary)
    notes: list[str] = field(default_factory=list)  # worth knowing, but no errors
    left_out: list[str] = field(default_factory=list)  # pairs of a sweep that cannot be compared
    layouts: list[str] = field(default_factory=list)  # a line for each dataset that says where its data are
    problems: list[str] = field(default_factory=list)  # where, what, got, fix; one line each

    def add(self, part: str, problems: Sequence[str], summary: str) -> bool:
        """Records the result for one part, and returns whether it has no problems."""
        self.problems += [problem for problem in problems if problem not in self.problems]
        if not problems:
            self.passed.append((part, summary))
        return not problems

    def raise_problems(self) -> None:
        """Raises UserError with all problems, if there are any."""
        if self.problems:
            raise UserError(*self.problems)


def check_config(
    path: str | Path,
    overrides: Mapping[str, Any] | None = None,
    shortcuts: Shortcuts | None = None,
    **options: Any,
) -> Report:
    """Loads a config and checks it; ``options`` are those of :func:`check_run`."""
    loaded = load_parts(path, overrides, shortcuts)
    if loaded.run is not None:
        report = check_run(loaded.run, **options)
        report.passed.insert(0, ("config", str(path)))
        return report
    report = Report(problems=loaded.problems)
    _check_parts(loaded, report, trust_checkpoint=options.get("trust_checkpoint", False))
    return report


@dataclass(frozen=True)
class Loaded:
    """A loaded config, or those parts of it that load in spite of a problem."""

    problems: list[str]
    run: LoadedConfig | None  # the whole config, if it loads
    for_data: LoadedConfig | None = None  # the config without its teachers
    for_models: LoadedConfig | None = None  # the config, loaded without looking for data and checkpoints


def load_parts(
    path: str | Path, overrides: Mapping[str, Any] | None = None, shortcuts: Shortcuts | None = None
) -> Loaded:
    """Loads a config, or its parts if it does not load, so that a problem in one part does not hide others."""
    problems: list[str] = []

    def attempt(**parts: bool) -> LoadedConfig | None:
        try:
            return load_run(path, overrides, shortcuts, **parts)
        except UserError as error:
            problems.extend(problem for problem in error.problems if problem not in problems)
            return None

    run = attempt()
    if run is not None:
        return Loaded(problems, run)
    return Loaded(problems, None, attempt(with_teachers=False), attempt(with_data=False))


def check_run(
    config: Config | LoadedConfig,
    *,
    distiller: Distiller | None = None,
    work_dir: str | Path | None = None,
    workers: int = 1,
    trials: int = 1,
    seed: int = 0,
    trust_checkpoint: bool = False,
    with_data: bool = True,
    full_data: bool = False,
) -> Report:
    """Checks a loaded config: data, models, classes, pairs, one step of training, the optimizer, the disk.

    Args:
        config: from :func:`rdistill.config.load.load_run`.
        distiller: the models, if they are built already. They are restored bit by bit, but they are moved to the GPU
            if there is one.
        work_dir: folder that checkpoints will be written to; None skips the check of disk space.
        workers: number of workers that a batch is divided among.
        trials: number of runs that will write to the work dir.
        seed: seed of the tried batch.
        trust_checkpoint: let a teacher's checkpoint run the Python code that it carries.
        with_data: False skips the data files, which another process checks.
        full_data: decode every file; see :func:`rdistill.checks.data.inspect_data`.
    """
    run, report = LoadedConfig.of(config), Report()
    cfg = run.cfg
    try:
        checked_source(cfg)
    except UserError as error:
        report.add("config", error.problems, "")
    report.notes += schedule_notes(cfg)  # loading has checked the form of the schedules
    if with_data:
        add_data(report, run, full=full_data, workers=workers)
    if distiller is None:
        distiller = build_or_report(run, report, seed=seed, trust_checkpoint=trust_checkpoint)
    if distiller is None:
        return report
    if torch.cuda.is_available():  # training will also use the GPU
        distiller.to("cuda")
    problems, files = pretrained_problems(cfg.model, trust=trust_checkpoint)
    if files:
        fit, notes = pretrained_fit(distiller.student, cfg.model, trust=trust_checkpoint) if not problems else ([], [])
        report.notes += notes
        report.add("pretrained", [*problems, *fit], files)
    report.add("classes", check_classes(cfg, distiller.student), _describe_classes(distiller))
    if run.distill is not None:
        _add_distillation(report, run, run.distill, distiller)
    report.add("optimizer", check_optimizer(distiller, cfg), str(cfg.optim_wrapper.optimizer.get("type")))
    if not report.problems:
        _add_step(report, run, distiller, workers, seed)
    if work_dir is not None:
        report.add("disk", *check_disk(distiller, cfg, Path(work_dir), trials))
    return report


def _add_distillation(report: Report, run: LoadedConfig, spec: DistillSpec, distiller: Distiller) -> None:
    """Checks what a ``distill`` section says about built models: pairs, teachers, the store, classes, weights."""
    models = [teacher.model for teacher in distiller.teachers]
    paired = sum(len(loss.pairs) for loss in spec.losses.values())
    report.add(
        "pairs",
        check_pairs(spec, distiller.student, models, training_size(run.cfg)),
        counted(paired, "feature pair"),
    )
    report.notes += teacher_notes(distiller) + class_name_notes(run.cfg, distiller)
    problems, notes = inspect_store(run, distiller)
    report.notes += notes
    if spec.store is not None:
        report.add("store", problems, describe_store(spec.store))
    if problems := cache_folder_problems(spec):
        report.add("cache", problems, "")
    for where, text in describe_class_maps(spec):
        report.add(where, [], text)
    if spec.shares:
        report.add("weights", [], describe_shares(spec.shares))
        report.notes += _share_notes(run)


def teacher_notes(distiller: Distiller) -> list[str]:
    """Returns notes on what teachers left out when loading, and on teachers without a score before training."""
    notes = []
    for index, teacher in enumerate(distiller.teachers):
        if isinstance(teacher, EmaTeacher):
            continue
        where = f"distill.teachers[{index}]"
        notes += [f"{where}: {note}" for note in getattr(getattr(teacher.model, "backbone", None), "notes", ())]
        if why := why_unscored(teacher.model, distiller.student):
            notes.append(f"{where}: {why}")
    return notes


def class_name_notes(cfg: Config, distiller: Distiller) -> list[str]:
    """Returns notes on teachers whose class names differ from the data's although their numbers are equal.

    Without a class map, classes are compared by index: if an index means another class, nothing fails, but the student
    learns from the wrong outputs.
    """
    notes = []
    data_names = next(iter(data_classes(cfg, "train")), ())
    for index, teacher in enumerate(distiller.teachers):
        names = tuple(getattr(getattr(teacher.model, "backbone", None), "class_names", ()))
        if class_map_of(teacher.model) is not None or len(names) != len(data_names):
            continue
        different = [pair for pair in zip(names, data_names, strict=True) if pair[0].casefold() != pair[1].casefold()]
        if different and not names[0].startswith(DEFAULT_CLASS_NAME):
            notes.append(
                f"distill.teachers[{index}]: its class {different[0][0]!r} is compared with the student's "
                f"{different[0][1]!r}; if these are not the same class, map them with `classes`"
            )
    return notes


def describe_class_maps(spec: DistillSpec) -> list[tuple[str, str]]:
    """Returns (label, description) for each teacher's class map."""
    several = len(spec.teachers) > 1
    return [
        (f"class map {index}" if several else "class map", describe_classes(mapped.to, mapped.teacher, mapped.student))
        for index, teacher in enumerate(spec.teachers)
        if (mapped := teacher.class_map) is not None
    ]


def check_classes(cfg: Config, student: nn.Module) -> list[str]:
    """Checks that each head of the student has as many classes as the data; the losses check the teachers."""
    problems = []
    classes = {name: sorted({len(names) for names in data_classes(cfg, name)}) for name in ("train", "val")}
    if classes["train"] and classes["val"] and classes["train"] != classes["val"]:
        in_training, in_validation = (" and ".join(map(str, classes[name])) for name in ("train", "val"))
        problems.append(f"metainfo.classes: training data has {in_training} classes, validation data {in_validation}")
    if logit_channels(student) == 1 and isinstance(student.decode_head, nn.ModuleList):
        problems.append(
            "model.decode_head: mmseg cannot predict with one output channel (out_channels=1) of a cascade of heads; "
            "set out_channels=2"
        )
    for head in decode_heads(student):
        module = student.get_submodule(head)
        available = int(module.num_classes)
        if logit_channels(student, head) == 1 and _has_softmax(module):
            problems.append(
                f"model.{head}.loss_decode: its softmax over one channel (out_channels=1) is always 1; "
                "set use_sigmoid=True, or out_channels=2"
            )
        for count in classes["train"]:
            if count not in (available, num_classes(student, head)):  # a head with one channel has two classes
                problems.append(
                    f"model.{head}.num_classes: is {available}, but the data has {count} classes (metainfo.classes); "
                    f"change one of them"
                )
    return problems


def _has_softmax(head: nn.Module) -> bool:
    """Returns whether mmseg's cross-entropy trains a head with a softmax over its channels."""
    losses = [module for module in head.modules() if type(module) is CrossEntropyLoss]
    return any(not (loss.use_sigmoid or loss.use_mask) for loss in losses)


def check_pairs(
    spec: DistillSpec, student: nn.Module, teachers: Sequence[nn.Module], size: tuple[int, int]
) -> list[str]:
    """Checks that the two features of every loss with a pair can be compared.

    Args:
        spec: the ``distill`` section.
        student, teachers: the models; they are not changed.
        size: height and width of the tried image, in pixels.
    """
    if not any(loss.pairs for loss in spec.losses.values()):
        return []
    student_shapes, teacher_shapes = listed_shapes(spec, student, dict(enumerate(teachers)), size)
    problems = []
    for name, loss in spec.losses.items():
        for s, t in loss.pairs:
            index = int(loss.teacher)
            if problem := pair_problem(student_shapes[s], teacher_shapes[index][t]):
                names = f"{spec.features.student[s]} with the teacher's {spec.teacher_features(index)[t]}"
                problems.append(f"distill.losses.{name}.pair: [{s}, {t}] ({names}) cannot be compared: {problem}")
    return problems


def describe_shares(shares: Mapping[str, ShareSpec]) -> str:
    """Describes the measurement for losses whose weight is a share; ``shares``: name of the loss -> share."""
    return "; ".join(
        f"{name}: so that its gradient is {share.value:g} of the task's, measured in "
        + the_first(share.batches, "batch")
        + (f" and again every {share.every} iterations" if share.every else "")
        for name, share in shares.items()
    )


def _share_notes(run: LoadedConfig) -> list[str]:
    """Returns notes on losses whose weight is still being measured when training ends."""
    length = run.cfg.train_cfg.get("max_iters")
    return [
        f"distill.losses.{name}.weight.share.batches: is {share.batches}, and training ends at {length}: the weight "
        f"changes with every batch until then"
        for name, share in run.distillation.shares.items()
        if length is not None and share.batches > length
    ]


def check_disk(distiller: Distiller, cfg: Config, work_dir: Path, trials: int = 1) -> tuple[list[str], str]:
    """Checks that the checkpoints of ``trials`` runs fit on the work dir's disk; returns problems and a summary."""
    needed = DISK_MARGIN * trials * run_bytes(distiller, cfg)
    folder = nearest_existing(work_dir)
    free = shutil.disk_usage(folder).free
    what = counted(trials, "trial") if trials > 1 else "the run"
    text = f"{what} may take {in_bytes(needed)}; {in_bytes(free)} are free at {folder}"
    return ([f"--work-dir {work_dir}: {text}; make room, or choose another"] if needed > free else []), text


def run_bytes(distiller: Distiller, cfg: Config) -> int:
    """Estimates the bytes of a run: ``best.pth``, ``last.pth`` and the one before, a partial file, ``student.pth``."""
    weights = _bytes(distiller.state_dict().values())
    student = _bytes(distiller.student.state_dict().values())
    optimizer = cfg.optim_wrapper.get("optimizer") or {}
    kind = str(optimizer.get("type", ""))
    moments = (
        (1 if optimizer.get("momentum") else 0) if kind == "SGD" else 2
    )  # Adam and similar optimizers keep two moments
    trained = _bytes(parameter for parameter in distiller.parameters() if parameter.requires_grad)
    followers = sum(isinstance(teacher, EmaTeacher) for teacher in distiller.teachers)
    return 4 * (weights + moments * trained + followers * student) + student


def check_resources(
    what: str, workers: int, cpus_per_worker: float, gpus_per_worker: float | None, available: Mapping[str, float]
) -> tuple[list[str], str]:
    """Checks that the cluster has the resources of one run or trial; returns problems and a summary.

    Args:
        what: name of the run or trial in the messages.
        workers: number of workers.
        cpus_per_worker: CPU cores for each worker.
        gpus_per_worker: GPUs for each worker; None means 1 if there are GPUs.
        available: numbers of 'CPU' and 'GPU' in the cluster or on this machine.
    """
    if problems := share_problems(cpus_per_worker, gpus_per_worker):
        return problems, ""
    gpus = (1.0 if available.get("GPU") else 0.0) if gpus_per_worker is None else gpus_per_worker
    needed = {"CPU": workers * cpus_per_worker, "GPU": workers * gpus}
    text = " and ".join(f"{amount:g} {kind}" for kind, amount in needed.items() if amount)
    available_text = " and ".join(f"{available.get(kind, 0):g} {kind}" for kind, amount in needed.items() if amount)
    insufficient = any(amount > available.get(kind, 0) for kind, amount in needed.items())
    problem = (
        f"{what} takes {text}, but there are {available_text}; request less, or join a larger cluster with --address"
    )
    return ([problem] if insufficient else []), f"{what} takes {text} of {available_text}"


def local_resources() -> dict[str, float]:
    """Returns the resources of a cluster on this machine."""
    return {"CPU": float(os.cpu_count() or 1), "GPU": float(torch.cuda.device_count())}


def _check_parts(loaded: Loaded, report: Report, *, trust_checkpoint: bool) -> None:
    """Checks the parts that load of a config that does not load as a whole."""
    if loaded.for_data is not None:
        add_data(report, loaded.for_data, full=True)
    part = loaded.for_models or loaded.for_data
    if part is not None:
        student, problems = _diagnose(part, trust_checkpoint)
        # Loading has reported a missing checkpoint already, unless it stopped before.
        reported = [problem for problem in report.problems if NO_CHECKPOINT in problem]
        problems = [problem for problem in problems if not (NO_CHECKPOINT in problem and reported)]
        report.add("models", problems, "build")
        if student is not None and loaded.for_data is not None:
            report.add("classes", check_classes(loaded.for_data.cfg, student), f"{num_classes(student)}")


def add_data(
    report: Report, run: LoadedConfig, *, full: bool, workers: int = 1, names: Sequence[str] = READ_BY_TRAINING
) -> None:
    """Checks the files of some splits of a config and their batches, and adds the results to the report.

    Args:
        report: receives the results.
        run: from :func:`rdistill.config.load.load_run`.
        full: decode every file; see :func:`rdistill.checks.data.inspect_data`.
        workers: number of workers that a training batch is divided among.
        names: names of the splits: 'train', 'val', 'test'.
    """
    cfg = run.cfg
    splits = data_splits(cfg, names)
    data = inspect_data(splits, full=full)
    problems = data.problems or check_batches(cfg, data.sizes, workers=workers)
    report.notes += data.notes
    if not problems and (note := aspect_note(cfg, data.sizes)):
        report.notes.append(note)
    report.layouts += describe_layouts(splits)
    report.add("data", problems, describe_data(splits))
    if "train" in names:
        problems, summary = inspect_unlabeled(run, full=full)
        if problems or summary:
            report.add("unlabeled", problems, summary)
        report.notes += unlabeled_notes(run)


def build_or_report(run: LoadedConfig, report: Report, *, seed: int, trust_checkpoint: bool) -> Distiller | None:
    """Builds student, teachers and losses; if that fails, reports all their problems and returns None."""
    try:
        distiller = build_distiller(run, seed=seed, trust_checkpoint=trust_checkpoint)
    except Exception as error:  # layers that do not fit each other raise PyTorch's errors at the first run
        student, problems = _diagnose(run, trust_checkpoint)
        first = list(error.problems) if isinstance(error, UserError) else [f"models: {error_line(error)}"]
        report.add("models", problems or first, "")
        if student is not None:
            report.add("classes", check_classes(run.cfg, student), str(num_classes(student)))
        return None
    if run.cfg.get("load_from"):
        try:
            start = start_weights(distiller.student, run.cfg.load_from, trust=trust_checkpoint)
            report.add("load_from", [], start.report)
        except UserError as error:
            report.add("load_from", error.problems, "")
    loaded = sum(not isinstance(teacher, EmaTeacher) for teacher in distiller.teachers)
    report.add("models", [], "the student builds" + (f", {counted(loaded, 'teacher')} loaded" if loaded else ""))
    return distiller


def _diagnose(run: LoadedConfig, trust_checkpoint: bool) -> tuple[nn.Module | None, list[str]]:
    """Returns the student (or None), and all problems of student, teachers, feature names, pairs and losses."""
    spec = run.distill
    try:
        student = revert_sync_batchnorm(
            build_segmentor(run.cfg.model, what="student", trust_checkpoint=trust_checkpoint)
        )
    except UserError as error:
        return None, list(error.problems)
    if spec is None:
        return student, []
    problems: list[str] = []
    teachers: list[nn.Module] = []
    for index, teacher_spec in enumerate(spec.teachers):
        try:
            teachers.append(
                student
                if teacher_spec.ema_decay is not None
                else _teacher(teacher_spec, index, trust_checkpoint, problems)
            )
        except UserError as error:
            return student, [*problems, *error.problems]
    try:
        problems += check_pairs(spec, student, teachers, training_size(run.cfg))
    except UserError as error:
        problems += error.problems
    return student, [*problems, *_loss_problems(spec, student, teachers)]


def _teacher(spec: TeacherSpec, index: int, trust_checkpoint: bool, problems: list[str]) -> nn.Module:
    """Loads a teacher; if its weights are missing or do not fit, builds it without them and adds a problem."""
    try:
        if spec.checkpoint is None or Path(spec.checkpoint).is_file():
            return load_teacher_model(spec, trust_checkpoint=trust_checkpoint)
        problems.append(f"distill.teachers[{index}]{NO_CHECKPOINT} {spec.checkpoint}")
    except UserError as error:
        teacher = build_teacher(spec, trust_checkpoint)  # raises the problems of the model itself
        problems += [f"distill.teachers[{index}].checkpoint: {problem}" for problem in error.problems]
        return teacher
    return build_teacher(spec, trust_checkpoint)


def _loss_problems(spec: DistillSpec, student: nn.Module, teachers: Sequence[nn.Module]) -> list[str]:
    """Returns the problems of each loss on logits: missing outputs, different classes."""
    problems: list[str] = []
    labels = labels_of(student)
    student_heads, teacher_heads = (
        logit_names(student, training=True),
        [logit_names(teacher, training=False) for teacher in teachers],
    )
    for name, loss in spec.losses.items():
        if loss.pair is not None:
            continue  # check_pairs reports features that cannot be compared; adapters fit channels
        try:
            route = with_class_maps(name, make_route(name, loss, spec, student_heads, teacher_heads), teachers)
            build_term(name, loss, channels_of_logits(name, route, student, teachers), labels, route.classes)
        except UserError as error:
            problems += error.problems
    return problems


def _describe_classes(distiller: Distiller) -> str:
    student = num_classes(distiller.student)
    teachers = ", ".join(
        str(num_classes(teacher.model)) if gives_logits(teacher.model) else "none (features alone)"
        for teacher in distiller.teachers
    )
    return f"{student} of the student" + (f", {teachers} of the teachers" if teachers else "")


def check_optimizer(distiller: Distiller, cfg: Config) -> list[str]:
    """Returns the problems of building the config's optimizer."""
    try:
        build_optimizer(cfg, distiller)
    except UserError as error:
        return list(error.problems)
    return []


def _add_step(report: Report, run: LoadedConfig, distiller: Distiller, workers: int, seed: int) -> None:
    total = int(run.cfg.train_dataloader.batch_size)
    if total % workers:
        text = f"train_dataloader.batch_size: {total} images do not divide among {workers} workers; set --batch-size"
        report.add("step", [text], "")
        return
    images = max(1, min(IMAGES, total // workers))
    try:
        batch = tiny_batch(run, images, seed)
    except UserError as error:
        report.add("step", list(error.problems), "")
        return
    problems = check_batch(distiller, run.cfg, batch, workers=workers)
    if not problems:
        report.notes += class_map_notes(distiller, batch)
    done = f"forward and backward on {counted(images, 'image')} give finite losses and gradients"
    report.add("step", problems, done)


def _bytes(tensors: Any) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors if isinstance(tensor, Tensor))

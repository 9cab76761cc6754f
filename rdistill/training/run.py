"""Trains one run, from a loaded config to ``metrics.json`` and ``student.pth``.

It runs in the current process; each worker of a Ray Train group calls it, too.
"""

from __future__ import annotations

import copy
import logging
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.config import Config
from mmengine.dist import get_world_size, is_main_process
from mmengine.logging import MMLogger
from mmengine.model import revert_sync_batchnorm
from mmengine.runner import Runner
from torch import nn

from rdistill._compat.mmengine import config_dict
from rdistill.checks.run import Report, add_data, check_run
from rdistill.config.load import LoadedConfig
from rdistill.config.overrides import INIT_SEED, lookup
from rdistill.core.errors import UserError
from rdistill.core.failures import readable_errors
from rdistill.core.files import write_json
from rdistill.core.stopping import Stopped, StopRequest
from rdistill.core.storage import Sending, is_uri, open_work_dir
from rdistill.data.splits import LOADERS
from rdistill.data.unlabeled import describe_images
from rdistill.distill.distiller import Distiller, build_distiller
from rdistill.distill.teacher import EmaTeacher
from rdistill.distributed import collectives
from rdistill.models import checkpoint
from rdistill.models.pretrained import start_weights
from rdistill.models.segmentor import build_segmentor, why_unscored
from rdistill.models.task_loss import average_over_workers
from rdistill.schemas.mappings import ConfigValues
from rdistill.schemas.run import CacheUse, RunFacts, RunMetrics, Scores, StoreUse
from rdistill.schemas.store import VIEWS
from rdistill.training.diagnosis import DiagnosisHook
from rdistill.training.evaluation import evaluate, use_class_iou
from rdistill.training.hooks import CheckpointHook, ReportHook, RunListener, Silent, StepClock, StopHook
from rdistill.training.lockstep import Lane
from rdistill.training.model_card import write_run_card
from rdistill.training.resume import (
    PREVIOUS,
    EarlierRun,
    best_so_far,
    find_earlier_run,
    finished_metrics,
    refuse_different_run,
    refuse_overwriting,
    repair,
)
from rdistill.training.run_state import RunStateHook, unwrap
from rdistill.training.runner import build_runner, checkpoint_interval, prepare_config, release
from rdistill.training.student_files import write_config, write_student
from rdistill.training.teacher_plan import (
    Plan,
    apply_plan,
    cache_facts,
    choose_plan,
    store_facts,
    store_lines,
    total_kept_counts,
    with_plan,
)


@dataclass(frozen=True)
class RunOptions:
    """How a run is trained, beside its config. Functions that train pass this object on unchanged."""

    seed: int = 0  # draws weights (unless `randomness.init_seed` is set), data order, augmentation and dropout
    resume: bool = False  # continue from `last.pth` if it exists
    trust_checkpoint: bool = False  # allow the teacher's checkpoint to run code when it is loaded
    teacher_metrics: Sequence[Scores] | None = None  # the scores of each teacher; None: they are measured
    swept: Mapping[str, Any] = field(default_factory=dict)  # config key -> value that the built model must use
    lane: Lane | None = None  # this run's lane if several runs train in lockstep
    check: bool = True  # False if the run has been checked already, as in a sweep
    stop: StopRequest | None = None  # checked after each iteration
    by_image: bool = False  # whether the listener gets the score of each image at a validation


def train(
    config: Config | LoadedConfig, work_dir: str | Path, *, listener: RunListener | None = None, **options: Any
) -> RunMetrics:
    """Like :func:`train_run`, but takes the fields of :class:`RunOptions` as keyword arguments."""
    return train_run(LoadedConfig.of(config), work_dir, RunOptions(**options), listener or Silent())


def train_run(run: LoadedConfig, work_dir: str | Path, options: RunOptions, listener: RunListener) -> RunMetrics:
    """Trains one student in this process, which may be one of an existing ``torch.distributed`` process group.

    Args:
        run: from :func:`rdistill.config.load.load_run`.
        work_dir: a folder or a URI (see :mod:`rdistill.core.storage`). The files written there are ``metrics.json``,
            ``student.pth``, ``student.py``, ``best.pth``, ``last.pth``, ``config.py``, ``model_card.md``, and
            mmengine's logs in a folder named by the time of the start.
        options: seed, resume and so on.
        listener: is notified of the progress.

    Returns:
        The content of ``metrics.json``: the scores of ``student.pth``, which is the student of the best validation.

    Raises:
        UserError: a mistake in the config, found before the first iteration; or the work dir holds another run.
        DivergedError, StorageError, OutOfMemoryError: the training failed; the last good checkpoint remains.
        Stopped: ``options.stop`` received a signal; ``student.pth`` is the best student so far.
    """
    if is_uri(work_dir):
        with open_work_dir(work_dir, "*") as here:
            try:
                return train_run(run, here.folder, options, Sending(listener, here))
            finally:
                if is_main_process():
                    here.push()
    work_dir = Path(work_dir).absolute()
    if get_world_size() == 1:  # the driver of a group has done this before any worker could write
        metrics = check_work_dir(work_dir, run.cfg, options.seed, options.resume, listener)
        if metrics is not None:
            return metrics
    try:
        with readable_errors(work_dir, run.cfg.train_dataloader.batch_size // get_world_size()):
            earlier = find_earlier_run(work_dir) if options.resume else EarlierRun(None, False)
            return _train(run, work_dir, earlier, options, listener)
    except Stopped as stopped:
        if is_main_process() and stopped.best:
            write_student(run.cfg, work_dir)
        raise


def _train(
    run: LoadedConfig, work_dir: Path, earlier: EarlierRun, options: RunOptions, listener: RunListener
) -> RunMetrics:
    """Like :func:`train_run`, after :func:`check_work_dir`."""
    seed, lane = options.seed, options.lane
    started = time.perf_counter()
    for note in earlier.notes:
        listener.noted(note)
    cfg = prepare_config(run, work_dir, seed, earlier.last)
    # Warnings stay unchanged in lockstep: where they go is a setting of the whole process.
    with _warnings_to_file(work_dir) if lane is None else nullcontext():
        built = _build(run, cfg, work_dir, options, listener)
        run, cfg, distiller = built.run, built.cfg, built.distiller
        best = best_so_far(work_dir) if earlier.last and earlier.best_is_sound else None
        checkpoint_hook = CheckpointHook(checkpoint_interval(cfg), best)
        clock = StepClock() if lane is None else None  # a lane measures the seconds of its run itself
        facts = built.facts(clock)
        stop = StopHook(options.stop or StopRequest(), checkpoint_hook)
        diagnosis = _diagnosis_hook(run, seed, lane)
        report_hook = ReportHook(listener, facts, diagnosis=diagnosis, by_image=options.by_image)
        more = [hook for hook in (diagnosis, clock) if hook is not None]
        runner = build_runner(
            cfg, distiller, seed, checkpoint_hook=checkpoint_hook, report=report_hook, stop=stop, lane=lane, more=more
        )
        if is_main_process():
            write_config(run.cfg, work_dir / "config.py", seed)
        try:
            facts["effective"] = _check_effective(runner, cfg, options.swept)
            measured = options.teacher_metrics
            _add_teachers_scores(facts, score_teachers(distiller, cfg) if measured is None else measured)
            facts["best_mIoU"] = checkpoint_hook.best.get("metrics", Scores()).get("mIoU")
            kept_before = total_kept_counts(distiller)
            runner.train()
            cache, store = cache_facts(distiller, kept_before), store_facts(distiller, kept_before)
        finally:
            release(runner)
    metrics = _summary(checkpoint_hook, cfg, seed, time.perf_counter() - started, facts, cache)
    _add_measurements(metrics, store, diagnosis, distiller)
    if is_main_process():
        _write_results(run, work_dir, metrics)
    return metrics


@dataclass(frozen=True)
class _Built:
    """A run whose model is built and checked, and whose teachers are computed as its plan says."""

    run: LoadedConfig  # the user's config, with the plan
    cfg: Config  # the Runner's config
    distiller: Distiller
    plan: Plan | None  # None if the teachers run in a lane, or if there is none

    def facts(self, clock: StepClock | None) -> RunFacts:
        """What is known about the run before it is trained."""
        facts: RunFacts = {
            "teacher_lines": (*self.plan.lines, *store_lines(self.distiller)) if self.plan else (),
            "images": describe_images(self.run),
        }
        if self.distiller.start is not None:
            facts["student_start"] = f"{self.distiller.start.report} from {self.run.cfg.load_from}"
        if clock is not None:
            facts["clock"] = clock
        return facts


def _build(run: LoadedConfig, cfg: Config, work_dir: Path, options: RunOptions, listener: RunListener) -> _Built:
    """Builds and checks the model of a run; ``cfg`` is from :func:`rdistill.training.runner.prepare_config`."""
    distiller = _build_with_start_weights(run, cfg, options)
    if options.check:
        _check_on_all_workers(run, distiller, work_dir, options, listener)
    plan = None
    if options.lane is None and distiller.teachers:
        plan = choose_plan(distiller, run, work_dir)
        run, cfg = with_plan(run, plan), with_plan(LoadedConfig(cfg, run.distill), plan).cfg
        apply_plan(distiller, run.distillation, work_dir, plan.patience)
    if get_world_size() > 1:
        average_over_workers(distiller.student)
    return _Built(run, cfg, distiller, plan)


def _build_with_start_weights(run: LoadedConfig, cfg: Config, options: RunOptions) -> Distiller:
    """Builds the model of a run; its student has the weights of ``load_from``, unless a resume replaces them."""
    trust = options.trust_checkpoint
    distiller = build_distiller(run, seed=cfg.randomness.init_seed, trust_checkpoint=trust, source=options.lane)
    start_from = run.cfg.get("load_from")
    if start_from and not cfg.resume:
        distiller.start = start_weights(distiller.student, start_from, trust=trust)
    return distiller


def _check_on_all_workers(
    run: LoadedConfig, distiller: Distiller, work_dir: Path, options: RunOptions, listener: RunListener
) -> None:
    """Checks a built run before it is trained.

    Raises:
        UserError: the mistakes that any worker has found, on all workers: one that went on would wait for the others.
    """
    report = check_run(
        run,
        distiller=distiller,
        work_dir=work_dir,
        workers=get_world_size(),
        seed=options.seed,
        trust_checkpoint=options.trust_checkpoint,
        with_data=is_main_process(),
    )
    for note in report.notes:
        listener.noted(note)
    by_worker = collectives.gather_objects(report.problems)
    if problems := dict.fromkeys(problem for reported in by_worker for problem in reported):
        raise UserError(*problems)


def _diagnosis_hook(run: LoadedConfig, seed: int, lane: Lane | None) -> DiagnosisHook | None:
    """The hook that measures ``distill.diagnose``; None if this is off."""
    diagnose = run.distill.diagnose if run.distill is not None else None
    return DiagnosisHook(run.distillation, seed, lane) if diagnose is not None and diagnose.batches else None


def _add_teachers_scores(facts: RunFacts, scores: Sequence[Scores]) -> None:
    facts["teacher_mIoU"] = scores[0].get("mIoU") if scores else None
    if len(scores) > 1:
        facts["teachers_mIoU"] = [of_teacher.get("mIoU") for of_teacher in scores]


def _add_measurements(
    metrics: RunMetrics, store: StoreUse, diagnosis: DiagnosisHook | None, distiller: Distiller
) -> None:
    """Adds what was measured during the training: the use of the store, the last diagnosis, the losses' weights."""
    if store:
        metrics["teacher_store"] = store
    if diagnosis is not None and diagnosis.entries:
        metrics["diagnosis"] = diagnosis.entries[-1]
    if distiller.measured:
        metrics["weights"] = {name: weight.weight for name, weight in distiller.measured.items()}
        metrics["weights_measured"] = {name: list(weight.measured) for name, weight in distiller.measured.items()}


def _write_results(run: LoadedConfig, work_dir: Path, metrics: RunMetrics) -> None:
    """Writes the files of a finished run; ``metrics.json`` is among the last, because it marks the run as finished."""
    write_student(run.cfg, work_dir)
    write_run_card(run, work_dir, metrics)
    write_json(work_dir / "metrics.json", metrics)
    (work_dir / PREVIOUS).unlink(missing_ok=True)


def check_work_dir(work_dir: Path, cfg: Config, seed: int, resume: bool, listener: RunListener) -> RunMetrics | None:
    """Checks the content of a work dir before a run writes to it.

    Returns:
        The metrics of a resumed run that is finished already; None if there is something to train.

    Raises:
        UserError: the work dir holds a run that would be overwritten, or one that differs from this run.
    """
    refuse_overwriting(work_dir, resume)
    if not resume:
        return None
    repair(work_dir, listener.noted)
    refuse_different_run(work_dir, cfg, seed)
    metrics = finished_metrics(work_dir, cfg)
    if metrics is not None:
        listener.noted(f"{work_dir}: finished already, at iteration {metrics['iter']}: nothing is left to do")
    return metrics


def check_evaluation(cfg: Config, split: str) -> list[str]:
    """Checks the files that scoring on a split reads, before the model is built.

    Returns:
        Notes for the user, one line each.

    Raises:
        UserError: mistakes in the files or the config, one line each.
    """
    if cfg.get(LOADERS[split]) is None:
        raise UserError(f"{cfg.filename}: has no {LOADERS[split]} to score on")
    report = Report()
    add_data(report, LoadedConfig.of(cfg), full=False, names=(split,))
    report.raise_problems()
    return report.notes


def evaluate_checkpoint(
    cfg: Config,
    checkpoint_file: str | Path,
    *,
    split: str = "val",
    trust_checkpoint: bool = False,
    by_image: list[tuple[str, np.ndarray]] | None = None,
) -> Scores:
    """Scores a checkpoint (rdistill's or mmseg's) of a config's student on its ``val`` or ``test`` split.

    ``by_image`` and the returned scores are those of :func:`rdistill.training.evaluation.evaluate`.
    """
    model = revert_sync_batchnorm(build_segmentor(cfg.model, trust_checkpoint=trust_checkpoint))
    checkpoint.load_weights(model, checkpoint_file, trust=trust_checkpoint)
    return evaluate_model(model, cfg, split=split, by_image=by_image)


def evaluate_model(
    model: nn.Module, cfg: Config, *, split: str, by_image: list[tuple[str, np.ndarray]] | None = None
) -> Scores:
    """Like :func:`evaluate_checkpoint`, but for a model that has its weights already."""
    cfg = copy.deepcopy(cfg)
    use_class_iou(cfg)
    model.to("cuda" if torch.cuda.is_available() else "cpu")
    with _quiet_evaluation():
        return evaluate(model, cfg, split=split, by_image=by_image)


def score_teachers(distiller: Distiller, cfg: Config) -> list[Scores]:
    """Scores each teacher on the student's validation data; an empty entry for a teacher that cannot be scored."""
    return [
        {} if isinstance(teacher, EmaTeacher) or why_unscored(teacher.model, distiller.student)
        else evaluate(teacher.model, cfg)
        for teacher in distiller.teachers
    ]  # fmt: skip


def evaluate_teachers(distiller: Distiller, cfg: Config) -> list[Scores]:
    """Like :func:`score_teachers`, but outside of a run."""
    cfg = copy.deepcopy(cfg)
    use_class_iou(cfg)
    with _quiet_evaluation():
        for teacher in distiller.teachers:
            teacher.model.to("cuda" if torch.cuda.is_available() else "cpu")
        return score_teachers(distiller, cfg)


@contextmanager
def _quiet_evaluation() -> Iterator[None]:
    """Silences mmseg's log and warnings: outside of a run there is no log file for them."""
    MMLogger.get_instance(f"rdistill-eval-{time.time_ns()}", log_level="ERROR")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _check_effective(runner: Runner, cfg: Config, swept: Mapping[str, Any]) -> ConfigValues:
    """Reads every swept value back from the built model, optimizer and config.

    Returns:
        Config key -> value in use: of all distillation keys, and of the swept keys.

    Raises:
        UserError: the built run does not use a swept value.
    """
    distiller = unwrap(runner)
    distill_values = {**distiller.effective_values(), **_views(cfg)}
    effective = {**distill_values, **_optimizer_values(runner), **_init_seed(runner)}
    read: ConfigValues = {}
    lost = []
    for key, wanted in _leaves(swept).items():
        read[key] = effective[key] if key in effective else _read_back(key, distiller.student, cfg)
        if _comparable(read[key]) != _comparable(wanted):
            lost.append(f"{key}: the sweep set {wanted!r}, but the built run uses {read[key]!r}")
    if lost:
        raise UserError(*lost)
    return {**distill_values, **read}


def _views(cfg: Config) -> dict[str, int]:
    """The number of views of each image, if the data stream has a fixed number; a student alone may have it, too."""
    views = cfg.train_dataloader.dataset.get("views")
    return {} if views is None else {VIEWS: int(views)}


def _leaves(values: Mapping[str, Any]) -> ConfigValues:
    """Flattens swept sections, such as a whole loss, to dotted keys; a loss that was removed (None) has no key."""
    flat: ConfigValues = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            flat.update(_leaves({f"{key}.{inner}": item for inner, item in value.items()}))
        elif value is not None or not key.startswith("distill.losses."):
            flat[key] = value
    return flat


def _optimizer_values(runner: Runner) -> ConfigValues:
    """The values that the built optimizer uses, such as ``lr``, by their config keys."""
    wrapper = runner.optim_wrapper
    values = {f"optim_wrapper.optimizer.{name}": value for name, value in wrapper.optimizer.defaults.items()}
    return {**values, "optim_wrapper.optimizer.type": type(wrapper.optimizer).__name__}


def _init_seed(runner: Runner) -> dict[str, int]:
    return {INIT_SEED: next(hook.init_seed for hook in runner.hooks if isinstance(hook, RunStateHook))}


def _read_back(key: str, student: nn.Module, cfg: Config) -> Any:
    """The value of a key: an attribute of the built student if it has one, otherwise from the Runner's config."""
    if key.startswith("model."):
        node: Any = student
        for part in key.split(".")[1:]:
            node = getattr(node, part, None)
        if isinstance(node, (bool, int, float, str, tuple, list)):
            return node
    try:
        return lookup(config_dict(cfg), key.lstrip("+"))
    except KeyError:
        return None


def _comparable(value: Any) -> Any:
    return [_comparable(item) for item in value] if isinstance(value, (list, tuple)) else value


def _summary(
    checkpoint_hook: CheckpointHook, cfg: Config, seed: int, seconds: float, facts: RunFacts, cache: CacheUse
) -> RunMetrics:
    best, last = checkpoint_hook.best, checkpoint_hook.last
    summary: RunMetrics = {
        **best.get("metrics", {}),
        "iter": last.get("iter"),  # type: ignore[typeddict-item]  # validated at the latest at its end
        "best_iter": best.get("iter"),  # type: ignore[typeddict-item]
        "last": last.get("metrics"),
        "seed": seed,
        "seconds": round(seconds, 2),
    }
    if cfg.get("distill") is not None:
        if "teacher_mIoU" in facts:
            summary["teacher_mIoU"] = facts["teacher_mIoU"]
        if "teachers_mIoU" in facts:
            summary["teachers_mIoU"] = facts["teachers_mIoU"]
        if cache:
            summary["teacher_cache"] = cache
    return summary


@contextmanager
def _warnings_to_file(work_dir: Path) -> Iterator[None]:
    """Sends Python warnings to ``warnings.log``: mmseg and mmengine raise many, and none of them is for the user."""
    work_dir.mkdir(parents=True, exist_ok=True)
    handler = logging.FileHandler(work_dir / "warnings.log", delay=True)
    logger = logging.getLogger("py.warnings")
    logger.addHandler(handler)
    propagate, logger.propagate = logger.propagate, False
    logging.captureWarnings(True)
    try:
        yield
    finally:
        logging.captureWarnings(False)
        logger.propagate = propagate
        logger.removeHandler(handler)
        handler.close()

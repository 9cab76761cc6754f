"""One run, from a loaded config to ``metrics.json`` and ``student.pth``: in this process, or in Ray Train workers."""

from __future__ import annotations

import copy
import json
import logging
import os
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config
from mmengine.dist import get_world_size, is_main_process
from mmengine.logging import MessageHub, MMLogger
from mmengine.model import revert_sync_batchnorm
from mmengine.optim import OptimWrapper, build_optim_wrapper
from mmengine.runner import Runner
from mmengine.visualization import Visualizer
from torch import nn

from rdistill import checkpoint
from rdistill.config import lookup
from rdistill.data import datasets as _datasets  # noqa: F401  registers the stream's sampler and dataset
from rdistill.distiller import Distiller, build_distiller
from rdistill.errors import UserError
from rdistill.evaluation import evaluate, use_class_iou
from rdistill.hooks import (
    METRIC,
    CheckpointHook,
    DivergenceHook,
    EmaTeacherHook,
    FeatureCaptureHook,
    Listener,
    RandomStateHook,
    ReportHook,
    Silent,
    WeightScheduleHook,
)
from rdistill.segmentor import build_segmentor
from rdistill.teacher import EmaTeacher


def train(
    cfg: Config,
    work_dir: str | Path,
    *,
    seed: int = 0,
    resume: bool = False,
    trust_checkpoint: bool = False,
    teacher_metrics: Sequence[Mapping[str, Any]] | None = None,
    swept: Mapping[str, Any] | None = None,
    listener: Listener | None = None,
) -> dict[str, Any]:
    """Trains one student in this process (of one, or of a process group that exists already).

    Args:
        cfg: from :func:`rdistill.config.load_config`.
        work_dir: written to: ``metrics.json``, ``student.pth``, ``student.py``, ``best.pth``, ``last.pth``,
            ``config.py``, and mmengine's logs in a folder of the start's time.
        seed: of weights, data order, augmentation and dropout.
        resume: continue from ``last.pth`` if there is one.
        trust_checkpoint: allow the teacher's checkpoint to run code when it is loaded.
        teacher_metrics: each teacher's scores, if they are known already; measured otherwise.
        swept: config key -> value that a sweep chose; each must be what the built model really uses.
        listener: is told of progress.

    Returns:
        What ``metrics.json`` holds: the scores of ``student.pth``, which is the best iteration's.

    Raises:
        UserError: a mistake in the config, found before the first iteration.
        DivergedError: a loss became NaN or infinite.
    """
    work_dir = Path(work_dir).absolute()
    started = time.perf_counter()
    if get_world_size() == 1:  # of a group, the driver has looked before any worker could write
        refuse_overwriting(work_dir, resume)
    asked, start_from = cfg, cfg.get("load_from")
    cfg = _prepare(cfg, work_dir, seed, resume)
    with _own_log(work_dir):
        distiller = build_distiller(cfg, seed=seed, trust_checkpoint=trust_checkpoint)
        if start_from and not cfg.resume:
            distiller.start = checkpoint.matching_weights(distiller.student, start_from, trust=trust_checkpoint)
        keeper = CheckpointHook(interval=_checkpoint_interval(cfg))
        facts: dict[str, Any] = {"effective": _check_effective(distiller, cfg, swept or {})}
        if distiller.start is not None:
            facts["student_start"] = f"{distiller.start.report} from {start_from}"
        runner = _build_runner(cfg, distiller, seed, keeper, ReportHook(listener or Silent(), facts))
        if is_main_process():
            _dump(asked, work_dir / "config.py", seed)
        try:
            if teacher_metrics is None:
                teacher_metrics = score_teachers(distiller, cfg)
            facts["teacher_mIoU"] = teacher_metrics[0].get(METRIC) if teacher_metrics else None
            if len(teacher_metrics) > 1:
                facts["teachers_mIoU"] = [scores.get(METRIC) for scores in teacher_metrics]
            runner.train()
        finally:
            _release(runner)
    metrics = _summary(keeper, cfg, seed, time.perf_counter() - started, facts)
    if is_main_process():
        write_student(asked, work_dir)
        write_json(work_dir / "metrics.json", metrics)
    return metrics


def evaluate_checkpoint(
    cfg: Config, checkpoint_file: str | Path, *, split: str = "val", trust_checkpoint: bool = False
) -> dict[str, Any]:
    """Scores a checkpoint (rdistill's or mmseg's) of a config's student on its ``val`` or ``test`` split."""
    cfg = copy.deepcopy(cfg)
    use_class_iou(cfg)
    model = revert_sync_batchnorm(build_segmentor(cfg.model))
    checkpoint.load_weights(model, checkpoint_file, trust=trust_checkpoint)
    model.to("cuda" if torch.cuda.is_available() else "cpu")
    with _quiet_evaluation():
        return evaluate(model, cfg, split=split)


def score_teachers(distiller: Distiller, cfg: Config) -> list[dict[str, Any]]:
    """Scores each teacher on the student's validation data; nothing for one that follows the student."""
    return [{} if isinstance(teacher, EmaTeacher) else evaluate(teacher.model, cfg) for teacher in distiller.teachers]


def evaluate_teachers(distiller: Distiller, cfg: Config) -> list[dict[str, Any]]:
    """As :func:`score_teachers`, outside a run."""
    cfg = copy.deepcopy(cfg)
    use_class_iou(cfg)
    with _quiet_evaluation():
        for teacher in distiller.teachers:
            teacher.model.to("cuda" if torch.cuda.is_available() else "cpu")
        return score_teachers(distiller, cfg)


@contextmanager
def _quiet_evaluation() -> Iterator[None]:
    """Outside a run there is no log file to take what mmseg has to say."""
    MMLogger.get_instance(f"rdistill-eval-{time.time_ns()}", log_level="ERROR")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def write_student(cfg: Config, work_dir: Path) -> None:
    """Writes ``student.pth`` and ``student.py``: the best student alone, as plain mmseg loads it."""
    best = checkpoint.load_file(work_dir / "best.pth")
    model = build_segmentor(cfg.model)
    model.load_state_dict(checkpoint.model_weights(best))
    dataset = best["meta"].get("dataset_meta") or {}
    meta = {
        "iter": best["meta"]["iter"],
        "seed": best["meta"]["seed"],
        METRIC: best["meta"]["best"]["metrics"].get(METRIC),
    }
    classes, palette = list(dataset.get("classes") or ()), list(dataset.get("palette") or ())
    checkpoint.save_student(model, work_dir / "student.pth", classes=classes, palette=palette, meta=meta)
    plain_config(cfg).dump(work_dir / "student.py")


def plain_config(cfg: Config) -> Config:
    """The student's config without rdistill: what plain mmseg trains, tests and runs."""
    plain = copy.deepcopy(cfg._cfg_dict.to_dict())
    for key in ("distill", "work_dir", "custom_hooks", "experiment_name", "launcher", "randomness"):
        plain.pop(key, None)
    dataset = plain["train_dataloader"]["dataset"]
    if dataset.get("type") == "StreamDataset":
        plain["train_dataloader"]["dataset"] = dataset["dataset"]
        plain["train_dataloader"]["sampler"] = dict(type="InfiniteSampler", shuffle=True)
    for evaluator in ("val_evaluator", "test_evaluator"):
        metrics = plain.get(evaluator)
        for metric in metrics if isinstance(metrics, list) else [metrics]:
            if metric and metric.get("type") == "ClassIoUMetric":
                metric["type"] = "IoUMetric"
    # mmseg.apis.inference_model reads this one; a variable of that name may be older than --size.
    plain["test_pipeline"] = copy.deepcopy(plain["val_dataloader"]["dataset"].get("pipeline"))
    return Config(plain)


def write_json(path: Path, value: Any) -> None:
    """Writes a file of JSON, whole or not at all."""
    partial = path.with_name(f".{path.name}.partial")
    partial.write_text(json.dumps(value, indent=2) + "\n")
    os.replace(partial, path)


def refuse_overwriting(work_dir: Path, resume: bool) -> None:
    """Raises UserError where a run's files would be written over."""
    if not resume and ((work_dir / "last.pth").exists() or (work_dir / "metrics.json").exists()):
        raise UserError(f"{work_dir}: holds a run already; pass --resume to continue it, or another --work-dir")


def _prepare(cfg: Config, work_dir: Path, seed: int, resume: bool) -> Config:
    """The config as the Runner takes it: one data stream, our metric and the world's share of the batch."""
    cfg = copy.deepcopy(cfg)
    world_size = get_world_size()
    loader = cfg.train_dataloader
    if loader.batch_size % world_size:
        raise UserError(
            f"train_dataloader.batch_size: {loader.batch_size} images do not divide among {world_size} workers"
        )
    loader.batch_size //= world_size
    if loader.dataset.type != "StreamDataset":
        loader.dataset = dict(type="StreamDataset", dataset=loader.dataset)
    loader.dataset.seed = seed
    by_epoch = cfg.train_cfg.get("max_iters") is None
    shuffle = loader.sampler.get("shuffle", True) if isinstance(loader.get("sampler"), dict) else True
    loader.sampler = dict(type="StreamSampler", seed=seed, shuffle=shuffle, epochs=by_epoch)
    use_class_iou(cfg)
    for option in ("activation_checkpointing", "efficient_conv_bn_eval"):  # mmengine's, by layer name
        if cfg.get(option):
            names = [cfg[option]] if isinstance(cfg[option], str) else cfg[option]
            cfg[option] = [f"student.{name}" for name in names]
    last = work_dir / "last.pth"
    cfg.resume = resume and last.is_file()
    # The Distiller loads a student's start itself: the Runner would look for its own names in it.
    cfg.load_from = f"{checkpoint.SAFE_SCHEME}{last}" if cfg.resume else None
    cfg.work_dir = str(work_dir)
    cfg.randomness = dict(seed=seed)
    if world_size > 1:
        cfg.launcher = "pytorch"
        if not torch.cuda.is_available():
            cfg.model_wrapper_cfg = dict(
                type="MMDistributedDataParallel", device_ids=None, broadcast_buffers=False, find_unused_parameters=False
            )
    return cfg


def _dump(cfg: Config, path: Path, seed: int) -> None:
    """Writes the config as it was asked for, so that a run of it is this run again, on any number of workers."""
    cfg = Config({**cfg._cfg_dict.to_dict(), "randomness": dict(seed=seed)})
    cfg.dump(path)


def _checkpoint_interval(cfg: Config) -> int | None:
    """The config's own CheckpointHook says how often; its place is then taken by ours."""
    hook = (cfg.get("default_hooks") or {}).get("checkpoint") or {}
    return hook.get("interval") if not hook.get("by_epoch", False) else None


class _QuickConfig(Config):
    """A config that is written at once: mmengine's formatter takes 0.1 s, and a Runner asks it at every checkpoint."""

    @property
    def pretty_text(self) -> str:
        return "".join(f"{key} = {value!r}\n" for key, value in self._cfg_dict.to_dict().items())


class _QuietRunner(Runner):
    """mmengine's Runner, logging to files only: the console is for progress."""

    def build_logger(self, *args: Any, **kwargs: Any) -> MMLogger:
        logger = super().build_logger(*args, **kwargs)
        logger.handlers = [handler for handler in logger.handlers if isinstance(handler, logging.FileHandler)]
        return logger

    def dump_config(self) -> None:
        """Not what a Runner was made to do here, with a worker's share of the batch and the like: see ``_dump``."""


def _build_runner(cfg: Config, distiller: Distiller, seed: int, keeper: CheckpointHook, report: ReportHook) -> Runner:
    default_hooks = {name: hook for name, hook in (cfg.get("default_hooks") or {}).items() if name != "checkpoint"}
    ours = [FeatureCaptureHook(), WeightScheduleHook(), EmaTeacherHook(), RandomStateHook(seed), DivergenceHook()]
    loops = ("train_dataloader", "val_dataloader", "train_cfg", "val_cfg", "val_evaluator")
    options = (*loops, "param_scheduler", "auto_scale_lr", "log_processor", "visualizer")
    runner = _QuietRunner(
        model=distiller,
        work_dir=cfg.work_dir,
        default_hooks={**default_hooks, "checkpoint": None},
        custom_hooks=[*(cfg.get("custom_hooks") or []), *ours, keeper, report],
        load_from=cfg.load_from,
        resume=cfg.resume,
        launcher=cfg.get("launcher", "none"),
        env_cfg=cfg.get("env_cfg") or dict(dist_cfg=dict(backend="nccl")),
        default_scope=cfg.get("default_scope", "mmseg"),
        randomness=cfg.randomness,
        # mmengine keeps loggers and the like in process-wide tables under this name.
        experiment_name=f"{Path(cfg.work_dir).name}-{time.time_ns()}",
        cfg=_QuickConfig(cfg._cfg_dict.to_dict()),
        optim_wrapper=dict(type="OptimWrapper"),  # takes its place below
        **{option: copy.deepcopy(cfg.get(option)) for option in options},
    )
    runner.optim_wrapper = _optimizer(cfg, distiller)
    return runner


def _optimizer(cfg: Config, distiller: Distiller) -> OptimWrapper:
    """The config's optimizer, made for the student as mmseg would; the losses' adapters join it as a group.

    A constructor that tells layers apart by name, such as layer-wise decay, so finds the names it knows.
    """
    wrapper = build_optim_wrapper(distiller.student, copy.deepcopy(cfg.optim_wrapper))
    adapters = list(distiller.terms.parameters())
    if adapters:
        wrapper.optimizer.add_param_group({"params": adapters})
    return wrapper


def _release(runner: Runner) -> None:
    """Stops the run's data workers, closes its log files and takes it out of mmengine's process-wide tables."""
    for loop in (runner._train_loop, runner._val_loop):
        # What holds an iterator: mmengine's endless one, and a loader whose workers persist.
        for holder in (getattr(loop, "dataloader_iterator", None), getattr(loop, "dataloader", None)):
            # Left to the garbage collector they live on after the run, and then take 5 s each to end.
            if stop := getattr(getattr(holder, "_iterator", None), "_shutdown_workers", None):
                stop()
    for handler in runner.logger.handlers:
        handler.close()
    for manager in (MMLogger, MessageHub, Visualizer):
        manager._instance_dict.pop(runner.experiment_name, None)
    # Configs name their visualizer, each class has a table: the next run's curves would go to this run's files.
    runner.visualizer.close()
    type(runner.visualizer)._instance_dict.pop(runner.visualizer.instance_name, None)


def _check_effective(distiller: Distiller, cfg: Config, swept: Mapping[str, Any]) -> dict[str, Any]:
    """Reads every swept value back from what was built.

    Raises:
        UserError: a value that did not arrive where it takes effect.
    """
    effective = distiller.effective_values()
    read: dict[str, Any] = {}
    lost = []
    for key, wanted in _leaves(swept).items():
        read[key] = effective[key] if key in effective else _read_back(key, distiller.student, cfg)
        if _comparable(read[key]) != _comparable(wanted):
            lost.append(f"{key}: the sweep set {wanted!r}, but the built run uses {read[key]!r}")
    if lost:
        raise UserError(*lost)
    return {**effective, **read}


def _leaves(values: Mapping[str, Any]) -> dict[str, Any]:
    """A swept section, such as a whole loss, is its keys; one that was taken out is nothing."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            flat.update(_leaves({f"{key}.{inner}": item for inner, item in value.items()}))
        elif value is not None or not key.startswith("distill.losses."):
            flat[key] = value
    return flat


def _read_back(key: str, student: nn.Module, cfg: Config) -> Any:
    """A value from the built student where it keeps it as an attribute; from the Runner's config otherwise."""
    if key.startswith("model."):
        node: Any = student
        for part in key.split(".")[1:]:
            node = getattr(node, part, None)
        if isinstance(node, (bool, int, float, str, tuple, list)):
            return node
    try:
        return lookup(cfg._cfg_dict, key.lstrip("+"))
    except KeyError:
        return None


def _comparable(value: Any) -> Any:
    return [_comparable(item) for item in value] if isinstance(value, (list, tuple)) else value


def _summary(
    keeper: CheckpointHook, cfg: Config, seed: int, seconds: float, facts: Mapping[str, Any]
) -> dict[str, Any]:
    best = keeper.best
    summary = {
        **best.get("metrics", {}),
        "iter": keeper.last.get("iter"),
        "best_iter": best.get("iter"),
        "last": keeper.last.get("metrics"),
        "seed": seed,
        "seconds": round(seconds, 2),
    }
    if cfg.get("distill") is not None:
        summary.update({key: facts[key] for key in ("teacher_mIoU", "teachers_mIoU") if key in facts})
    return summary


@contextmanager
def _own_log(work_dir: Path) -> Iterator[None]:
    """Sends Python's warnings to a file: mmseg and mmengine have many, and none is for the user."""
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

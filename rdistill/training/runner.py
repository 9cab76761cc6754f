"""Builds mmengine's Runner for rdistill: one data stream, rdistill's hooks, and a quiet console."""

from __future__ import annotations

import contextlib
import copy
import io
import logging
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import torch
from mmengine.config import Config
from mmengine.dist import get_world_size
from mmengine.hooks import Hook
from mmengine.logging import MessageHub, MMLogger
from mmengine.runner import Runner
from mmengine.visualization import Visualizer

from rdistill._compat.mmengine import (
    build_train_loop,
    build_val_loop,
    config_dict,
    instances,
    iterators_of,
    loops_of,
    set_loaders,
)
from rdistill._compat.torch import stop_data_workers
from rdistill.checks.dry_run import finds_unused_parameters
from rdistill.config.distill_spec import DistillSpec
from rdistill.config.load import LoadedConfig
from rdistill.config.render import literal
from rdistill.config.tracking import Tracking, parse_tracking
from rdistill.config.walk import kind_of
from rdistill.core.errors import UserError, blaming
from rdistill.data import datasets as _datasets  # noqa: F401  registers the stream's sampler and dataset
from rdistill.data.unlabeled import training_data
from rdistill.distill.distiller import Distiller
from rdistill.distill.optimizer import build_optimizer
from rdistill.models.pretrained import SAFE_SCHEME
from rdistill.schemas.mappings import PlainConfig
from rdistill.training.evaluation import split_validation_images, use_class_iou
from rdistill.training.hooks import (
    AccuracyHook,
    CheckpointHook,
    DivergenceHook,
    EmaTeacherHook,
    FeatureCaptureHook,
    ReportHook,
    StopHook,
    WeightScheduleHook,
    WeightShareHook,
)
from rdistill.training.run_state import RunStateHook
from rdistill.training.tracked_run import TrackingHook, track


class Lane(Protocol):
    """One run among several that train in lockstep; see :mod:`rdistill.training.lockstep`."""

    def loaders(self, cfg: Config) -> tuple[Any, Any]:
        """The loaders that replace the training and the validation loader."""


def prepare_config(config: Config | LoadedConfig, work_dir: Path, seed: int, last: Path | None) -> Config:
    """The config for the Runner: with the data stream, rdistill's metric and one worker's part of the batch.

    Args:
        config: the run's config.
        work_dir: the run's work dir.
        seed: the run's seed.
        last: the checkpoint to resume from; None starts from the beginning.

    Raises:
        UserError: the images of a batch do not divide among the workers.
    """
    run = LoadedConfig.of(config)
    cfg = copy.deepcopy(run.cfg)
    _use_stream(cfg, run.distill, seed)
    use_class_iou(cfg)
    if names := cfg.get("efficient_conv_bn_eval"):  # mmengine's, by layer name
        cfg.efficient_conv_bn_eval = [f"student.{name}" for name in ([names] if isinstance(names, str) else names)]
    cfg.resume = last is not None
    # The Distiller itself loads the weights that a student starts from: their names are not the Runner's.
    cfg.load_from = f"{SAFE_SCHEME}{last}" if cfg.resume else None
    cfg.work_dir = str(work_dir)
    cfg.randomness = dict(seed=seed, init_seed=(cfg.get("randomness") or {}).get("init_seed", seed))
    if get_world_size() > 1:
        split_validation_images(cfg)
        cfg.launcher = "pytorch"
        cfg.model_wrapper_cfg = wrapper_config(cfg)
    return cfg


def _use_stream(cfg: Config, distill: DistillSpec | None, seed: int) -> None:
    """Makes the training data, in place, the stream that depends on the seed alone, with one worker's part of a batch.

    Raises:
        UserError: the images of a batch do not divide among the workers.
    """
    world_size = get_world_size()
    loader = cfg.train_dataloader
    if loader.batch_size % world_size:
        raise UserError(
            f"train_dataloader.batch_size: {loader.batch_size} images do not divide among {world_size} workers"
        )
    data = training_data(LoadedConfig(cfg, distill))
    if data.per_batch % world_size:
        raise UserError(
            f"distill.unlabeled: {data.per_batch} images a batch do not divide among {world_size} workers; set "
            f"per_batch to a multiple of {world_size}"
        )
    labeled, unlabeled = loader.batch_size // world_size, data.per_batch // world_size
    loader.batch_size = labeled + unlabeled
    if kind_of(loader.dataset) != "StreamDataset":  # the baseline of a sweep with a store has one already, with views
        loader.dataset = dict(type="StreamDataset")
    loader.dataset.update(dataset=data.labeled, seed=seed)
    if distill is not None and (store := distill.store) is not None:
        loader.dataset.update(views=store.views, view_seed=store.seed)
    by_epoch = cfg.train_cfg.get("max_iters") is None
    shuffle = loader.sampler.get("shuffle", True) if isinstance(loader.get("sampler"), dict) else True
    loader.sampler = dict(type="StreamSampler", seed=seed, shuffle=shuffle, epochs=by_epoch)
    if unlabeled:
        loader.dataset.unlabeled = data.unlabeled
        loader.sampler.update(labeled=labeled, unlabeled=unlabeled)


def wrapper_config(cfg: Config) -> PlainConfig:
    """How the model of several workers is wrapped: as mmengine does from the same keys, but also on CPUs."""
    options = dict(cfg.get("model_wrapper_cfg") or {"find_unused_parameters": finds_unused_parameters(cfg)})
    if "DistributedDataParallel" not in str(options.get("type", "MMDistributedDataParallel")):
        return options  # another wrapper, such as FSDP, has other options
    wrapper = {"type": "MMDistributedDataParallel", "broadcast_buffers": False, **options}
    return wrapper if torch.cuda.is_available() else {**wrapper, "device_ids": None}


def checkpoint_interval(cfg: Config) -> int | None:
    """The interval, in iterations, of the config's own CheckpointHook, which rdistill's hook replaces."""
    hook = (cfg.get("default_hooks") or {}).get("checkpoint") or {}
    return hook.get("interval") if not hook.get("by_epoch", False) else None


class _QuickConfig(Config):
    """A config that is fast to write: mmengine's formatter takes 0.1 s, and a Runner calls it at every checkpoint."""

    @property
    def pretty_text(self) -> str:
        return "".join(f"{key} = {literal(value)}\n" for key, value in config_dict(self).to_dict().items())


class _QuietRunner(Runner):
    """mmengine's Runner, logging to files only: the console is for progress."""

    def build_logger(self, *args: Any, **kwargs: Any) -> MMLogger:
        logger = super().build_logger(*args, **kwargs)
        logger.handlers = [handler for handler in logger.handlers if isinstance(handler, logging.FileHandler)]
        return logger

    def load_checkpoint(self, *args: Any, **kwargs: Any) -> Any:
        with contextlib.redirect_stdout(io.StringIO()):  # mmengine prints here, which would spoil the output of --json
            return super().load_checkpoint(*args, **kwargs)

    def dump_config(self) -> None:
        """Writes nothing: this Runner's config is that of one worker. ``write_config`` writes the user's config."""


def build_runner(
    cfg: Config,
    distiller: Distiller,
    seed: int,
    *,
    checkpoint_hook: CheckpointHook,
    report: ReportHook,
    stop: StopHook,
    lane: Lane | None = None,
    more: Sequence[Hook] = (),
) -> Runner:
    """Builds the Runner of one run.

    Args:
        cfg: from :func:`prepare_config`.
        distiller: the model.
        seed: the run's seed.
        checkpoint_hook, report, stop: hooks that the caller keeps.
        lane: provides the batches for a run in lockstep; None builds loaders from the config.
        more: further hooks of this run.
    """
    hooks: list[Hook] = [
        FeatureCaptureHook(),
        WeightScheduleHook(),
        WeightShareHook(report.listener),
        EmaTeacherHook(),
        RunStateHook(**cfg.randomness),
        DivergenceHook(),
        AccuracyHook(report),
        *more,
    ]
    tracking = None if cfg.get("tracking") is None else parse_tracking(cfg.tracking)
    if tracking is not None:
        hooks.append(TrackingHook(tracking.images, report.listener))
    runner = _quiet_runner(cfg, distiller, seed, tracking, [*hooks, checkpoint_hook, report, stop])
    if lane is not None:
        with blaming("train_dataloader or val_dataloader"):
            set_loaders(runner, *lane.loaders(cfg))
    _build_before_training(runner, cfg, distiller)
    return runner


# Keys of a config that the Runner takes under the same names.
_RUNNER_KEYS = (
    "train_dataloader",
    "val_dataloader",
    "train_cfg",
    "val_cfg",
    "val_evaluator",
    "param_scheduler",
    "auto_scale_lr",
    "log_processor",
    "visualizer",
)


def _quiet_runner(
    cfg: Config, distiller: Distiller, seed: int, tracking: Tracking | None, hooks: Sequence[Hook]
) -> _QuietRunner:
    """A Runner whose loops, optimizer and schedulers are not built yet; ``hooks`` follow those of the config."""
    default_hooks = {name: hook for name, hook in (cfg.get("default_hooks") or {}).items() if name != "checkpoint"}
    # mmengine keeps loggers and visualizers in process-wide tables by name, so each run gets a name of its own.
    name = f"{Path(cfg.work_dir).name}-{time.time_ns()}"
    options = {key: copy.deepcopy(cfg.get(key)) for key in _RUNNER_KEYS}
    if tracking is not None:
        options["visualizer"] = track(options["visualizer"], tracking, Path(cfg.work_dir), cfg.resume)
    if options["visualizer"] is not None:
        options["visualizer"]["name"] = name
    return _QuietRunner(
        model=distiller,
        work_dir=cfg.work_dir,
        default_hooks={**default_hooks, "checkpoint": None},
        custom_hooks=[*(cfg.get("custom_hooks") or []), *hooks],
        load_from=cfg.load_from,
        resume=cfg.resume,
        launcher=cfg.get("launcher", "none"),
        env_cfg=cfg.get("env_cfg") or dict(dist_cfg=dict(backend="nccl")),
        default_scope=cfg.get("default_scope", "mmseg"),
        randomness=dict(seed=seed),
        experiment_name=name,
        # The Distiller checkpoints activations itself, so the Runner must not.
        cfg=_QuickConfig({**config_dict(cfg).to_dict(), "activation_checkpointing": None}),
        optim_wrapper=dict(type="OptimWrapper"),  # a placeholder, replaced by _build_before_training
        **options,
    )


def _build_before_training(runner: Runner, cfg: Config, distiller: Distiller) -> None:
    """Builds now what ``Runner.train`` would build later, so that mistakes show before the teacher is scored."""
    with blaming("train_cfg or train_dataloader"):
        build_train_loop(runner)
    with blaming("val_dataloader or val_evaluator"):
        build_val_loop(runner)
    runner.optim_wrapper = build_optimizer(cfg, distiller)
    if runner.param_schedulers is not None:
        with blaming("param_scheduler"):
            runner.param_schedulers = runner.build_param_scheduler(runner.param_schedulers)


def release(runner: Runner) -> None:
    """Stops the run's data workers, closes its log files and removes it from mmengine's process-wide tables."""
    for loop in loops_of(runner):
        for iterator in iterators_of(loop):
            stop_data_workers(iterator)
    for handler in runner.logger.handlers:
        handler.close()
    for manager in (MMLogger, MessageHub, Visualizer):
        instances(manager).pop(runner.experiment_name, None)
    runner.visualizer.close()
    instances(type(runner.visualizer)).pop(runner.visualizer.instance_name, None)

"""mmengine's Runner as rdistill uses it: one data stream, our hooks, and a quiet console."""

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
from rdistill.config.load import LoadedConfig
from rdistill.config.render import literal
from rdistill.config.tracking import parse_tracking
from rdistill.config.walk import kind_of
from rdistill.core.errors import UserError, blaming
from rdistill.data import datasets as _datasets  # noqa: F401  registers the stream's sampler and dataset
from rdistill.data.unlabeled import training_data
from rdistill.distill.distiller import Distiller
from rdistill.distill.optimizer import build_optimizer
from rdistill.models.pretrained import SAFE_SCHEME
from rdistill.schemas.mappings import PlainConfig
from rdistill.training.evaluation import no_image_twice, use_class_iou
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
    """A run's place among others in lockstep; see :mod:`rdistill.training.lockstep`."""

    def loaders(self, cfg: Config) -> tuple[Any, Any]:
        """What takes the place of the training and the validation loader."""


def prepare_config(config: Config | LoadedConfig, work_dir: Path, seed: int, last: Path | None) -> Config:
    """The config as the Runner takes it: one data stream, our metric and the world's share of the batch.

    ``last``: the checkpoint to go on from.
    """
    run = LoadedConfig.of(config)
    cfg = copy.deepcopy(run.cfg)
    world_size = get_world_size()
    loader = cfg.train_dataloader
    if loader.batch_size % world_size:
        raise UserError(
            f"train_dataloader.batch_size: {loader.batch_size} images do not divide among {world_size} workers"
        )
    data = training_data(LoadedConfig(cfg, run.distill))
    if data.per_batch % world_size:
        raise UserError(
            f"distill.unlabeled: {data.per_batch} images a batch do not divide among {world_size} workers; set "
            f"per_batch to a multiple of {world_size}"
        )
    labeled, unlabeled = loader.batch_size // world_size, data.per_batch // world_size
    loader.batch_size = labeled + unlabeled
    if kind_of(loader.dataset) != "StreamDataset":  # a baseline beside a store has one already, with its views
        loader.dataset = dict(type="StreamDataset")
    loader.dataset.update(dataset=data.labeled, seed=seed)
    if run.distill is not None and (store := run.distill.store) is not None:
        loader.dataset.update(views=store.views, view_seed=store.seed)
    by_epoch = cfg.train_cfg.get("max_iters") is None
    shuffle = loader.sampler.get("shuffle", True) if isinstance(loader.get("sampler"), dict) else True
    loader.sampler = dict(type="StreamSampler", seed=seed, shuffle=shuffle, epochs=by_epoch)
    if unlabeled:
        loader.dataset.unlabeled = data.unlabeled
        loader.sampler.update(labeled=labeled, unlabeled=unlabeled)
    use_class_iou(cfg)
    if names := cfg.get("efficient_conv_bn_eval"):  # mmengine's, by layer name
        cfg.efficient_conv_bn_eval = [f"student.{name}" for name in ([names] if isinstance(names, str) else names)]
    cfg.resume = last is not None
    # The Distiller loads a student's start itself: the Runner would look for its own names in it.
    cfg.load_from = f"{SAFE_SCHEME}{last}" if cfg.resume else None
    cfg.work_dir = str(work_dir)
    cfg.randomness = dict(seed=seed, init_seed=(cfg.get("randomness") or {}).get("init_seed", seed))
    if world_size > 1:
        no_image_twice(cfg)
        cfg.launcher = "pytorch"
        cfg.model_wrapper_cfg = wrapper_config(cfg)
    return cfg


def wrapper_config(cfg: Config) -> PlainConfig:
    """How several workers' model is wrapped: as mmengine would from the same keys, but also on CPUs."""
    options = dict(cfg.get("model_wrapper_cfg") or {"find_unused_parameters": finds_unused_parameters(cfg)})
    if "DistributedDataParallel" not in str(options.get("type", "MMDistributedDataParallel")):
        return options  # sharding and the like, with options of its own
    wrapper = {"type": "MMDistributedDataParallel", "broadcast_buffers": False, **options}
    return wrapper if torch.cuda.is_available() else {**wrapper, "device_ids": None}


def checkpoint_interval(cfg: Config) -> int | None:
    """The config's own CheckpointHook says how often; its place is then taken by ours."""
    hook = (cfg.get("default_hooks") or {}).get("checkpoint") or {}
    return hook.get("interval") if not hook.get("by_epoch", False) else None


class _QuickConfig(Config):
    """A config that is written at once: mmengine's formatter takes 0.1 s, and a Runner calls it at every checkpoint."""

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
        with contextlib.redirect_stdout(io.StringIO()):  # mmengine prints here, which would end up in --json
            return super().load_checkpoint(*args, **kwargs)

    def dump_config(self) -> None:
        """Not what a Runner was made to do here, with a worker's share of the batch and so on: see ``write_config``."""


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
    """The Runner of one run.

    ``lane``: where its batches come from, if not from loaders of its own; ``more``: hooks that not every run has.
    """
    default_hooks = {name: hook for name, hook in (cfg.get("default_hooks") or {}).items() if name != "checkpoint"}
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
    loops = ("train_dataloader", "val_dataloader", "train_cfg", "val_cfg", "val_evaluator")
    options = (*loops, "param_scheduler", "auto_scale_lr", "log_processor", "visualizer")
    # mmengine keeps loggers, visualizers and the like in process-wide tables by name: one of its own for each run.
    name = f"{Path(cfg.work_dir).name}-{time.time_ns()}"
    built = {option: copy.deepcopy(cfg.get(option)) for option in options}
    tracking = parse_tracking(cfg.get("tracking"))
    if cfg.get("tracking") is not None:
        built["visualizer"] = track(built["visualizer"], tracking, Path(cfg.work_dir), cfg.resume)
        hooks.append(TrackingHook(tracking.images, report.listener))
    if built["visualizer"] is not None:
        built["visualizer"]["name"] = name
    runner = _QuietRunner(
        model=distiller,
        work_dir=cfg.work_dir,
        default_hooks={**default_hooks, "checkpoint": None},
        custom_hooks=[
            *(cfg.get("custom_hooks") or []),
            *hooks,
            checkpoint_hook,
            report,
            stop,
        ],
        load_from=cfg.load_from,
        resume=cfg.resume,
        launcher=cfg.get("launcher", "none"),
        env_cfg=cfg.get("env_cfg") or dict(dist_cfg=dict(backend="nccl")),
        default_scope=cfg.get("default_scope", "mmseg"),
        randomness=dict(seed=seed),
        experiment_name=name,
        # Activations: the Distiller checkpoints them itself.
        cfg=_QuickConfig({**config_dict(cfg).to_dict(), "activation_checkpointing": None}),
        optim_wrapper=dict(type="OptimWrapper"),  # takes its place below
        **built,
    )
    if lane is not None:
        with blaming("train_dataloader or val_dataloader"):
            set_loaders(runner, *lane.loaders(cfg))
    # What Runner.train would build, built now: a mistake shows before the teacher is scored.
    with blaming("train_cfg or train_dataloader"):
        build_train_loop(runner)
    with blaming("val_dataloader or val_evaluator"):
        build_val_loop(runner)
    runner.optim_wrapper = build_optimizer(cfg, distiller)
    if runner.param_schedulers is not None:
        with blaming("param_scheduler"):
            runner.param_schedulers = runner.build_param_scheduler(runner.param_schedulers)
    return runner


def release(runner: Runner) -> None:
    """Stops the run's data workers, closes its log files and takes it out of mmengine's process-wide tables."""
    for loop in loops_of(runner):
        for iterator in iterators_of(loop):
            stop_data_workers(iterator)
    for handler in runner.logger.handlers:
        handler.close()
    for manager in (MMLogger, MessageHub, Visualizer):
        instances(manager).pop(runner.experiment_name, None)
    runner.visualizer.close()
    instances(type(runner.visualizer)).pop(runner.visualizer.instance_name, None)

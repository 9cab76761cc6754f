"""Tracks one run in wandb, TensorBoard or MLflow through mmengine's visual backends; their failures never end it."""

from __future__ import annotations

import copy
import secrets
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mmcv
from mmengine.config import Config
from mmengine.dist import is_main_process
from mmengine.hooks import Hook
from mmengine.registry import VISBACKENDS
from mmengine.structures import PixelData
from mmengine.visualization.vis_backend import BaseVisBackend

from rdistill._compat.mmengine import visual_backends
from rdistill.config.tracking import (
    MLFLOW_URI,
    Mlflow,
    Tracking,
    Wandb,
    environment_kept,
    import_wandb,
    is_disabled,
    load_run_ids,
    mlflow_uri,
    prepare_libraries,
    save_run_ids,
    wandb_mode,
)
from rdistill.core.errors import error_line
from rdistill.core.redaction import redacted
from rdistill.schemas.mappings import PlainConfig
from rdistill.schemas.run import RunCheckpoint
from rdistill.training.hooks import METRIC, RunListener

MAX_FAILURES = 3  # a tracker that has failed so often in a row is not used any more
MAX_SIDE = 512  # pixels; larger images are reduced before they are tracked
QUIET_WANDB = dict(silent=True, console="off", disable_git=True, disable_code=True)


def track(visualizer: PlainConfig | None, tracking: Tracking, work_dir: Path, resume: bool) -> PlainConfig:
    """The config of a visualizer with the trackers added to its backends."""
    prepare_libraries()
    drawn = copy.deepcopy(visualizer) or dict(type="SegLocalVisualizer", vis_backends=[dict(type="LocalVisBackend")])
    own = drawn.get("vis_backends") or []
    backends = [
        dict(type="TrackerBackend", name=name, tracker=name, save_dir=str(work_dir), resume=resume,
             tracking=tracking.model_dump())
        for name in tracking.names
    ]  # fmt: skip
    drawn["vis_backends"] = [*([own] if isinstance(own, dict) else own), *backends]
    return drawn


@VISBACKENDS.register_module()
class TrackerBackend(BaseVisBackend):
    """Wraps mmengine's backend for one tracker; if the tracker fails, the user gets a warning and the run goes on.

    Every worker of a group has one, but only the main worker's does something, so that they track a single run.

    Args:
        save_dir: the run's work dir.
        tracker: ``wandb``, ``tensorboard`` or ``mlflow``.
        tracking: see :class:`rdistill.config.tracking.Tracking`.
        resume: continue the tracker's run whose id is in the work dir.
    """

    def __init__(self, save_dir: str, tracker: str, tracking: PlainConfig, resume: bool) -> None:
        super().__init__(save_dir)
        self.tracker, self.tracking = tracker, Tracking.model_validate(tracking)
        self.work_dir = Path(save_dir)
        self.ids = load_run_ids(self.work_dir) if resume else {}
        self.resumed = tracker in self.ids
        self.problems: list[str] = []  # problems that were not reported yet
        self._inner: BaseVisBackend | None = None
        self._failures = 0
        self._disabled = is_disabled(tracker, self.tracking)

    def _init_env(self) -> None: ...

    @property
    def experiment(self) -> Any:
        return None if self._inner is None else self._inner.experiment

    def add_config(self, config: Any, **kwargs: Any) -> None:
        self._do(lambda inner: self._add_config(inner, config))

    def add_image(self, name: str, image: Any, step: int = 0, **kwargs: Any) -> None:
        # MLflow stores images as files: each iteration needs a file of its own, with a suffix.
        named = f"images/{name}/{step:06d}.png" if self.tracker == "mlflow" else name
        self._do(lambda inner: inner.add_image(named, image, step))

    def add_scalar(self, name: str, value: Any, step: int = 0, **kwargs: Any) -> None:
        self.add_scalars({name: value}, step)

    def add_scalars(self, scalar_dict: dict[str, Any], step: int = 0, file_path: str | None = None, **_: Any) -> None:
        values = {key.replace("IoU.", "IoU/"): value for key, value in scalar_dict.items() if key != "step"}
        if self.tracker == "wandb":  # wandb counts its own steps; this value is the x axis of the charts
            values["iter"] = step
        self._do(lambda inner: inner.add_scalars(values, step))

    def close(self) -> None:
        """Ends the tracker's run; it is marked as failed if an exception is being handled."""
        if self._inner is not None:
            failed = sys.exc_info()[0] is not None
            self._do(lambda inner: self._close(inner, failed))
        self._disabled = True

    def _do(self, action: Callable[[BaseVisBackend], None]) -> None:
        if self._disabled or not is_main_process():
            return
        try:
            if self._inner is None:
                self._inner = self._start()
            action(self._inner)
            self._failures = 0
        except Exception as error:
            self._failures += 1
            self._disabled = self._inner is None or self._failures == MAX_FAILURES
            if self._failures == 1 or self._disabled:
                end = "; the run goes on without it" if self._disabled else ""
                self.problems.append(f"{self.tracker} failed: {error_line(error)}{end}")

    def _start(self) -> BaseVisBackend:
        wandb, mlflow = self.tracking.wandb, self.tracking.mlflow
        if self.tracker == "wandb" and wandb is not None:
            inner = self._start_wandb(wandb)
        elif self.tracker == "mlflow" and mlflow is not None:
            inner = self._start_mlflow(mlflow)
        else:
            inner = self._start_tensorboard()
        save_run_ids(self.work_dir, {**load_run_ids(self.work_dir), **self.ids})
        return inner

    def _start_tensorboard(self) -> BaseVisBackend:
        inner = VISBACKENDS.build(dict(type="TensorboardVisBackend", save_dir=str(self.work_dir / "tensorboard")))
        assert inner.experiment is not None  # reading this property starts the tracker
        return inner

    def _start_wandb(self, settings: Wandb) -> BaseVisBackend:
        import_wandb(self.work_dir)
        self.ids.setdefault("wandb", secrets.token_hex(4))
        kwargs = dict(
            id=self.ids["wandb"],
            resume="allow",
            mode=wandb_mode(settings),
            project=settings.project,
            entity=settings.entity,
            group=settings.group,
            name=settings.name or self.work_dir.name,
            tags=list(settings.tags),
            notes=settings.notes,
            settings=QUIET_WANDB,
            allow_val_change=True,
            dir=str(self.work_dir),
        )
        axis = [dict(name="*", step_metric="iter")]
        inner = VISBACKENDS.build(
            dict(type="WandbVisBackend", save_dir=str(self.work_dir), init_kwargs=kwargs, define_metric_cfg=axis)
        )
        assert inner.experiment is not None  # reading this property starts the tracker
        return inner

    def _start_mlflow(self, settings: Mlflow) -> BaseVisBackend:
        import mlflow

        uri, files = mlflow_uri(settings, self.work_dir)
        with environment_kept(MLFLOW_URI):
            return self._mlflow_backend(mlflow, settings, uri, files)

    def _mlflow_backend(self, mlflow: Any, settings: Mlflow, uri: str, files: str | None) -> BaseVisBackend:
        mlflow.set_tracking_uri(uri)
        if self.resumed:
            mlflow.start_run(run_id=self.ids["mlflow"])
        inner = VISBACKENDS.build(
            dict(
                type="MLflowVisBackend",
                save_dir=str(self.work_dir),
                tracking_uri=uri,
                exp_name=settings.experiment or "rdistill",
                run_name=self.work_dir.name,
                tags=settings.tags,
                artifact_suffix=(),
                artifact_location=files,
            )
        )
        assert inner.experiment is not None  # reading this property starts the tracker
        run = mlflow.active_run()
        assert run is not None
        self.ids["mlflow"] = run.info.run_id
        return inner

    def _add_config(self, inner: BaseVisBackend, config: Any) -> None:
        config = Config(redacted(config.to_dict()))
        if self.tracker == "wandb":  # mmengine's method would also upload all Python files of the working directory
            inner.experiment.config.update(config.to_dict(), allow_val_change=True)
        elif self.tracker == "tensorboard" or not self.resumed:
            inner.add_config(config)
        else:
            inner.cfg = config

    def _close(self, inner: BaseVisBackend, failed: bool) -> None:
        if self.tracker == "wandb":
            inner.experiment.finish(exit_code=int(failed))
        elif self.tracker == "mlflow":
            inner.experiment.end_run("FAILED" if failed else "FINISHED")
        else:
            inner.close()


class TrackingHook(Hook):
    """Tracks more than mmengine logs: the best score so far, and some validation images with mask and prediction.

    Args:
        images: number of images at each validation.
        listener: is notified of trackers that failed.
    """

    priority = "VERY_LOW"

    def __init__(self, images: int, listener: RunListener) -> None:
        self.images, self.listener = images, listener
        self._drawn = 0
        self._best: float | None = None
        self._draws = True

    def before_train(self, runner: Any) -> None:
        self._warn(runner)

    def before_val_epoch(self, runner: Any) -> None:
        self._drawn = 0

    def after_val_iter(self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        for sample in outputs or []:
            if self._drawn >= self.images or not self._draws or not is_main_process():
                return
            self._drawn += 1
            try:
                self._draw(runner, sample)
            except Exception as error:  # such as a dataset whose samples mmseg's visualizer cannot draw
                self._draws = False
                self.listener.warned(f"validation images are not tracked: {type(error).__name__}: {error}")

    def after_val_epoch(self, runner: Any, metrics: dict[str, float] | None = None) -> None:
        score = (metrics or {}).get(METRIC)
        if score is not None:
            self._best = score if self._best is None else max(score, self._best)
            for backend in _trackers(runner):
                backend.add_scalars({f"best_{METRIC}": self._best}, runner.iter)
        self._warn(runner)

    def before_save_checkpoint(self, runner: Any, checkpoint: RunCheckpoint) -> None:
        checkpoint["tracked_best"] = self._best

    def after_load_checkpoint(self, runner: Any, checkpoint: RunCheckpoint) -> None:
        self._best = checkpoint.get("tracked_best")

    def _draw(self, runner: Any, sample: Any) -> None:
        image = mmcv.imread(sample.img_path, channel_order="rgb")
        name = f"val_{Path(sample.img_path).stem}"
        if max(image.shape[:2]) > MAX_SIDE:
            image, sample = _smaller(image, sample)
        runner.visualizer.add_datasample(name, image, sample, step=runner.iter, with_labels=False)

    def _warn(self, runner: Any) -> None:
        for backend in _trackers(runner):
            for problem in backend.problems:
                self.listener.warned(problem)
            backend.problems.clear()


def _smaller(image: Any, sample: Any) -> tuple[Any, Any]:
    """The image and its masks, reduced so that no side is longer than :data:`MAX_SIDE` pixels."""
    image = mmcv.imrescale(image, (MAX_SIDE, MAX_SIDE))
    small = copy.deepcopy(sample)
    for name in ("gt_sem_seg", "pred_sem_seg"):
        if name in small:
            mask = small.get(name).data
            rows, columns = (_nearest(mask.shape[-2 + axis], image.shape[axis]) for axis in (0, 1))
            # A new PixelData, because an existing one refuses data of another shape.
            setattr(small, name, PixelData(data=mask[..., rows, :][..., columns]))
    return image, small


def _nearest(size: int, new_size: int) -> list[int]:
    """For each of ``new_size`` pixels, the index of the nearest of ``size`` pixels."""
    return [min(size - 1, int((index + 0.5) * size / new_size)) for index in range(new_size)]


def _trackers(runner: Any) -> list[TrackerBackend]:
    return [backend for backend in visual_backends(runner.visualizer) if isinstance(backend, TrackerBackend)]

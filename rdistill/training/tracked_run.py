"""Tracking of one run, through mmengine's own visual backends. No failure of theirs reaches the run."""

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

FAILURES_BORNE = 3  # failures in a row after which a tracker is let go
LONGEST_SIDE = 512  # pixels of an image that is tracked
QUIET_WANDB = dict(silent=True, console="off", disable_git=True, disable_code=True)


def track(visualizer: PlainConfig | None, tracking: Tracking, work_dir: Path, resume: bool) -> PlainConfig:
    """A visualizer's config with the trackers among its backends."""
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
    """One of mmengine's backends, set up for its tracker, which may fail without anybody but a warning minding.

    It exists in every worker of a group, and works in the main one alone: two workers make one run.

    Args:
        save_dir: the run's work dir.
        tracker: ``wandb``, ``tensorboard`` or ``mlflow``.
        tracking: see :class:`rdistill.config.tracking.Tracking`.
        resume: go on with the run that the work dir knows of.
    """

    def __init__(self, save_dir: str, tracker: str, tracking: PlainConfig, resume: bool) -> None:
        super().__init__(save_dir)
        self.tracker, self.tracking = tracker, Tracking.model_validate(tracking)
        self.work_dir = Path(save_dir)
        self.ids = load_run_ids(self.work_dir) if resume else {}
        self.resumed = tracker in self.ids
        self.problems: list[str] = []  # those that were not reported yet
        self._inner: BaseVisBackend | None = None
        self._failures = 0
        self._over = is_disabled(tracker, self.tracking)

    def _init_env(self) -> None: ...

    @property
    def experiment(self) -> Any:
        return None if self._inner is None else self._inner.experiment

    def add_config(self, config: Any, **kwargs: Any) -> None:
        self._do(lambda inner: self._add_config(inner, config))

    def add_image(self, name: str, image: Any, step: int = 0, **kwargs: Any) -> None:
        # MLflow has files: one for each iteration, with an ending.
        named = f"images/{name}/{step:06d}.png" if self.tracker == "mlflow" else name
        self._do(lambda inner: inner.add_image(named, image, step))

    def add_scalar(self, name: str, value: Any, step: int = 0, **kwargs: Any) -> None:
        self.add_scalars({name: value}, step)

    def add_scalars(self, scalar_dict: dict[str, Any], step: int = 0, file_path: str | None = None, **_: Any) -> None:
        values = {key.replace("IoU.", "IoU/"): value for key, value in scalar_dict.items() if key != "step"}
        if self.tracker == "wandb":  # counts its own steps; its axis is this
            values["iter"] = step
        self._do(lambda inner: inner.add_scalars(values, step))

    def close(self) -> None:
        """Ends the tracker's run: as failed while an error is on its way."""
        if self._inner is not None:
            failed = sys.exc_info()[0] is not None
            self._do(lambda inner: self._close(inner, failed))
        self._over = True

    def _do(self, what: Callable[[BaseVisBackend], None]) -> None:
        if self._over or not is_main_process():
            return
        try:
            if self._inner is None:
                self._inner = self._start()
            what(self._inner)
            self._failures = 0
        except Exception as error:
            self._failures += 1
            self._over = self._inner is None or self._failures == FAILURES_BORNE
            if self._failures == 1 or self._over:
                end = "; the run goes on without it" if self._over else ""
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
        assert inner.experiment is not None  # it starts at first sight
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
        assert inner.experiment is not None  # it starts at first sight
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
        assert inner.experiment is not None  # it starts at first sight
        run = mlflow.active_run()
        assert run is not None
        self.ids["mlflow"] = run.info.run_id
        return inner

    def _add_config(self, inner: BaseVisBackend, config: Any) -> None:
        config = Config(redacted(config.to_dict()))
        if self.tracker == "wandb":  # mmengine's would add all Python files of the working directory
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
    """Adds to what mmengine logs: the best score so far and some validation images, truth beside prediction.

    Args:
        images: how many at each validation.
        listener: is notified of a tracker that failed.
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
            except Exception as error:  # a dataset that is drawn otherwise; the run is none the worse
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
        if max(image.shape[:2]) > LONGEST_SIDE:
            image, sample = _smaller(image, sample)
        runner.visualizer.add_datasample(name, image, sample, step=runner.iter, with_labels=False)

    def _warn(self, runner: Any) -> None:
        for backend in _trackers(runner):
            for problem in backend.problems:
                self.listener.warned(problem)
            backend.problems.clear()


def _smaller(image: Any, sample: Any) -> tuple[Any, Any]:
    """An image and its masks with the longest side at most :data:`LONGEST_SIDE`."""
    image = mmcv.imrescale(image, (LONGEST_SIDE, LONGEST_SIDE))
    small = copy.deepcopy(sample)
    for name in ("gt_sem_seg", "pred_sem_seg"):
        if name in small:
            mask = small.get(name).data
            rows, columns = (_nearest(mask.shape[-2 + axis], image.shape[axis]) for axis in (0, 1))
            setattr(small, name, PixelData(data=mask[..., rows, :][..., columns]))  # the old one keeps its own shape
    return image, small


def _nearest(have: int, want: int) -> list[int]:
    return [min(have - 1, int((index + 0.5) * have / want)) for index in range(want)]


def _trackers(runner: Any) -> list[TrackerBackend]:
    return [backend for backend in visual_backends(runner.visualizer) if isinstance(backend, TrackerBackend)]

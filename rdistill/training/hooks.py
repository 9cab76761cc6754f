"""The mmengine hooks of a run: feature capture, weight schedules, NaN guard, checkpoints, stopping and reports."""

from __future__ import annotations

import math
import re
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from mmengine.dist import is_main_process
from mmengine.hooks import Hook, LoggerHook
from torch import Tensor

from rdistill.core.errors import RunError
from rdistill.core.files import written_whole
from rdistill.core.stopping import Stopped, StopRequest
from rdistill.distill.teacher import EmaTeacher
from rdistill.distributed import collectives
from rdistill.models.checkpoint import as_plain_data
from rdistill.schemas.run import RunCheckpoint, RunFacts, Scores, Validation
from rdistill.training.diagnosis import DiagnosisHook
from rdistill.training.evaluation import ClassIoUMetric, image_scores, tidy_metrics
from rdistill.training.resume import BEST, LAST, PREVIOUS
from rdistill.training.run_state import WorkerState, own_state, unwrap

METRIC = "mIoU"  # the metric by which the best checkpoint is chosen
ACCURACY = "decode.acc_seg"  # the name of the training accuracy in mmengine's log


class RunListener(Protocol):
    """Is notified of the progress of one run. Implementations pass it to the console, Ray Tune or Ray Train.

    :class:`rdistill.sweeps.monitor.events.SweepListener` is its counterpart for the trials of a sweep.
    """

    def training_started(self, *, first_iteration: int, last_iteration: int, facts: RunFacts) -> None:
        """The training starts; ``facts`` holds ``teacher_mIoU``, the ``effective`` values and so on."""

    def stepped(self, iteration: int, values: Mapping[str, float]) -> None:
        """``iteration`` iterations are complete; ``values`` has the losses and the learning rate (``lr``)."""

    def validated(self, iteration: int, metrics: Scores) -> None:
        """The student was scored; see :func:`rdistill.training.evaluation.tidy_metrics` for the metrics."""

    def warned(self, message: str) -> None:
        """Something beside the training failed, such as a tracker."""

    def noted(self, text: str) -> None:
        """A message for the user, such as a damaged checkpoint, a lost worker, or what the run waits for."""


class Silent:
    """A :class:`RunListener` that does nothing."""

    def training_started(self, *, first_iteration: int, last_iteration: int, facts: RunFacts) -> None: ...

    def stepped(self, iteration: int, values: Mapping[str, float]) -> None: ...

    def validated(self, iteration: int, metrics: Scores) -> None: ...

    def warned(self, message: str) -> None: ...

    def noted(self, text: str) -> None: ...


class DivergedError(RunError):
    """A loss became NaN or infinite."""


class FeatureCaptureHook(Hook):
    """Captures the student's features during a training step, and frees them after it."""

    def before_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None) -> None:
        unwrap(runner).capture.attach()

    def after_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        capture = unwrap(runner).capture
        capture.detach()
        capture.clear()


class WeightScheduleHook(Hook):
    """Sets the factor of each loss for the iteration, from the loss's schedule."""

    def before_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None) -> None:
        distiller = unwrap(runner)
        for name, route in distiller.routes.items():
            distiller.factors[name] = route.schedule.factor(runner.iter, runner.max_iters)


class WeightShareHook(Hook):
    """Enables the measurement of loss weights that are given as shares, and keeps them in checkpoints.

    Args:
        listener: is notified of the measured weights and of notes of teacher stores; on the main process only.
    """

    def __init__(self, listener: RunListener) -> None:
        self.listener = listener

    def before_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None) -> None:
        unwrap(runner).iteration = runner.iter

    def after_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        distiller = unwrap(runner)
        distiller.iteration = None
        if is_main_process():
            for note in distiller.notes:
                self.listener.noted(note)
            for store in filter(None, (teacher.store for teacher in distiller.teachers)):
                for note in store.notes:
                    self.listener.noted(note)
                store.notes.clear()
        distiller.notes.clear()

    def before_save_checkpoint(self, runner: Any, checkpoint: RunCheckpoint) -> None:
        if measured := unwrap(runner).measured:
            checkpoint["loss_weights"] = {name: weight.state() for name, weight in measured.items()}

    def after_load_checkpoint(self, runner: Any, checkpoint: RunCheckpoint) -> None:
        for name, weight in unwrap(runner).measured.items():
            weight.load_state(checkpoint["loss_weights"][name])


class AccuracyHook(Hook):
    """Lets the heads compute ``acc_seg`` only in iterations that are logged or reported, to save time in the others.

    mmengine logs the last value of it. If the config's log processor logs a mean over iterations, it is computed in
    all of them.

    Args:
        report: the hook that reports losses to the run's listener.
    """

    def __init__(self, report: ReportHook) -> None:
        self.report = report

    def before_train(self, runner: Any) -> None:
        processor = runner.log_processor
        sources = [str(custom.get("data_src", "")) for custom in processor.custom_cfg]
        self._all = bool(re.search(processor.mean_pattern, ACCURACY)) or any("acc" in source for source in sources)
        self._loggers = [hook for hook in runner.hooks if isinstance(hook, LoggerHook)]

    def before_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None) -> None:
        unwrap(runner).measure_accuracy = (
            self._all
            or self.report.reports(runner)
            or any(logs_iteration(hook, runner, batch_idx) for hook in self._loggers)
        )


def logs_iteration(hook: LoggerHook, runner: Any, batch_idx: int) -> bool:
    """Whether mmengine's hook will log the iteration that starts now."""
    return hook.every_n_inner_iters(batch_idx, hook.interval) or hook.end_of_epoch(runner.train_dataloader, batch_idx)


class EmaTeacherHook(Hook):
    """Updates EMA teachers after each iteration, and keeps them in checkpoints for a resumed run."""

    def before_train(self, runner: Any) -> None:
        if runner.iter == 0:  # the student's weights are initialised only now
            self._follow(runner)

    def after_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        self._follow(runner)

    def before_save_checkpoint(self, runner: Any, checkpoint: RunCheckpoint) -> None:
        states = [teacher.state_dict() for teacher in _ema_teachers(runner)]
        if states:
            checkpoint["ema_teachers"] = states

    def after_load_checkpoint(self, runner: Any, checkpoint: RunCheckpoint) -> None:
        for teacher, state in zip(_ema_teachers(runner), checkpoint.get("ema_teachers", []), strict=True):
            teacher.load_state_dict(state)

    def _follow(self, runner: Any) -> None:
        for teacher in _ema_teachers(runner):
            teacher.follow(unwrap(runner).student)


def _ema_teachers(runner: Any) -> list[EmaTeacher]:
    return [teacher for teacher in unwrap(runner).teachers if isinstance(teacher, EmaTeacher)]


class DivergenceHook(Hook):
    """Ends the run in the iteration in which a loss is NaN or infinite, and names the loss and the images."""

    priority = "VERY_HIGH"

    def after_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        values = {key: value for key, value in (outputs or {}).items() if isinstance(value, Tensor)}
        # Add up all losses on the device first: each step then needs a single transfer from it.
        if not values or torch.isfinite(torch.stack([value.detach().float().sum() for value in values.values()]).sum()):
            return
        not_finite = [key for key, value in values.items() if not torch.isfinite(value).all()]
        named = [key for key in not_finite if key != "loss"] or not_finite
        # All workers get here together, because the logged values are the same mean on all of them.
        local_files = [Path(sample.img_path).name for sample in (data_batch or {}).get("data_samples", [])]
        files = [name for names in collectives.gather_objects(local_files) for name in names]
        raise DivergedError(
            f"iteration {runner.iter + 1}: {', '.join(named)} is not finite; images {', '.join(files)}; "
            f"lower the learning rate or that loss's weight; {_last_good(runner)}"
        )


def _last_good(runner: Any) -> str:
    last = Path(runner.work_dir, LAST)
    return f"last good checkpoint: {last}" if last.is_file() else "there is no checkpoint yet"


class CheckpointHook(Hook):
    """Writes ``last.pth`` and ``best.pth`` atomically; they can be loaded without running code.

    The previous ``last.pth`` stays as ``last.pth.previous`` until the run is finished.

    Args:
        interval: iterations between two writes of ``last.pth``; None: it is written only after each validation, which
            includes the last iteration.
        best: in a resumed run, the validation that ``best.pth`` holds.
    """

    priority = "VERY_LOW"

    def __init__(self, interval: int | None = None, best: Validation | None = None) -> None:
        self.interval = interval
        self.best: Validation = best or {}
        self.last: Validation = {}
        self.saved_at: int | None = None  # the iteration of the newest `last.pth`
        self._workers: list[WorkerState] = []

    def after_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        iteration = runner.iter + 1
        if self.interval and iteration % self.interval == 0 and not validates_next(runner):
            self.save(runner, LAST, iteration)

    def after_val_epoch(self, runner: Any, metrics: dict[str, float] | None = None) -> None:
        self.last = {"iter": runner.iter, "metrics": tidy_metrics(metrics or {})}

    def after_val(self, runner: Any) -> None:
        # Not in after_val_epoch: the random state of the training is restored only now.
        if not self.best or self.last["metrics"].get("mIoU", -math.inf) > self.best["metrics"].get("mIoU", -math.inf):
            self.best = self.last
            self.save(runner, BEST, runner.iter)
        self.save(runner, LAST, runner.iter)

    def before_save_checkpoint(self, runner: Any, checkpoint: RunCheckpoint) -> None:
        checkpoint["meta"] = {**as_plain_data(checkpoint["meta"]), "best": self.best, "last": self.last}
        checkpoint["workers"] = self._workers
        # mmengine's log histories are Python objects; without them the file loads with weights_only=True.
        checkpoint["message_hub"] = {"log_scalars": {}, "runtime_info": {}, "resumed_keys": {}}

    def after_load_checkpoint(self, runner: Any, checkpoint: RunCheckpoint) -> None:
        self.last = checkpoint.get("meta", {}).get("last", {})

    def save(self, runner: Any, name: str, iteration: int) -> None:
        """Writes a checkpoint atomically; all workers must call this together."""
        self._workers = collectives.gather_objects(own_state(runner))
        self.saved_at = iteration if name == LAST else self.saved_at
        if not is_main_process():
            return
        folder = Path(runner.work_dir)
        with written_whole(folder / name, previous=folder / PREVIOUS if name == LAST else None) as partial:
            runner.save_checkpoint(
                str(folder), partial.name, meta={"iter": iteration, "epoch": runner.epoch}, by_epoch=False
            )


def validates_next(runner: Any) -> bool:
    """Whether a validation follows the iteration that has just ended."""
    iteration = runner.iter + 1
    return runner.val_loop is not None and (iteration % runner.val_interval == 0 or iteration == runner.max_iters)


class StopHook(Hook):
    """Ends a run that has received a signal, after a complete iteration and its validation, with a checkpoint.

    All workers stop at the same iteration, because they exchange the signal together with the logged values.
    """

    priority = "LOWEST"

    def __init__(self, request: StopRequest, checkpoint_hook: CheckpointHook) -> None:
        self.request, self.checkpoint_hook = request, checkpoint_hook

    def before_train(self, runner: Any) -> None:
        self.request.can_stop_gracefully = True

    def after_train(self, runner: Any) -> None:
        self.request.can_stop_gracefully = False

    def before_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None) -> None:
        collectives.stop_signal = self.request.signum or 0

    def after_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        if not validates_next(runner):
            self._stop_if_signalled(runner, runner.iter + 1)

    def after_val(self, runner: Any) -> None:
        self._stop_if_signalled(runner, runner.iter)

    def _stop_if_signalled(self, runner: Any, iteration: int) -> None:
        signum = (self.request.signum or 0) if collectives.count() == 1 else collectives.agreed_to_stop()
        if not signum or iteration >= runner.max_iters:
            return
        if self.checkpoint_hook.saved_at != iteration:
            self.checkpoint_hook.save(runner, LAST, iteration)
        raise Stopped(signum, iteration, runner.max_iters, self.checkpoint_hook.best)


class StepClock(Hook):
    """Measures the seconds of a run's training steps, without set-up, validations and checkpoints.

    It is for runs with their own data loaders; a lane measures runs in lockstep. On a GPU, a step may still run when
    its call returns. Its seconds are then counted where the next operation waits for it, so the sum is right.
    """

    priority = "LOWEST"

    def __init__(self) -> None:
        self.steps, self.step_seconds, self.data_seconds = 0, 0.0, 0.0
        self._caches: list[Any] = []
        self._since: float | None = None

    def before_train(self, runner: Any) -> None:
        teachers = unwrap(runner).teachers
        self._caches = [teacher.cache for teacher in teachers if getattr(teacher, "cache", None) is not None]
        self._since = time.perf_counter()

    def after_val(self, runner: Any) -> None:
        self._since = time.perf_counter()

    def before_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None) -> None:
        now = time.perf_counter()
        self.data_seconds += now - (now if self._since is None else self._since)
        self._since = now

    def after_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        now = time.perf_counter()
        self.step_seconds += now - (now if self._since is None else self._since)
        self.steps += 1
        self._since = now

    def seconds(self) -> dict[str, float]:
        """Like :meth:`rdistill.training.lockstep.Lane.seconds`, but the teacher's forward pass is part of the step."""
        saved = sum(
            cache.compute_seconds * (cache.images / cache.computed - 1) for cache in self._caches if cache.computed
        )
        return {
            "steps_seconds": self.step_seconds,
            "steps_data_seconds": self.data_seconds,
            "steps_data_alone_seconds": self.data_seconds,
            "cache_saved_seconds": saved,
            "steps": self.steps,
        }


class ReportHook(Hook):
    """Notifies a :class:`RunListener` of the progress of the training.

    Args:
        listener: the listener.
        facts: passed to the listener before the first iteration.
        interval: iterations between two reports of losses.
        diagnosis: the hook whose latest entry is added to the metrics of a validation.
        by_image: whether the score of each image is added to the metrics of a validation.
    """

    priority = "LOWEST"

    def __init__(
        self,
        listener: RunListener,
        facts: RunFacts,
        interval: int = 10,
        diagnosis: DiagnosisHook | None = None,
        by_image: bool = False,
    ) -> None:
        self.listener, self.facts, self.interval, self.diagnosis = listener, facts, interval, diagnosis
        self.by_image, self._counts = by_image, list[np.ndarray]()

    def before_train(self, runner: Any) -> None:
        self.listener.training_started(first_iteration=runner.iter, last_iteration=runner.max_iters, facts=self.facts)

    def before_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None) -> None:
        self._lr = runner.optim_wrapper.get_lr()["lr"][0]  # read here: after the step it is the next iteration's

    def after_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        if self.reports(runner):
            values = {key: value.item() for key, value in (outputs or {}).items() if isinstance(value, Tensor)}
            self.listener.stepped(runner.iter + 1, {**values, "lr": self._lr})

    def reports(self, runner: Any) -> bool:
        """Whether the losses of the current iteration are reported."""
        iteration = runner.iter + 1
        return bool(iteration % self.interval == 0 or iteration == runner.max_iters)

    def before_val(self, runner: Any) -> None:
        if self.by_image:
            self._counts = []
            for metric in runner.val_evaluator.metrics:
                if isinstance(metric, ClassIoUMetric):
                    metric.by_image = self._counts

    def after_val_epoch(self, runner: Any, metrics: dict[str, float] | None = None) -> None:
        self._metrics = tidy_metrics(metrics or {})

    def after_val(self, runner: Any) -> None:
        # This hook runs after the checkpoints: a listener may end the run here.
        metrics: Scores = self._metrics
        if self.diagnosis is not None and self.diagnosis.latest is not None:
            metrics = {**metrics, "diagnosis": self.diagnosis.latest}
        if self.by_image:  # the images of all workers, in an order that is the same at each validation
            shares = collectives.gather_objects(image_scores(self._counts))
            metrics = {**metrics, "by_image": [score for share in shares for score in share]}
        if measured := unwrap(runner).measured:
            metrics = {**metrics, "weights": {name: weight.weight for name, weight in measured.items()}}
        self.listener.validated(runner.iter, metrics)

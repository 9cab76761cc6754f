"""mmengine hooks of a run: feature capture, random state, NaN guard, checkpoints and reports."""

from __future__ import annotations

import math
import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from mmengine.dist import is_main_process
from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper
from torch import Tensor

from rdistill.checkpoint import as_plain_data, replace_durably
from rdistill.distiller import Distiller
from rdistill.evaluation import tidy_metrics
from rdistill.teacher import EmaTeacher

METRIC = "mIoU"  # what "best" means


class Listener(Protocol):
    """Is told how a run goes: the console, Ray Tune or Ray Train stand behind it."""

    def started(self, *, first_iteration: int, last_iteration: int, facts: Mapping[str, Any]) -> None:
        """Training begins; ``facts`` holds ``teacher_mIoU`` and the ``effective`` values."""

    def stepped(self, iteration: int, values: Mapping[str, float]) -> None:
        """Some iterations are done; ``values`` are losses and the learning rate (``lr``)."""

    def validated(self, iteration: int, metrics: Mapping[str, Any]) -> None:
        """The student was scored: percent, as :func:`rdistill.evaluation.tidy_metrics` gives them."""

    def warned(self, message: str) -> None:
        """Something beside the training, such as a tracker, does not work."""


class Silent:
    """The listener that does nothing."""

    def started(self, *, first_iteration: int, last_iteration: int, facts: Mapping[str, Any]) -> None: ...

    def stepped(self, iteration: int, values: Mapping[str, float]) -> None: ...

    def validated(self, iteration: int, metrics: Mapping[str, Any]) -> None: ...

    def warned(self, message: str) -> None: ...


class DivergedError(RuntimeError):
    """A loss became NaN or infinite."""


def unwrap(runner: Any) -> Distiller:
    """The Distiller of a runner, from under DDP."""
    return runner.model.module if is_model_wrapper(runner.model) else runner.model


class FeatureCaptureHook(Hook):
    """Captures the student's features during a training step, and lets go of them after it."""

    def before_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None) -> None:
        unwrap(runner).capture.attach()

    def after_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        capture = unwrap(runner).capture
        capture.detach()
        capture.clear()


class WeightScheduleHook(Hook):
    """Sets each loss's factor of the iteration, as its schedule says."""

    def before_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None) -> None:
        distiller = unwrap(runner)
        for name, route in distiller.routes.items():
            distiller.factors[name] = route.schedule.factor(runner.iter, runner.max_iters)


class EmaTeacherHook(Hook):
    """Lets EMA teachers follow the student, and keeps them in checkpoints so that a resume continues them."""

    def before_train(self, runner: Any) -> None:
        if runner.iter == 0:  # the student has its first weights only now
            self._follow(runner)

    def after_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        self._follow(runner)

    def before_save_checkpoint(self, runner: Any, checkpoint: dict[str, Any]) -> None:
        states = [teacher.state_dict() for teacher in _ema_teachers(runner)]
        if states:
            checkpoint["ema_teachers"] = states

    def after_load_checkpoint(self, runner: Any, checkpoint: dict[str, Any]) -> None:
        for teacher, state in zip(_ema_teachers(runner), checkpoint.get("ema_teachers", []), strict=True):
            teacher.load_state_dict(state)

    def _follow(self, runner: Any) -> None:
        for teacher in _ema_teachers(runner):
            teacher.follow(unwrap(runner).student)


def _ema_teachers(runner: Any) -> list[EmaTeacher]:
    return [teacher for teacher in unwrap(runner).teachers if isinstance(teacher, EmaTeacher)]


class RandomStateHook(Hook):
    """Gives the weights, and training, random streams of their own, which nothing else disturbs.

    Both start from the seed alone; training's goes on where the resumed checkpoint left it.
    """

    priority = "VERY_HIGH"

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self._to_restore: dict[str, Any] | None = None
        self._started = False

    def before_run(self, runner: Any) -> None:
        # mmengine draws the student's weights next. What came before, such as scoring the teacher, has drawn too.
        seed_everything(self.seed, 0)

    def before_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None) -> None:
        # Not before_train: mmengine makes the data iterator, which draws random numbers, after that.
        if self._started:
            return
        self._started = True
        if self._to_restore is None:
            seed_everything(self.seed, runner.rank, 1)
        else:
            set_random_state(self._to_restore)

    def before_val(self, runner: Any) -> None:
        self._before_val = random_state()

    def after_val(self, runner: Any) -> None:
        set_random_state(self._before_val)

    def before_save_checkpoint(self, runner: Any, checkpoint: dict[str, Any]) -> None:
        checkpoint["random_state"] = random_state()

    def after_load_checkpoint(self, runner: Any, checkpoint: dict[str, Any]) -> None:
        self._to_restore = checkpoint.get("random_state")


def seed_everything(*entropy: int) -> None:
    """Seeds Python's, numpy's and torch's generators from some integers."""
    words = np.random.SeedSequence(entropy).generate_state(3)
    random.seed(int(words[0]))
    np.random.seed(int(words[1]))
    torch.manual_seed(int(words[2]))


def random_state() -> dict[str, Any]:
    """The state of Python's, numpy's and torch's generators, as plain data and tensors."""
    version, words, gauss = random.getstate()
    numpy_state = np.random.get_state(legacy=False)
    assert isinstance(numpy_state, dict)
    return {
        "python": [version, list(words), gauss],
        "numpy": as_plain_data(numpy_state),
        "torch": torch.random.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
    }


def set_random_state(state: Mapping[str, Any]) -> None:
    version, words, gauss = state["python"]
    random.setstate((version, tuple(words), gauss))
    inner = state["numpy"]["state"]
    key = np.asarray(inner["key"], dtype=np.uint32)
    np.random.set_state({**state["numpy"], "state": {"key": key, "pos": inner["pos"]}})
    torch.random.set_rng_state(state["torch"].cpu())
    if torch.cuda.is_available() and len(state["cuda"]) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all([cuda.cpu() for cuda in state["cuda"]])


class DivergenceHook(Hook):
    """Stops at the iteration in which a loss is NaN or infinite, and names the loss and the batch."""

    priority = "VERY_HIGH"

    def after_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        values = {key: value for key, value in (outputs or {}).items() if isinstance(value, Tensor)}
        # One transfer from the device a step, whatever the number of losses.
        if not values or torch.isfinite(torch.stack([value.detach().float().sum() for value in values.values()]).sum()):
            return
        bad = [key for key, value in values.items() if not torch.isfinite(value).all()]
        named = [key for key in bad if key != "loss"] or bad
        files = [Path(sample.img_path).name for sample in (data_batch or {}).get("data_samples", [])]
        raise DivergedError(
            f"iteration {runner.iter + 1}: {', '.join(named)} is not finite; images {', '.join(files)}; "
            f"lower the learning rate or that loss's weight; {_last_good(runner)}"
        )


def _last_good(runner: Any) -> str:
    last = Path(runner.work_dir, "last.pth")
    return f"last good checkpoint: {last}" if last.is_file() else "there is no checkpoint yet"


class CheckpointHook(Hook):
    """Writes ``last.pth`` and ``best.pth``: whole or not at all, and loadable without running code.

    Args:
        interval: iterations between two writes of ``last.pth``; it is written after each validation
            and at the end anyway.
    """

    priority = "VERY_LOW"

    def __init__(self, interval: int | None = None) -> None:
        self.interval = interval
        self.best: dict[str, Any] = {}
        self.last: dict[str, Any] = {}

    def after_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        done = runner.iter + 1
        validates_next = runner.val_loop is not None and (done % runner.val_interval == 0 or done == runner.max_iters)
        if self.interval and done % self.interval == 0 and not validates_next:
            self._save(runner, "last.pth", done)

    def after_val_epoch(self, runner: Any, metrics: dict[str, float] | None = None) -> None:
        self.last = {"iter": runner.iter, "metrics": tidy_metrics(metrics or {})}

    def after_val(self, runner: Any) -> None:
        # Not in after_val_epoch: only now is the random state that of training again.
        if not self.best or self.last["metrics"].get(METRIC, -math.inf) > self.best["metrics"].get(METRIC, -math.inf):
            self.best = self.last
            self._save(runner, "best.pth", runner.iter)
        self._save(runner, "last.pth", runner.iter)

    def before_save_checkpoint(self, runner: Any, checkpoint: dict[str, Any]) -> None:
        checkpoint["meta"] = {**as_plain_data(checkpoint["meta"]), "best": self.best, "last": self.last}
        # mmengine's log histories are objects; without them the file loads with weights_only=True.
        checkpoint["message_hub"] = {"log_scalars": {}, "runtime_info": {}, "resumed_keys": {}}

    def after_load_checkpoint(self, runner: Any, checkpoint: dict[str, Any]) -> None:
        meta = checkpoint.get("meta", {})
        self.best, self.last = meta.get("best", {}), meta.get("last", {})

    def _save(self, runner: Any, name: str, iteration: int) -> None:
        """A kill while writing leaves the previous file as it was."""
        if not is_main_process():
            return
        partial = f".{name}.partial"
        runner.save_checkpoint(
            runner.work_dir, partial, meta={"iter": iteration, "epoch": runner.epoch}, by_epoch=False
        )
        replace_durably(Path(runner.work_dir, partial), Path(runner.work_dir, name))


class ReportHook(Hook):
    """Tells a :class:`Listener` how training goes.

    Args:
        listener: who is told; on the main process only.
        facts: what is known before the first iteration.
        interval: iterations between two reports of losses.
    """

    priority = "LOWEST"

    def __init__(self, listener: Listener, facts: Mapping[str, Any], interval: int = 10) -> None:
        self.listener, self.facts, self.interval = listener, facts, interval

    def before_train(self, runner: Any) -> None:
        self.listener.started(first_iteration=runner.iter, last_iteration=runner.max_iters, facts=self.facts)

    def before_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None) -> None:
        self._lr = runner.optim_wrapper.get_lr()["lr"][0]  # after the step, it is the next one's

    def after_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        iteration = runner.iter + 1
        if iteration % self.interval == 0 or iteration == runner.max_iters:
            values = {key: value.item() for key, value in (outputs or {}).items() if isinstance(value, Tensor)}
            self.listener.stepped(iteration, {**values, "lr": self._lr})

    def after_val_epoch(self, runner: Any, metrics: dict[str, float] | None = None) -> None:
        self._metrics = tidy_metrics(metrics or {})

    def after_val(self, runner: Any) -> None:
        # After the checkpoints: a listener may end the run here.
        self.listener.validated(runner.iter, self._metrics)

"""The state of a run beside its weights: its random states, and what each of several workers has of its own.

A checkpoint keeps this state for every worker, so that a resumed run gives the same bits as an uninterrupted one.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypedDict

import numpy as np
import torch
from mmengine.dist import all_reduce_params
from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper
from torch import Tensor, nn

from rdistill._compat.mmengine import amid_accumulation
from rdistill.data.random_state import RandomState, random_state, seed_everything, set_random_state
from rdistill.distill.distiller import Distiller
from rdistill.distill.teacher import EmaTeacher
from rdistill.distributed import collectives
from rdistill.models.checkpoint import as_plain_data
from rdistill.schemas.run import RunCheckpoint

STATISTICS = ("running_mean", "running_var", "num_batches_tracked")


def unwrap(runner: Any) -> Distiller:
    """The Distiller of a runner, without a DDP wrapper."""
    return runner.model.module if is_model_wrapper(runner.model) else runner.model


class PlainRandomState(TypedDict):
    """A :class:`RandomState` as plain data and tensors, which load from a checkpoint without running code."""

    python: list[Any]  # version, words, gauss
    numpy: Any
    torch: Tensor
    cuda: list[Tensor]  # a state for each device


class WorkerState(TypedDict):
    """The state that differs between workers; a checkpoint holds one for each worker."""

    random: PlainRandomState
    statistics: dict[str, Tensor]  # BatchNorm's buffers; empty for a single worker
    gradients: dict[str, Tensor]  # gradients that were accumulated since the last update


class RunStateHook(Hook):
    """Seeds the initialisation of the weights and the training separately, so that nothing else changes their numbers.

    Each starts from its seed alone. In a resumed run, the training goes on from the random state and the other worker
    state of the checkpoint.

    Args:
        seed: seed of the training, such as of dropout.
        init_seed: seed of the initial weights.
    """

    priority = "VERY_HIGH"

    def __init__(self, seed: int, init_seed: int) -> None:
        self.seed, self.init_seed = seed, init_seed
        self._to_restore: list[WorkerState] = []
        self._started = False

    def before_run(self, runner: Any) -> None:
        # mmengine initialises the student next. Earlier steps, such as scoring the teacher, have drawn numbers too.
        seed_everything(self.init_seed, 0)

    def before_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None) -> None:
        # Not in before_train: mmengine makes the data iterator, which draws random numbers, after that.
        if self._started:
            return
        self._started = True
        if not self._to_restore:
            seed_everything(self.seed, runner.rank, 1)
        elif len(self._to_restore) == collectives.count():
            restore(runner, self._to_restore[runner.rank])
        else:  # another number of workers than before: each starts a new random stream
            seed_everything(self.seed, runner.rank, 1, runner.iter)
            _set_gradients(runner, _mean_gradients([state["gradients"] for state in self._to_restore]))

    def before_val(self, runner: Any) -> None:
        self._before_val = random_state()
        share_statistics(unwrap(runner).student)

    def after_val(self, runner: Any) -> None:
        set_random_state(self._before_val)

    def after_load_checkpoint(self, runner: Any, checkpoint: RunCheckpoint) -> None:
        self._to_restore = checkpoint.get("workers") or []


def own_state(runner: Any) -> WorkerState:
    """The state of this worker, without what other parts of the checkpoint hold already."""
    state: WorkerState = {"random": plain_random_state(), "statistics": {}, "gradients": {}}
    if collectives.count() > 1:
        state["statistics"] = {name: buffer.cpu() for name, buffer in _statistics(runner).items()}
    if amid_accumulation(runner.optim_wrapper):
        named = unwrap(runner).named_parameters()
        state["gradients"] = {name: parameter.grad.cpu() for name, parameter in named if parameter.grad is not None}
    return state


def restore(runner: Any, state: WorkerState) -> None:
    """Restores what :func:`own_state` returned."""
    set_plain_random_state(state["random"])
    with torch.no_grad():
        for name, buffer in _statistics(runner).items():
            if name in state["statistics"]:
                buffer.copy_(state["statistics"][name])
    _set_gradients(runner, state["gradients"])


def share_statistics(student: nn.Module) -> None:
    """Averages BatchNorm's running statistics over all workers, so that all of them score the same student."""
    if collectives.count() > 1:
        buffers = [buffer for name, buffer in student.named_buffers() if name.endswith(("running_mean", "running_var"))]
        if buffers:
            all_reduce_params(buffers, op="mean")


def _statistics(runner: Any) -> dict[str, Tensor]:
    """BatchNorm's buffers of the student, the losses and the EMA teachers; they differ between workers."""
    distiller = unwrap(runner)
    buffers = {name: buffer for name, buffer in distiller.named_buffers() if name.endswith(STATISTICS)}
    for index, teacher in enumerate(distiller.teachers):
        if isinstance(teacher, EmaTeacher):
            named = teacher.average.named_buffers()
            buffers |= {f"teacher.{index}.{name}": buffer for name, buffer in named if name.endswith(STATISTICS)}
    return buffers


def _mean_gradients(states: list[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    names = states[0] if states else {}
    return {name: torch.stack([state[name] for state in states]).mean(dim=0) for name in names}


def _set_gradients(runner: Any, gradients: Mapping[str, Tensor]) -> None:
    for name, parameter in unwrap(runner).named_parameters():
        if name in gradients:
            parameter.grad = gradients[name].to(parameter)


def plain_random_state() -> PlainRandomState:
    """The state of all random generators in the form that a checkpoint holds."""
    state = random_state()
    version, words, gauss = state.python
    return {
        "python": [version, list(words), gauss],
        "numpy": as_plain_data(state.numpy),
        "torch": state.torch,
        "cuda": state.cuda,
    }


def set_plain_random_state(state: PlainRandomState) -> None:
    version, words, gauss = state["python"]
    inner = state["numpy"]["state"]
    key = np.asarray(inner["key"], dtype=np.uint32)
    numpy_state = {**state["numpy"], "state": {"key": key, "pos": inner["pos"]}}
    set_random_state(RandomState((version, tuple(words), gauss), numpy_state, state["torch"], state["cuda"]))

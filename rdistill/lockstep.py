"""Several runs in one process over one stream of batches, with one teacher for all of them.

Each run is the very run that it would be alone: its own Runner, hooks, checkpoints and random stream, in a thread
of its own. Only one thread runs at a time. A run gives way where it asks for its next batch; the batch is
loaded once and handed to every run that waits for it, and the teacher's outputs for it are remembered meanwhile.
"""

from __future__ import annotations

import copy
import json
import queue
import random
import threading
import weakref
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from mmengine.config import Config
from mmengine.logging import MessageHub, MMLogger
from mmengine.runner import Runner
from torch import Tensor, nn

from rdistill.config import TeacherSpec
from rdistill.segmentor import decode_heads, swaps_channels
from rdistill.teacher import Teacher, load_teacher_model

# Where a run stands: iterations done, 0 for validation or 1 for training, batch of the validation.
Place = tuple[int, int, int]
VALIDATION, TRAINING = 0, 1


class LaneStopped(BaseException):
    """Ends a run from outside. Not an Exception: nothing on its way may take it for a failure."""


class Lane:
    """One run's side: its loaders, its teachers, and its turn."""

    def __init__(self, lockstep: Lockstep, name: str, run: Callable[[Lane], None]) -> None:
        self.lockstep, self.name = lockstep, name
        self.iterations = 0  # training batches that it has had
        self.stopped = False
        self.ended = False
        self.waits_for: tuple[str, Place] | None = None
        self.handed: Any = None
        self.stream: _Stream | None = None
        self._random = _random_state()
        self._current: list[tuple[dict[str, Any], str]] = []
        self._go = threading.Event()
        self._thread = threading.Thread(target=self._main, args=(run,), name=f"lane-{name}", daemon=True)

    # In the run's own thread ------------------------------------------------------------------------------------

    def loaders(self, cfg: Config) -> tuple[LaneLoader, LaneLoader]:
        """Training and validation loaders that draw from the stream which this config's data makes."""
        self.stream = self.lockstep.stream_of(cfg)
        return LaneLoader(self, self.stream.train, TRAINING), LaneLoader(self, self.stream.val, VALIDATION)

    def load(self, spec: TeacherSpec, trust_checkpoint: bool) -> nn.Module:
        """A teacher's model, of which there is one for all runs."""
        return self.lockstep.one_for_all(spec, trust_checkpoint).model

    def ask(self, model: nn.Module, spec: TeacherSpec, names: list[str], student_preprocessor: nn.Module) -> Teacher:
        """This run's view of that teacher."""
        return SharedTeacher(self.lockstep.one_for_all(spec), names, student_preprocessor, spec.weight)

    def wait_for(self, place: Place) -> Any:
        """Gives way until the batch of a place is there."""
        assert self.stream is not None
        self.waits_for = (self.stream.key, place)
        self.lockstep.give_back()
        self._go.wait()
        self._go.clear()
        if self.stopped:
            raise LaneStopped
        self.waits_for = None
        handed, self.handed = self.handed, None
        return handed

    def _main(self, run: Callable[[Lane], None]) -> None:
        self._go.wait()
        self._go.clear()
        try:
            if not self.stopped:
                run(self)
        except LaneStopped:
            pass
        finally:
            self.ended = True
            self.lockstep.give_back()

    # In the lockstep's thread -----------------------------------------------------------------------------------

    def take_turn(self, handed: Any = None) -> None:
        """Lets the run go on until it waits again or ends. Everything global is its own meanwhile."""
        self.handed = handed
        _set_random_state(self._random)
        for table, name in self._current:
            if name in table:  # mmengine's current instance is the last of its table
                table[name] = table.pop(name)
        if not self._thread.is_alive():
            self._thread.start()
        self._go.set()
        self.lockstep.await_return()
        self._random = _random_state()
        tables = [manager._instance_dict for manager in (MMLogger, MessageHub)]
        self._current = [(table, next(reversed(table))) for table in tables if table]
        if self.ended:
            self._thread.join()


class LaneLoader:
    """What a run's loop takes for a DataLoader.

    Args:
        lane: whose.
        loader: the stream's own loader.
        phase: ``TRAINING`` or ``VALIDATION``.
    """

    def __init__(self, lane: Lane, loader: Any, phase: int) -> None:
        self.lane, self.phase, self.sampler = lane, phase, self
        self.dataset, self.batch_size, self.num_workers = loader.dataset, loader.batch_size, 0
        self._length = len(loader)

    def __len__(self) -> int:
        return self._length

    def __iter__(self) -> Iterator[Any]:
        lane = self.lane
        if self.phase == VALIDATION:
            for number in range(self._length):
                yield lane.wait_for((lane.iterations, VALIDATION, number))
            return
        while True:
            batch = lane.wait_for((lane.iterations, TRAINING, 0))
            lane.iterations += 1
            yield batch

    def skip(self, num_samples: int) -> None:
        """As mmengine's samplers: a resumed run starts after so many samples."""
        self.lane.iterations = num_samples // self.batch_size

    def set_epoch(self, epoch: int) -> None:
        """As mmengine's samplers; a stream has no epochs."""


@dataclass
class _Stream:
    """One order of batches, and one validation set."""

    key: str
    train: Any
    val: Any
    _iterator: Any = None
    _next: int = -1
    _val_iterator: Any = None
    _val_next: int = -1

    def load(self, place: Place) -> Any:
        """The batch of a place; cheap when places come in order."""
        done, phase, number = place
        if phase == VALIDATION:
            if number != self._val_next:
                self._val_iterator, self._val_next = iter(self.val), 0
                for _ in range(number):
                    next(self._val_iterator)
                    self._val_next += 1
            self._val_next = number + 1
            return next(self._val_iterator)
        if done != self._next:
            self.train.sampler.skip(done * self.train.batch_size)
            self._iterator = iter(self.train)
        self._next = done + 1
        return next(self._iterator)


class Lockstep:
    """Runs lanes in turns. :meth:`join` and ``Lane.stopped`` are for any thread, all else for one."""

    def __init__(self) -> None:
        self.lanes: list[Lane] = []
        self._joining: queue.SimpleQueue[Lane] = queue.SimpleQueue()
        self._streams: dict[str, _Stream] = {}
        self._teachers: dict[str, _OneForAll] = {}
        self._back = threading.Event()

    def join(self, name: str, run: Callable[[Lane], None]) -> Lane:
        """Adds a run; it starts with the next batch."""
        lane = Lane(self, name, run)
        self._joining.put(lane)
        return lane

    def step(self) -> bool:
        """Serves one batch to all that wait for it; False when no run is left."""
        while not self._joining.empty():
            self.lanes.append(self._joining.get())
            self.lanes[-1].take_turn()
        for lane in self.lanes:
            if lane.stopped and not lane.ended:
                lane.take_turn()
        self.lanes = [lane for lane in self.lanes if not lane.ended]
        if not self.lanes:
            return False
        # The hindmost first: a run that joined late, or resumed from an earlier checkpoint, catches up with the others
        # and shares with them from there. All see the same data in the same order.
        place, key = min((lane.waits_for[1], lane.waits_for[0]) for lane in self.lanes if lane.waits_for is not None)
        served = [lane for lane in self.lanes if lane.waits_for == (key, place)]
        batch = self._streams[key].load(place)
        for teacher in self._teachers.values():
            teacher.begin_batch(shared=place[1] == TRAINING and len(served) > 1)
        for lane in served:
            if not lane.stopped:  # by a report of a lane before it
                # mmseg's preprocessing changes a batch in place.
                lane.take_turn(batch if lane is served[-1] else copy.deepcopy(batch))
        for teacher in self._teachers.values():
            teacher.begin_batch(shared=False)
        return True

    def give_back(self) -> None:
        """Ends the turn of the lane that calls it."""
        self._back.set()

    def await_return(self) -> None:
        self._back.wait()
        self._back.clear()

    def stream_of(self, cfg: Config) -> _Stream:
        """The stream of a run's data, made at its first use."""
        data = {name: cfg[name].to_dict() for name in ("train_dataloader", "val_dataloader")}
        key = json.dumps(data, sort_keys=True, default=str)
        if key not in self._streams:
            train, val = (Runner.build_dataloader(one, seed=0) for one in data.values())
            self._streams[key] = _Stream(key, train, val)
        return self._streams[key]

    def one_for_all(self, spec: TeacherSpec, trust_checkpoint: bool = False) -> _OneForAll:
        """The teacher of a spec, loaded at its first use."""
        key = spec.model_dump_json(exclude={"weight", "features"})
        if key not in self._teachers:
            self._teachers[key] = _OneForAll(load_teacher_model(spec, trust_checkpoint=trust_checkpoint))
        return self._teachers[key]


class _OneForAll:
    """A teacher's model, and what it said of the batch on hand."""

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self.views: weakref.WeakSet[SharedTeacher] = weakref.WeakSet()
        self._shared = False
        self._said: dict[str, dict[str, Tensor]] = {}  # by the preprocessing of the images
        self._asking: tuple[tuple[str, tuple[str, ...]], Teacher] | None = None

    def begin_batch(self, *, shared: bool) -> None:
        """Forgets the last batch. ``shared``: several runs will ask about this one."""
        self._shared = shared
        self._said.clear()

    def answer(self, view: SharedTeacher, inputs_nchw: Tensor) -> dict[str, Tensor]:
        """As ``Teacher.__call__``; of a shared batch, everything that anybody asks is computed at once."""
        if not self._shared:
            return self._compute(view, view.names, inputs_nchw)
        if view.preprocessing not in self._said:
            union = tuple(sorted({name for other in self.views for name in other.names}))
            self._said[view.preprocessing] = self._compute(view, union, inputs_nchw)
        return {name: self._said[view.preprocessing][name] for name in view.names}

    def _compute(self, view: SharedTeacher, names: tuple[str, ...], inputs_nchw: Tensor) -> dict[str, Tensor]:
        asked = (view.preprocessing, names)
        if self._asking is None or self._asking[0] != asked:
            self._asking = asked, Teacher(self.model, names, view.student_preprocessor)
        return self._asking[1](inputs_nchw)


class SharedTeacher(Teacher):
    """One run's view of a teacher that several runs share."""

    def __init__(self, one: _OneForAll, names: Sequence[str], student_preprocessor: nn.Module, weight: float) -> None:
        self._one, self.model, self.weight = one, one.model, weight
        self.heads = decode_heads(one.model)
        self.names, self.student_preprocessor = tuple(names), student_preprocessor
        statistics = [getattr(student_preprocessor, name, None) for name in ("mean", "std")]
        order = swaps_channels(student_preprocessor)
        self.preprocessing = repr([type(student_preprocessor).__name__, order, *statistics])
        one.views.add(self)

    def __call__(self, inputs_nchw: Tensor) -> dict[str, Tensor]:
        return self._one.answer(self, inputs_nchw)


def _random_state() -> tuple[Any, ...]:
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else None
    return random.getstate(), np.random.get_state(), torch.random.get_rng_state(), cuda


def _set_random_state(state: tuple[Any, ...]) -> None:
    random.setstate(state[0])
    np.random.set_state(state[1])
    torch.random.set_rng_state(state[2])
    if state[3] is not None:
        torch.cuda.set_rng_state_all(state[3])

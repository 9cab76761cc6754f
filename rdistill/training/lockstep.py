"""Trains several runs in one process, over one stream of batches and with one teacher for all of them.

Each run gives the same numbers as it would alone: it has its own Runner, hooks, checkpoints and random state, in its
own greenlet. When a run needs its next batch, it switches to the lockstep's greenlet. The batch is loaded once and
passed to every run that waits for it, and the teacher's outputs for it are kept until all of them have used it.

Greenlets are used, and not threads that take turns, because each thread that computes with OpenMP gets its own pool of
threads. With more of them than cores, OpenMP puts them to sleep after each operation. With eight runs on two cores,
a step of a small student then took 1.5 times as long.
"""

from __future__ import annotations

import copy
import json
import queue
import time
import weakref
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from greenlet import greenlet
from mmengine.config import Config
from mmengine.logging import MessageHub, MMLogger
from mmengine.runner import Runner
from torch import Tensor, nn

from rdistill._compat.mmengine import instances
from rdistill.config.distill_spec import FUSED, TeacherSpec
from rdistill.data.random_state import random_state, set_random_state
from rdistill.distill.teacher import (
    KeptCounts,
    Teacher,
    image_statistics,
    kept_counts,
    load_teacher_model,
    make_cache,
    make_store,
)
from rdistill.distill.teacher_store import TeacherStore
from rdistill.distributed import collectives
from rdistill.models.segmentor import logit_names, swaps_channels

# The position of a run: iterations done, phase (0 for validation, 1 for training), number of the validation batch.
Position = tuple[int, int, int]
VALIDATION, TRAINING = 0, 1
NO_BATCH = "no batch"  # passed to a run in place of a batch that another worker has and this one has not


class LaneStopped(BaseException):
    """Ends a run from outside. It is no Exception, so that no ``except Exception`` treats it as a failure."""


@dataclass
class LaneTiming:
    """The wall-clock seconds of a run, counted while it runs or while something is computed for it.

    On a GPU, the forward passes of teacher and student go on after the call returns. The sum is then right, but not how
    it is divided.
    """

    own: float = 0.0  # the turns of this run, without the following two
    teacher: float = 0.0  # its part of the teacher's forward passes
    data: float = 0.0  # its part of loading batches
    teacher_alone: float = 0.0  # what the teacher would take for this run alone, without a cache
    data_alone: float = 0.0  # what loading would take for this run alone
    # The part of these that training steps took, without set-up, validations and writing files.
    steps: float = 0.0
    steps_data: float = 0.0
    steps_data_alone: float = 0.0

    def as_seconds(self) -> dict[str, float]:
        """The same as ``own_seconds``, ``teacher_seconds`` and so on."""
        return {f"{name}_seconds": seconds for name, seconds in asdict(self).items()}


class Lane:
    """One run in lockstep: its loaders, its teachers and its greenlet.

    Attributes:
        timing: the seconds of its turns so far.
        broken: an error of the run after which no other run may go on in this process; its turn raises the error.
    """

    def __init__(self, lockstep: Lockstep, name: str, run: Callable[[Lane], None]) -> None:
        self.lockstep, self.name = lockstep, name
        self.iterations = 0  # training batches that it has received, those before a resume included
        self.steps = 0  # training batches in this process; their seconds are in `timing`
        self.stopped = False
        self.ended = False
        self.broken: BaseException | None = None
        self.timing = LaneTiming()
        self._since: float | None = None  # start of the current turn; None outside of its turns
        self.waits_for: tuple[str, Position] | None = None
        self.handed: Any = None
        self.stream: _Stream | None = None
        self._random = random_state()
        self._current: list[tuple[dict[str, object], str]] = []
        self._run = run
        self._greenlet: greenlet | None = None  # made in the thread that gives it its first turn

    # These run in the run's own greenlet ------------------------------------------------------------------------

    def loaders(self, cfg: Config) -> tuple[LaneLoader, LaneLoader]:
        """The training and the validation loader, which take batches from the stream of this config's data."""
        self.stream = self.lockstep.stream_of(cfg)
        train, val, num_batches = self.stream.train, self.stream.val, self.stream.num_val_batches
        return LaneLoader(self, train, TRAINING, len(train)), LaneLoader(self, val, VALIDATION, num_batches)

    def load(self, spec: TeacherSpec, trust_checkpoint: bool) -> nn.Module:
        """A teacher's model, which all runs share."""
        return self.lockstep.shared_model(spec, trust_checkpoint).model

    def make_teacher(
        self, model: nn.Module, spec: TeacherSpec, names: list[str], student_preprocessor: nn.Module
    ) -> Teacher:
        """This run's :class:`SharedTeacher` for that model."""
        return SharedTeacher(self, self.lockstep.shared_model(spec), names, student_preprocessor, spec.weight)

    def seconds(self) -> dict[str, float]:
        """The seconds so far, the current turn included, and the number of training ``steps``."""
        timing = self.timing.as_seconds()
        timing["own_seconds"] += 0.0 if self._since is None else time.perf_counter() - self._since
        return {**timing, "steps": self.steps}

    def leave_out(self, seconds: float) -> None:
        """Subtracts seconds of this turn that do not belong to the training, such as those of a diagnosis."""
        self.timing.own -= seconds

    def wait_for(self, position: Position) -> Any:
        """Lets other runs go on until the batch of a position is loaded; raises the error if loading failed."""
        assert self.stream is not None and self._greenlet is not None
        # All runs share the thread, and so these modes: a run must not switch within `no_grad` or `inference_mode`.
        assert torch.is_grad_enabled() and not torch.is_inference_mode_enabled()
        self.waits_for = (self.stream.key, position)
        self._greenlet.parent.switch()
        if self.stopped:
            raise LaneStopped
        self.waits_for = None
        handed, self.handed = self.handed, None
        if isinstance(handed, Exception):
            raise handed
        return handed

    def _main(self) -> None:
        try:
            if not self.stopped:
                self._run(self)
        except LaneStopped:
            pass
        finally:
            self.ended = True

    # This runs in the lockstep's greenlet -----------------------------------------------------------------------

    def take_turn(self, handed: Any = None) -> None:
        """Lets the run go on until it waits again or ends, with the run's own random state and mmengine loggers.

        ``handed`` is the batch that it waits for, or the error that loading raised.
        """
        self.handed = handed
        set_random_state(self._random)
        for table, name in self._current:
            if name in table:  # mmengine takes the last entry of the table as its current instance
                table[name] = table.pop(name)
        if self._greenlet is None:
            self._greenlet = greenlet(self._main)
        trains = self.waits_for is not None and self.waits_for[1][1] == TRAINING
        self._since = time.perf_counter()
        self._greenlet.switch()
        seconds = time.perf_counter() - self._since
        self.timing.own += seconds
        if trains:
            self.timing.steps += seconds
            self.steps += 1
        self._since = None
        self._random = random_state()
        tables = [instances(manager) for manager in (MMLogger, MessageHub)]
        self._current = [(table, next(reversed(table))) for table in tables if table]
        if self.broken is not None:
            raise self.broken


class LaneLoader:
    """Replaces the DataLoader of a run's loop.

    Args:
        lane: the run's lane.
        loader: the loader of the stream.
        phase: ``TRAINING`` or ``VALIDATION``.
        num_batches: number of batches of a validation.
    """

    def __init__(self, lane: Lane, loader: Any, phase: int, num_batches: int) -> None:
        self.lane, self.phase, self.sampler, self._num_batches = lane, phase, self, num_batches
        self.dataset, self.batch_size, self.num_workers = loader.dataset, loader.batch_size, 0
        self._length = len(loader)

    def __len__(self) -> int:
        return self._length

    def __iter__(self) -> Iterator[Any]:
        lane = self.lane
        if self.phase == VALIDATION:
            for number in range(self._num_batches):
                batch = lane.wait_for((lane.iterations, VALIDATION, number))
                if batch is not NO_BATCH:
                    yield batch
            return
        while True:
            batch = lane.wait_for((lane.iterations, TRAINING, 0))
            lane.iterations += 1
            yield batch

    def skip(self, num_samples: int) -> None:
        """Part of the interface of mmengine's samplers: a resumed run starts after ``num_samples``."""
        self.lane.iterations = num_samples // self.batch_size

    def set_epoch(self, epoch: int) -> None:
        """Part of the interface of mmengine's samplers; it does nothing, because a stream has no epochs."""


@dataclass
class _Stream:
    """One order of batches, and one validation set."""

    key: str
    train: Any
    val: Any
    num_val_batches: int  # the largest number of all workers, which all take as many steps
    _iterator: Any = None
    _next: int = -1
    _val_iterator: Any = None
    _val_next: int = -1

    def load(self, position: Position) -> Any:
        """Loads the batch of a position; fast if positions come in order."""
        done, phase, number = position
        if phase == VALIDATION:
            if number >= len(self.val):
                return NO_BATCH
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
    """Runs lanes in turns.

    :meth:`join` may be called, and ``Lane.stopped`` may be set, from any thread; all else belongs to a single thread.
    """

    def __init__(self) -> None:
        self.lanes: list[Lane] = []
        self._joining: queue.SimpleQueue[Lane] = queue.SimpleQueue()
        self._streams: dict[str, _Stream] = {}
        self._teachers: dict[str, _SharedModel] = {}

    def join(self, name: str, run: Callable[[Lane], None]) -> Lane:
        """Adds a run; it starts with the next batch."""
        lane = Lane(self, name, run)
        self._joining.put(lane)
        return lane

    def step(self) -> bool:
        """Loads one batch and lets each run that waits for it take its step.

        Returns:
            False if no run is left.
        """
        while not self._joining.empty():
            self.lanes.append(self._joining.get())
            self.lanes[-1].take_turn()
        for lane in self.lanes:
            if lane.stopped and not lane.ended:
                lane.take_turn()
        self.lanes = [lane for lane in self.lanes if not lane.ended]
        if not self.lanes:
            # This ends the streams' data workers; a run that joins later may have other data. The teachers stay loaded.
            self._streams.clear()
            return False
        # The run that is furthest behind goes first. So a run that joined late, or resumed from an earlier checkpoint,
        # catches up with the others and shares its batches with them from then on.
        position, key = min((lane.waits_for[1], lane.waits_for[0]) for lane in self.lanes if lane.waits_for is not None)
        waiting = [lane for lane in self.lanes if lane.waits_for == (key, position)]
        batch = self._load(key, position, waiting)
        for teacher in self._teachers.values():
            teacher.begin_batch(shared=position[1] == TRAINING and len(waiting) > 1)
        for lane in waiting:
            if not lane.stopped:  # what an earlier lane reported may have stopped this one
                # mmseg's preprocessing changes a batch in place, so each lane but the last gets a copy.
                lane.take_turn(batch if lane is waiting[-1] else copy.deepcopy(batch))
        for teacher in self._teachers.values():
            teacher.end_batch()
        return True

    def _load(self, key: str, position: Position, waiting: list[Lane]) -> Any:
        """The batch of a position, or the error that loading raised, such as for an image that cannot be opened."""
        since = time.perf_counter()
        try:
            batch = self._streams[key].load(position)
        except Exception as error:
            batch = error
        seconds = time.perf_counter() - since
        for lane in waiting:
            lane.timing.data += seconds / len(waiting)
            lane.timing.data_alone += seconds
            if position[1] == TRAINING:
                lane.timing.steps_data += seconds / len(waiting)
                lane.timing.steps_data_alone += seconds
        return batch

    def stream_of(self, cfg: Config) -> _Stream:
        """The stream of a run's data, made at its first use."""
        data = {name: cfg[name].to_dict() for name in ("train_dataloader", "val_dataloader")}
        key = json.dumps(data, sort_keys=True, default=str)
        if key not in self._streams:
            train, val = (Runner.build_dataloader(loader, seed=0) for loader in data.values())
            self._streams[key] = _Stream(key, train, val, max(collectives.gather_objects(len(val))))
        return self._streams[key]

    def shared_model(self, spec: TeacherSpec, trust_checkpoint: bool = False) -> _SharedModel:
        """The teacher of a spec, loaded at its first use."""
        key = spec.model_dump_json(exclude={"weight"})
        if key not in self._teachers:
            self._teachers[key] = _SharedModel(load_teacher_model(spec, trust_checkpoint=trust_checkpoint), spec)
        return self._teachers[key]


class _SharedModel:
    """A teacher's model, and its outputs for the current batch."""

    def __init__(self, model: nn.Module, spec: TeacherSpec) -> None:
        self.model, self.listed, self.spec = model, spec.features or (), spec
        self._stores: dict[str, TeacherStore] = {}  # key: how the images are preprocessed
        # A sweep has chosen forward and cache for all its trials; nothing is measured here.
        self.forward = spec.forward or FUSED
        self.cache = make_cache(model, spec, None) if spec.cache is not None and spec.cache.mode == "on" else None
        self.views: weakref.WeakSet[SharedTeacher] = weakref.WeakSet()
        self._shared = False
        # Values for the current batch; the key of each is how the images are preprocessed.
        self._outputs: dict[str, dict[str, Tensor]] = {}
        self._seconds: dict[str, tuple[float, float]] = {}  # seconds that the outputs took, and without a cache
        self._users: dict[str, list[Lane]] = {}  # the runs that have used them
        self._counts: dict[str, KeptCounts] = {}  # counts of store and cache for them
        self._computing: tuple[tuple[str, tuple[str, ...]], Teacher] | None = None

    def store(self, view: SharedTeacher) -> TeacherStore | None:
        """The store that all runs with the same preprocessing share."""
        if self.spec.store is None:
            return None
        if view.preprocessing not in self._stores:
            # The config of a sweep's trial names the folder of the store; this work dir is only the default.
            folder = Path("work_dirs", "store")
            spec = self.spec.model_copy(update={"forward": self.forward})  # an entry belongs to one forward
            self._stores[view.preprocessing] = make_store(self.model, spec, folder, view.student_preprocessor)
        return self._stores[view.preprocessing]

    def begin_batch(self, *, shared: bool) -> None:
        """Prepares for a batch; ``shared`` says that several runs will use its outputs."""
        self._shared = shared

    def end_batch(self) -> None:
        """Drops the outputs for the batch, and divides their seconds among the runs that used them."""
        self._shared = False
        for preprocessing, users in self._users.items():
            seconds, seconds_uncached = self._seconds[preprocessing]
            for lane in users:
                lane.timing.teacher += seconds / len(users)
                lane.timing.teacher_alone += seconds_uncached
        for table in (self._outputs, self._seconds, self._users, self._counts):
            table.clear()

    def answer(self, view: SharedTeacher, inputs_nchw: Tensor, views: Sequence[str | None] | None) -> dict[str, Tensor]:
        """Does the work of ``Teacher.__call__``; for a shared batch, the outputs of all runs are computed together."""
        before = kept_counts(view.store, self.cache)
        if not self._shared:
            outputs, (seconds, seconds_uncached) = self._compute(view, view.names, inputs_nchw, views)
            view.counted += kept_counts(view.store, self.cache) - before
            view.lane.timing.teacher += seconds
            view.lane.timing.teacher_alone += seconds_uncached
            return outputs
        key = view.preprocessing
        if key not in self._outputs:
            union = tuple(sorted({name for view in self.views for name in view.names}))
            self._outputs[key], self._seconds[key] = self._compute(view, union, inputs_nchw, views)
            self._users[key] = []
            self._counts[key] = kept_counts(view.store, self.cache) - before
        self._users[key].append(view.lane)
        view.counted += self._counts[key]  # the counts that this run would have alone
        return {name: self._outputs[key][name] for name in view.names}

    def _compute(
        self,
        view: SharedTeacher,
        names: tuple[str, ...],
        inputs_nchw: Tensor,
        views: Sequence[str | None] | None,
    ) -> tuple[dict[str, Tensor], tuple[float, float]]:
        """The outputs, and (the seconds that they took, the seconds that they would take without a cache).

        These seconds are subtracted from the run's own ones.
        """
        since = time.perf_counter()
        request = (view.preprocessing, names)
        if self._computing is None or self._computing[0] != request:
            teacher = Teacher(self.model, names, view.student_preprocessor, 1.0, self.forward, self.listed)
            teacher.cache, teacher.store = self.cache, view.store
            self._computing = request, teacher
        teacher = self._computing[1]
        outputs = teacher(inputs_nchw) if views is None else teacher(inputs_nchw, views)
        seconds = time.perf_counter() - since
        view.lane.timing.own -= seconds
        view.lane.timing.steps -= seconds  # teachers run in training steps only
        if self.cache is None:
            return outputs, (seconds, seconds)
        return outputs, (seconds, self.cache.seconds_without_cache(seconds, len(inputs_nchw)))


class SharedTeacher(Teacher):
    """The teacher of one run, whose model and outputs several runs share."""

    def __init__(
        self, lane: Lane, shared: _SharedModel, names: Sequence[str], student_preprocessor: nn.Module, weight: float
    ) -> None:
        self.lane, self._shared, self.model, self.weight = lane, shared, shared.model, weight
        self.heads = logit_names(shared.model, training=False)
        self.names, self.student_preprocessor = tuple(names), student_preprocessor
        order = swaps_channels(student_preprocessor)
        self.preprocessing = repr([type(student_preprocessor).__name__, order, *image_statistics(student_preprocessor)])
        self.cache = shared.cache
        self.store = shared.store(self)
        self.counted = KeptCounts()
        shared.views.add(self)

    def __call__(self, inputs_nchw: Tensor, views: Sequence[str | None] | None = None) -> dict[str, Tensor]:
        return self._shared.answer(self, inputs_nchw, views)

    def kept_counts(self) -> KeptCounts:
        """The counts for this run's own batches: other runs may have other images, or may have joined later."""
        return self.counted

    def without_cache(self) -> Teacher:
        """A teacher with the same model that shares no batch, and whose seconds are not counted."""
        shared = self._shared
        return Teacher(self.model, self.names, self.student_preprocessor, self.weight, shared.forward, shared.listed)

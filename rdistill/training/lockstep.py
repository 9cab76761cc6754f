"""Several runs in one process over one stream of batches, with one teacher for all of them.

Each run is the very run that it would be alone: its own Runner, hooks, checkpoints and random stream, in a greenlet
of its own. A run gives way where it needs its next batch; the batch is loaded once and handed to every run that
waits for it, and the teacher's outputs for it are remembered meanwhile.

Greenlets rather than threads that take turns: each thread that computes with OpenMP brings a pool of threads of its
own, and with more of them than cores OpenMP puts them to sleep after each operation. With eight runs on two cores
that made a step of a small student half as long again.
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
    cache_of,
    image_statistics,
    kept_counts,
    load_teacher_model,
    store_of,
)
from rdistill.distill.teacher_store import TeacherStore
from rdistill.distributed import collectives
from rdistill.models.segmentor import logit_names, swaps_channels

# Where a run stands: iterations done, 0 for validation or 1 for training, batch of the validation.
Position = tuple[int, int, int]
VALIDATION, TRAINING = 0, 1
NOTHING = "nothing"  # handed out in place of a batch that another worker has and this one has not


class LaneStopped(BaseException):
    """Ends a run from outside. Not an Exception: nothing on its way may take it for a failure."""


@dataclass
class LaneTiming:
    """What a run has taken, in seconds on the wall while it, or somebody for it, had the processor.

    On a GPU the teacher's forward pass and the student's run on after the call: the sum is right, not the shares.
    """

    own: float = 0.0  # its turns, less what follows
    teacher: float = 0.0  # its share of the teacher's forward passes
    data: float = 0.0  # its share of loading
    teacher_alone: float = 0.0  # what it would take with a teacher for itself, that computes every output
    data_alone: float = 0.0
    # What training steps took of these: without set-up, validations and files at the end.
    steps: float = 0.0
    steps_data: float = 0.0
    steps_data_alone: float = 0.0

    def as_seconds(self) -> dict[str, float]:
        """``own_seconds``, ``teacher_seconds`` and so on."""
        return {f"{name}_seconds": seconds for name, seconds in asdict(self).items()}


class Lane:
    """One run's side: its loaders, its teachers, and its turn.

    Attributes:
        timing: of its turns so far.
        broken: what its run raised, if nothing else may go on in this process after it: the turn then raises it.
    """

    def __init__(self, lockstep: Lockstep, name: str, run: Callable[[Lane], None]) -> None:
        self.lockstep, self.name = lockstep, name
        self.iterations = 0  # training batches that it has had
        self.steps = 0  # training batches in this process, whose seconds are in `cost`
        self.stopped = False
        self.ended = False
        self.broken: BaseException | None = None
        self.timing = LaneTiming()
        self._since: float | None = None  # when its turn began, in its turn
        self.waits_for: tuple[str, Position] | None = None
        self.handed: Any = None
        self.stream: _Stream | None = None
        self._random = random_state()
        self._current: list[tuple[dict[str, object], str]] = []
        self._run = run
        self._greenlet: greenlet | None = None  # made in the thread that gives it its first turn

    # These run in the run's own greenlet ------------------------------------------------------------------------

    def loaders(self, cfg: Config) -> tuple[LaneLoader, LaneLoader]:
        """Training and validation loaders that draw from the stream which this config's data makes."""
        self.stream = self.lockstep.stream_of(cfg)
        train, val, num_batches = self.stream.train, self.stream.val, self.stream.num_val_batches
        return LaneLoader(self, train, TRAINING, len(train)), LaneLoader(self, val, VALIDATION, num_batches)

    def load(self, spec: TeacherSpec, trust_checkpoint: bool) -> nn.Module:
        """A teacher's model, of which there is one for all runs."""
        return self.lockstep.shared_model(spec, trust_checkpoint).model

    def make_teacher(
        self, model: nn.Module, spec: TeacherSpec, names: list[str], student_preprocessor: nn.Module
    ) -> Teacher:
        """This run's view of that teacher."""
        return SharedTeacher(self, self.lockstep.shared_model(spec), names, student_preprocessor, spec.weight)

    def seconds(self) -> dict[str, float]:
        """What it has taken up to now, its current turn included, and the training ``steps`` that this was for."""
        timing = self.timing.as_seconds()
        timing["own_seconds"] += 0.0 if self._since is None else time.perf_counter() - self._since
        return {**timing, "steps": self.steps}

    def leave_out(self, seconds: float) -> None:
        """Seconds of this turn that are not the run's own, such as those of a diagnosis."""
        self.timing.own -= seconds

    def wait_for(self, position: Position) -> Any:
        """Gives way until the batch of a position is there; raises what kept it from being loaded."""
        assert self.stream is not None and self._greenlet is not None
        # The thread's modes are those of all runs.
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
        """Lets the run go on until it waits again or ends. Everything global is its own meanwhile."""
        self.handed = handed
        set_random_state(self._random)
        for table, name in self._current:
            if name in table:  # mmengine's current instance is the last of its table
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
    """What a run's loop takes for a DataLoader.

    Args:
        lane: whose.
        loader: the stream's own loader.
        phase: ``TRAINING`` or ``VALIDATION``.
        num_batches: of a validation.
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
                if batch is not NOTHING:
                    yield batch
            return
        while True:
            batch = lane.wait_for((lane.iterations, TRAINING, 0))
            lane.iterations += 1
            yield batch

    def skip(self, num_samples: int) -> None:
        """As mmengine's samplers: a resumed run starts after ``num_samples``."""
        self.lane.iterations = num_samples // self.batch_size

    def set_epoch(self, epoch: int) -> None:
        """As mmengine's samplers; a stream has no epochs."""


@dataclass
class _Stream:
    """One order of batches, and one validation set."""

    key: str
    train: Any
    val: Any
    num_val_batches: int  # batches of the worker that has most: all workers take as many steps
    _iterator: Any = None
    _next: int = -1
    _val_iterator: Any = None
    _val_next: int = -1

    def load(self, position: Position) -> Any:
        """The batch of a position; cheap when positions come in order."""
        done, phase, number = position
        if phase == VALIDATION:
            if number >= len(self.val):
                return NOTHING
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
        self._teachers: dict[str, _SharedModel] = {}

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
            self._streams.clear()  # their data workers go with them; who joins later may see other data. Teachers stay
            return False
        # The run furthest behind first: one that joined late, or resumed from an earlier checkpoint, catches up with
        # the others and shares with them from there. All see the same data in the same order.
        position, key = min((lane.waits_for[1], lane.waits_for[0]) for lane in self.lanes if lane.waits_for is not None)
        waiting = [lane for lane in self.lanes if lane.waits_for == (key, position)]
        batch = self._load(key, position, waiting)
        for teacher in self._teachers.values():
            teacher.begin_batch(shared=position[1] == TRAINING and len(waiting) > 1)
        for lane in waiting:
            if not lane.stopped:  # a report of a lane before it may have stopped it
                # mmseg's preprocessing changes a batch in place.
                lane.take_turn(batch if lane is waiting[-1] else copy.deepcopy(batch))
        for teacher in self._teachers.values():
            teacher.end_batch()
        return True

    def _load(self, key: str, position: Position, waiting: list[Lane]) -> Any:
        """The batch of a position, or what was raised instead: an image that does not open fails its readers."""
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
    """A teacher's model, and its outputs for the batch on hand."""

    def __init__(self, model: nn.Module, spec: TeacherSpec) -> None:
        self.model, self.listed, self.spec = model, spec.features or (), spec
        self._stores: dict[str, TeacherStore] = {}  # the key is the preprocessing of the images
        # A sweep has decided both for all its trials; what nobody has is not measured here.
        self.forward = spec.forward or FUSED
        self.cache = cache_of(model, spec, None) if spec.cache is not None and spec.cache.mode == "on" else None
        self.views: weakref.WeakSet[SharedTeacher] = weakref.WeakSet()
        self._shared = False
        self._outputs: dict[str, dict[str, Tensor]] = {}  # the key is the preprocessing of the images
        self._seconds: dict[str, tuple[float, float]] = {}  # that the outputs under each key took, and without a cache
        self._users: dict[str, list[Lane]] = {}  # the runs that needed them
        self._counts: dict[str, KeptCounts] = {}  # what store and cache did for them
        self._computing: tuple[tuple[str, tuple[str, ...]], Teacher] | None = None

    def store(self, view: SharedTeacher) -> TeacherStore | None:
        """The store that all runs share whose images are prepared alike."""
        if self.spec.store is None:
            return None
        if view.preprocessing not in self._stores:
            # A sweep has named the folder; without one its files go beside the working directory's own.
            folder = Path("work_dirs", "store")
            spec = self.spec.model_copy(update={"forward": self.forward})  # an entry belongs to one forward
            self._stores[view.preprocessing] = store_of(self.model, spec, folder, view.student_preprocessor)
        return self._stores[view.preprocessing]

    def begin_batch(self, *, shared: bool) -> None:
        """``shared``: several runs will need the outputs for this batch."""
        self._shared = shared

    def end_batch(self) -> None:
        """Forgets the batch, and divides the seconds that it took among the runs that used it."""
        self._shared = False
        for preprocessing, users in self._users.items():
            seconds, alone = self._seconds[preprocessing]
            for lane in users:
                lane.timing.teacher += seconds / len(users)
                lane.timing.teacher_alone += alone
        for table in (self._outputs, self._seconds, self._users, self._counts):
            table.clear()

    def answer(self, view: SharedTeacher, inputs_nchw: Tensor, views: Sequence[str | None] | None) -> dict[str, Tensor]:
        """As ``Teacher.__call__``; everything that any run needs of a shared batch is computed at once."""
        before = kept_counts(view.store, self.cache)
        if not self._shared:
            outputs, (seconds, alone) = self._compute(view, view.names, inputs_nchw, views)
            view.counted += kept_counts(view.store, self.cache) - before
            view.lane.timing.teacher += seconds
            view.lane.timing.teacher_alone += alone
            return outputs
        which = view.preprocessing
        if which not in self._outputs:
            union = tuple(sorted({name for view in self.views for name in view.names}))
            self._outputs[which], self._seconds[which] = self._compute(view, union, inputs_nchw, views)
            self._users[which] = []
            self._counts[which] = kept_counts(view.store, self.cache) - before
        self._users[which].append(view.lane)
        view.counted += self._counts[which]  # what a run alone would count
        return {name: self._outputs[which][name] for name in view.names}

    def _compute(
        self,
        view: SharedTeacher,
        names: tuple[str, ...],
        inputs_nchw: Tensor,
        views: Sequence[str | None] | None,
    ) -> tuple[dict[str, Tensor], tuple[float, float]]:
        """Also the seconds that it took, which are not the run's own, and those it would take without a cache."""
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
        view.lane.timing.steps -= seconds  # a teacher is run in training steps only
        return outputs, (seconds, seconds if self.cache is None else self.cache.without(seconds, len(inputs_nchw)))


class SharedTeacher(Teacher):
    """One run's view of a teacher that several runs share."""

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
        """Of this run's own batches; another run's may be of other images, and one that joins later has had fewer."""
        return self.counted

    def aside(self) -> Teacher:
        """A teacher of this run's own with the same model: it shares no batch, and nobody counts its seconds."""
        shared = self._shared
        return Teacher(self.model, self.names, self.student_preprocessor, self.weight, shared.forward, shared.listed)

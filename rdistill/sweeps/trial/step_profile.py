"""Measures the memory and the seconds of one training step of a sweep, on the device that will train the students."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from mmengine.config import Config
from mmengine.dist import get_rank, get_world_size
from mmengine.registry import MODEL_WRAPPERS
from torch import Tensor

from rdistill.checks.dry_run import tiny_batch
from rdistill.core.files import read_json, write_json
from rdistill.distill.distiller import Distiller
from rdistill.distill.optimizer import build_optimizer
from rdistill.distill.store_files import store_files
from rdistill.distill.teacher import Teacher
from rdistill.distill.teacher_store import EQUAL_BATCHES_NEEDED, TeacherStore
from rdistill.distributed.collectives import gather_objects
from rdistill.models.task_loss import average_over_workers
from rdistill.training.runner import wrapper_config

STEP = "step.json"  # a file in the work dir, with the measured profile
CLEAR_PEAK = "5"  # written to Linux's /proc/self/clear_refs, it resets the peak of the process's memory
# Several steps are timed, because the first step after a change of the number of threads takes longer. If a step is
# slow anyway, that extra time does not matter.
MAX_TIMED_STEPS, TIMED_S = 3, 2.0  # the largest number of steps, and seconds after which no further step starts


@dataclass(frozen=True)
class StepProfile:
    """Memory and seconds of one student that trains alone on a worker.

    Attributes:
        held_bytes: what it keeps between its turns: weights, buffers, the optimizer's state.
        passing_bytes: what a step takes above that at its peak, teachers included: activations and gradients.
        seconds: slots -> seconds of the teachers' forward passes, and of the student's own step.
        alone: slots -> seconds of a step of the student alone, which has no distillation losses; empty in the files of
            older versions.
    """

    held_bytes: int
    passing_bytes: int
    seconds: dict[int, tuple[float, float]]
    alone: dict[int, float] = field(default_factory=dict)

    def save(self, file: Path) -> None:
        file.parent.mkdir(parents=True, exist_ok=True)
        write_json(file, asdict(self))

    def alone_on(self, slots: int) -> float:
        """Seconds of a step of the student alone; where nobody has measured it, those of the distilled one's own."""
        return self.alone.get(slots, self.seconds[slots][1])

    @property
    def teacher_share(self) -> float:
        """The teachers' part of the seconds of a step; 0 to 1."""
        teacher, student = self.seconds[min(self.seconds)]
        return teacher / max(teacher + student, 1e-9)


@dataclass(frozen=True)
class StoreForecast:
    """What the store of views is expected to save in a sweep.

    Attributes:
        stores: one for each teacher, the same as in training; None for a teacher whose outputs are not kept.
        computed: fraction of a training's images on which the teachers still have to run; 0 to 1.
    """

    stores: Sequence[TeacherStore | None]
    computed: float


def measure_step(
    distiller: Distiller,
    cfg: Config,
    *,
    slots: Sequence[int] = (1,),
    forecast: StoreForecast | None = None,
    remembered: float = 0.0,
) -> StepProfile:
    """Trains a few steps, distilled and alone, on each number of slots; the quickest counts. The weights change.

    In a worker group all workers call it: each trains on its share of the batch, and they average their gradients. The
    profile then has the seconds of the slowest worker and the memory of the largest.

    Args:
        distiller: of the run; is done for afterwards.
        cfg: of the run.
        slots: trials' worth of CPUs that could be given to one worker; on a GPU they change nothing worth measuring.
            This process has one slot's threads.
        forecast: of the store of views, where there is one: then a teacher's seconds are those of the mean step.
        remembered: share of the images of a training whose outputs a teacher will remember, see
            :func:`rdistill.training.teacher_plan.expected_known`; what is remembered takes no time worth measuring.
    """
    with TemporaryDirectory() as folder:
        stored = [None] * len(distiller.teachers) if forecast is None else forecast.stores
        clocks = [
            _TimedTeacher(teacher, 1 - remembered) if store is None or forecast is None
            else _TimedStoreTeacher(teacher, store, Path(folder, str(index)), forecast.computed)
            for index, (teacher, store) in enumerate(zip(distiller.teachers, stored, strict=True))
        ]  # fmt: skip
        distiller.teachers = tuple(clocks)  # type: ignore[arg-type]
        return _measure_profile(distiller, cfg, clocks, slots)


def _measure_profile(
    distiller: Distiller, cfg: Config, clocks: Sequence[_TimedTeacher], slots: Sequence[int]
) -> StepProfile:
    """Measures the profile of a distiller whose teachers are the given ``clocks``, which time themselves."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    distiller.to(device).train()
    optimizer = build_optimizer(cfg, distiller)
    batch = tiny_batch(cfg, int(cfg.train_dataloader.batch_size) // get_world_size(), get_rank())
    model: Any = distiller
    if get_world_size() > 1:
        average_over_workers(distiller.student)
        model = _wrapped(distiller, cfg)

    def step() -> None:
        with distiller.capture:
            model.train_step(copy.deepcopy(batch), optimizer)

    def timed_step() -> tuple[float, float]:
        whole = _seconds(step)
        return sum(clock.seconds for clock in clocks), whole - sum(clock.spent for clock in clocks)

    # The memory peak is that of a run's first step, where weights that are shares are measured as well.
    distiller.iteration = 0
    passing = _peak(step, device)
    distiller.iteration = None
    counts = slots if device == "cpu" else [1]
    seconds = _quickest(timed_step, counts)
    kept = _bytes([distiller.state_dict(), optimizer.optimizer.state_dict()])

    model = Distiller(distiller.student)  # has another wrapper of the same student, as the distilled steps are done
    if get_world_size() > 1:
        model = _wrapped(model, cfg)

    def timed_step_alone() -> tuple[float, float]:
        return 0.0, _seconds(lambda: model.train_step(copy.deepcopy(batch), optimizer))

    alone = {count: sum(both) for count, both in _quickest(timed_step_alone, counts).items()}
    return StepProfile(max(gather_objects(kept)), max(gather_objects(passing)), seconds, alone)


def _wrapped(distiller: Distiller, cfg: Config) -> Any:
    """A model that averages its gradients over the workers."""
    return MODEL_WRAPPERS.build({"module": distiller, **wrapper_config(cfg)})


def _quickest(timed_step: Callable[[], tuple[float, float]], slots: Sequence[int]) -> dict[int, tuple[float, float]]:
    """Slots -> the quickest step with their threads, of the worker that is slowest."""
    threads, quickest = torch.get_num_threads(), {}
    for count in slots:
        torch.set_num_threads(threads * count)
        quickest[count] = max(gather_objects(min(_a_few(timed_step), key=sum)), key=sum)
    torch.set_num_threads(threads)
    return quickest


def _a_few(timed_step: Callable[[], tuple[float, float]]) -> list[tuple[float, float]]:
    """What a few steps took. No worker takes one that another does not."""
    since, steps = time.perf_counter(), [timed_step()]
    while len(steps) < MAX_TIMED_STEPS and max(gather_objects(time.perf_counter() - since)) < TIMED_S:
        steps.append(timed_step())
    return steps


def load_step(file: Path, slots: Sequence[int]) -> StepProfile | None:
    """The profile in a file; None if there is none for exactly these numbers of slots.

    A resumed sweep uses the earlier profile, because a new one could lead to cohorts with other numbers of threads, and
    students that train with other numbers of threads end with other weights.
    """
    if not file.is_file():
        return None
    profile = read_json(file)
    profile["seconds"] = {int(count): tuple(both) for count, both in profile["seconds"].items()}
    profile["alone"] = {int(count): seconds for count, seconds in profile.get("alone", {}).items()}
    return StepProfile(**profile) if list(profile["seconds"]) == list(slots) else None


class _TimedTeacher:
    """A teacher that measures its own forward pass.

    Args:
        teacher: a run's.
        computed: share of the images of a training that it will be run on.

    Attributes:
        seconds: that a step of the sweep will take for it, in the mean.
        spent: that the last step took for it.
    """

    def __init__(self, teacher: Any, computed: float = 1.0) -> None:
        self._teacher, self._computed, self.seconds, self.spent = teacher, computed, 0.0, 0.0

    def __call__(self, inputs_nchw: Tensor) -> Any:
        answer: list[Any] = []
        self.spent = _seconds(lambda: answer.append(self._teacher(inputs_nchw)))
        self.seconds = self._computed * self.spent
        return answer[0]

    def __getattr__(self, name: str) -> Any:
        return getattr(self._teacher, name)


class _TimedStoreTeacher(_TimedTeacher):
    """A teacher with a store, which measures both a pass of computed outputs and a pass of stored outputs.

    Args:
        teacher: the teacher.
        store: the store of the training; it is not changed.
        folder: an empty folder for a temporary store.
        computed: fraction of the images on which the teacher will have to run; 0 to 1.
    """

    def __init__(self, teacher: Teacher, store: TeacherStore, folder: Path, computed: float) -> None:
        keeps_nothing = store.spec.model_copy(update={"keep": "nothing"})
        cold, warm = copy.copy(teacher), copy.copy(teacher)
        cold.store = TeacherStore(keeps_nothing, store.about, [])
        warm.store = TeacherStore(store.spec, store.about, [store_files(folder)])
        super().__init__(cold, computed)
        self._warm = warm
        self._warmed_up: set[int] = set()  # threads with which it is known whether a batch may be computed at once

    def __call__(self, inputs_nchw: Tensor, views: Sequence[str | None] | None = None) -> Any:
        names = [f"image {number}" for number in range(len(inputs_nchw))]
        outputs: list[Any] = []
        warm_up_s = _seconds(lambda: self._warm_up(inputs_nchw, names))
        cold_s = _seconds(lambda: outputs.append(self._teacher(inputs_nchw, names)))
        filling_s = _seconds(lambda: self._warm(inputs_nchw, names))  # the first step fills, later ones read
        warm_s = _seconds(lambda: self._warm(inputs_nchw, names))
        self.seconds = self._computed * cold_s + (1 - self._computed) * warm_s
        self.spent = warm_up_s + cold_s + filling_s + warm_s
        return outputs[0]

    def _warm_up(self, inputs_nchw: Tensor, names: Sequence[str]) -> None:
        """Runs the first few batches, which take longer than all others of a training.

        In them the store has the teacher compute each image both alone and within the batch, to find out whether both
        give the same outputs.
        """
        if (threads := torch.get_num_threads()) not in self._warmed_up:
            for _ in range(EQUAL_BATCHES_NEEDED):
                self._teacher(inputs_nchw, names)
            self._warmed_up.add(threads)


def _seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - start


def _peak(work: Callable[[], None], device: str) -> int:
    """Peak bytes that ``work`` uses beyond what was in use before; 0 if the system does not measure them."""
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        work()
        return torch.cuda.max_memory_allocated() - before
    try:
        with open("/proc/self/clear_refs", "w") as file:
            file.write(CLEAR_PEAK)
        before = _memory("VmRSS")
        work()
        return max(0, _memory("VmHWM") - before)
    except OSError:
        work()
        return 0


def _memory(name: str) -> int:
    """A figure of this process in bytes, by its name in /proc/self/status."""
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) * 1024 for line in file if line.startswith(f"{name}:"))


def _bytes(value: Any) -> int:
    """Bytes of all tensors in nested containers."""
    if isinstance(value, Tensor):
        return value.numel() * value.element_size()
    if isinstance(value, dict):
        return sum(_bytes(item) for item in value.values())
    return sum(_bytes(item) for item in value) if isinstance(value, list | tuple) else 0

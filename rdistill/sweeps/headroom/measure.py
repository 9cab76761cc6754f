"""Trains the arms of a headroom: those of a seed in lockstep, over one stream and under one teacher.

In one process, or in each worker of a group (:mod:`.group`), which all do the same and share the batches.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmengine.config import Config
from mmengine.dist import broadcast_object_list, get_world_size, is_main_process

from rdistill.core.errors import RunError, UserError, one_line
from rdistill.core.files import read_json, set_aside_if_damaged, write_json
from rdistill.core.one_class import never_left_one_class
from rdistill.core.stopping import Stopped, StopRequest
from rdistill.core.storage import StorageError, WorkDir
from rdistill.schemas.headroom import ArmRecord, Headroom
from rdistill.schemas.mappings import PlainConfig
from rdistill.schemas.run import RunFacts, Scores
from rdistill.sweeps.cohort.rank import RAISED_BY_ALL
from rdistill.sweeps.headroom.answer import answer
from rdistill.sweeps.headroom.arms import ARMS, HALF, LENGTHS, arm_config
from rdistill.sweeps.headroom.cost import Rates
from rdistill.training.hooks import RunListener, Silent
from rdistill.training.lockstep import Lane, Lockstep
from rdistill.training.run import train

HEADROOM = "headroom.json"  # the work dir's file of the answer, once it is there
ARM = "arm.json"  # a training's own file: its score and what it took
REQUEST = "request.json"  # the work dir's file of what was requested
INNER = ("*", "*/*")  # files of a headroom's work dir


@dataclass(frozen=True)
class Request:
    """What is trained: the length of the short trainings in iterations, and the seeds."""

    iterations: int
    seeds: tuple[int, ...]


def finished_headroom(folder: Path) -> Headroom | None:
    """The answer of an earlier start, if it came to one."""
    file = folder / HEADROOM
    return read_json(file) if file.is_file() else None


def require_same(folder: Path, base: PlainConfig, request: Request, where: str | Path) -> None:
    """Makes sure that a resumed headroom is the one that was begun, and writes down what it is.

    Raises:
        UserError: it is another one.
    """
    from rdistill.core.differences import differences, plain, refusals

    requested = plain({"iterations": request.iterations, "seeds": list(request.seeds), "config": dict(base)})
    file = folder / REQUEST
    if file.is_file():
        changed = list(differences(read_json(file), requested).values())
        if changed:
            fix = "set it back, or use another --work-dir for this other headroom"
            raise UserError(*refusals(f"{where}: --resume", changed, fix))
    folder.mkdir(parents=True, exist_ok=True)
    write_json(file, requested)


def measure(
    here: WorkDir,
    base: Config,
    request: Request,
    teachers: Sequence[Scores],
    *,
    trust_checkpoint: bool = False,
    stop: StopRequest | None = None,
    listener: RunListener | None = None,
) -> Headroom:
    """Trains what is left to train, and writes and returns the answer.

    In a worker group all workers call it, and the first one writes.

    Args:
        here: the work dir. A training that is finished there is not repeated; one that was cut off goes on from its
            last checkpoint.
        base: the distilled student's config; how its teachers are computed is settled.
        request: how long, and on which seeds.
        teachers: scores of each.
        stop: is looked at after each iteration.
        listener: is notified when a training begins or goes on, and of a line for the user when it ends.

    Raises:
        Stopped: ``stop`` was set.
        StorageError: the work dir cannot be written.
    """
    stop = stop or StopRequest()
    shared = _Shared(here, base, request, teachers, trust_checkpoint, stop, listener or Silent())
    records: list[ArmRecord] = []
    for seed in request.seeds:
        lockstep = Lockstep()
        lanes = [_Training(arm, seed, shared) for arm in ARMS]
        finished_before = [[lane.finished_record() for lane in lanes] if is_main_process() else None]
        broadcast_object_list(finished_before)  # no worker may train what another one does not
        for training, record in zip(lanes, finished_before[0] or [], strict=True):
            if record is None:
                lockstep.join(training.name, training.run)
            else:
                training.end(record)
        with _quiet():
            while lockstep.step():
                stop.can_stop_gracefully = True  # a training that ends takes it for the end of all
        stop.can_stop_gracefully = False
        if (stopped := next((lane.stopped for lane in lanes if lane.stopped is not None), None)) is not None:
            raise stopped
        if is_main_process():
            here.push()
        records += [lane.record for lane in lanes]
    finished = {(record["arm"], record["seed"]): record for record in records if record["status"] == "finished"}
    one_class = never_left_one_class(finished)
    scores: dict[str, dict[int, float]] = {arm: {} for arm in ARMS}
    stuck: dict[str, list[int]] = {arm: [] for arm in ARMS}
    for (arm, seed), record in finished.items():
        scores[arm][seed] = record["mIoU"]
        if (arm, seed) in one_class:
            stuck[arm].append(seed)
    teacher = teachers[0].get("mIoU") if teachers else None
    headroom: Headroom = {
        "iterations": request.iterations,
        "seeds": list(request.seeds),
        **answer(scores, {arm: seeds for arm, seeds in stuck.items() if seeds}, teacher, request.iterations),
        "failed": [
            {"arm": record["arm"], "seed": record["seed"], "reason": record["reason"]}
            for record in records
            if record["status"] == "failed"
        ],
        "rates": Rates.of(records).as_dict(),
    }
    if is_main_process():
        write_json(here.folder / HEADROOM, headroom)
        here.push()
    return headroom


@dataclass(frozen=True)
class _Shared:
    """What all trainings have alike; see :func:`measure`."""

    here: WorkDir
    base: Config
    request: Request
    teachers: Sequence[Scores]
    trust_checkpoint: bool
    stop: StopRequest
    listener: RunListener


class _Training:
    """One training, as a lane runs it.

    Attributes:
        record: its score and what it took; empty before its end.
        stopped: what it raised when it was to stop.
    """

    def __init__(self, arm: str, seed: int, shared: _Shared) -> None:
        self.name, self.arm, self.seed, self.shared = f"{arm}-s{seed}", arm, seed, shared
        self.record: ArmRecord = {}
        self.stopped: Stopped | None = None

    @property
    def folder(self) -> Path:
        return self.shared.here.folder / self.name

    def finished_record(self) -> ArmRecord | None:
        """The record of a training that has finished."""
        file = self.folder / ARM
        set_aside_if_damaged(file, "it is trained again", self.shared.listener.noted)
        record: ArmRecord | None = read_json(file) if file.is_file() else None
        return record if record is not None and record["status"] == "finished" else None

    def run(self, lane: Lane) -> None:
        shared = self.shared
        clock = _Clock(lane, shared.listener)
        record: ArmRecord = {"arm": self.arm, "seed": self.seed}
        try:
            cfg = arm_config(shared.base, self.arm, shared.request.iterations, self.seed)
            metrics = train(
                cfg,
                self.folder,
                seed=self.seed,
                resume=True,
                trust_checkpoint=shared.trust_checkpoint,
                teacher_metrics=list(shared.teachers) if cfg.get("distill") is not None else None,
                listener=clock,
                lane=lane,
                check=False,
                stop=shared.stop,
            )
        except Stopped as stopped:
            self.stopped = stopped
            return
        except StorageError:
            raise
        except (UserError, RunError) as error:
            if get_world_size() > 1 and not isinstance(error, RAISED_BY_ALL):
                raise  # the others may be waiting for this one in an all-reduce
            record |= {"status": "failed", "reason": one_line(error)}
        else:
            record |= {"status": "finished", "mIoU": metrics["mIoU"], "IoU": metrics.get("IoU") or {}}
            record["best_iter"] = metrics["best_iter"]
            if (trivial := metrics.get("trivial")) is not None:
                record["trivial"] = trivial
            record["cost"] = clock.rates() if self.arm != HALF else {}
        if is_main_process():
            write_json(self.folder / ARM, record)
        self.end(record)

    def end(self, record: ArmRecord) -> None:
        """Keeps the record, and says so."""
        self.record = record
        outcome = f"mIoU {record['mIoU']:.2f}" if record["status"] == "finished" else record["reason"]
        total = self.shared.request.iterations * LENGTHS.get(self.arm, 1)
        self.shared.listener.noted(f"trained   {self.name}, {total:,} iterations: {outcome}")


class _Clock(Silent):
    """Tells apart what a training's iterations, its validations and its start take, by the lane's own seconds.

    Args:
        lane: the training's.
        listener: is notified when it begins.
    """

    def __init__(self, lane: Lane, listener: RunListener) -> None:
        self.lane, self.listener = lane, listener
        self._setup = self._steps = self._validations = 0.0
        self._iterations = self._validated = 0
        self._last, self._first = 0.0, 0
        self._shared: dict[str, float] = {}
        self._started: dict[str, float] = {}

    def training_started(self, *, first_iteration: int, last_iteration: int, facts: RunFacts) -> None:
        self._started = self.lane.seconds()
        self._setup = self._last = self._started["own_seconds"]
        self._first = self._iterations = first_iteration
        self.listener.training_started(first_iteration=first_iteration, last_iteration=last_iteration, facts={})

    def stepped(self, iteration: int, values: Mapping[str, float]) -> None:
        now = self.lane.seconds()
        self._steps += now["own_seconds"] - self._last
        self._last, self._iterations, self._shared = now["own_seconds"], iteration, now

    def validated(self, iteration: int, metrics: Scores) -> None:
        now = self.lane.seconds()["own_seconds"]
        if iteration == self._iterations:  # else a few steps are in it too
            self._validations += now - self._last
            self._validated += 1
        self._last = now

    def rates(self) -> dict[str, float]:
        """Seconds: of the start, an iteration, a validation, and of an iteration's teacher and data alone."""
        trained = max(1, self._iterations - self._first)
        rates = {"start": self._setup, "step": self._steps / trained}
        if self._validated:
            rates["validation"] = self._validations / self._validated
        for name in ("teacher", "data"):
            key = f"{name}_alone_seconds"
            rates[name] = (self._shared.get(key, 0.0) - self._started.get(key, 0.0)) / trained
        return {name: round(seconds, 6) for name, seconds in rates.items()}


@contextmanager
def _quiet() -> Any:
    """mmseg and mmengine have many warnings, and none is for the user."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield

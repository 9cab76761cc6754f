"""Trains the arms of a headroom. The arms of one seed train in lockstep, on the same batches and under one teacher.

They train in one process or in a worker group (:mod:`.group`), whose workers divide each batch.
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
from rdistill.sweeps.cohort.rank import RAISED_ON_ALL_RANKS
from rdistill.sweeps.headroom.answer import answer
from rdistill.sweeps.headroom.arms import ARMS, HALF, LENGTHS, arm_config
from rdistill.sweeps.headroom.cost import Rates
from rdistill.training.hooks import RunListener, Silent
from rdistill.training.lockstep import Lane, Lockstep
from rdistill.training.run import train

HEADROOM = "headroom.json"  # a file in the work dir, with the result
ARM = "arm.json"  # a file in a training's folder, with its score and its cost
REQUEST = "request.json"  # a file in the work dir, with the request and the config
INNER = ("*", "*/*")  # patterns of the files in a headroom's work dir


@dataclass(frozen=True)
class Request:
    """The requested trainings: the iterations of the short trainings, and the seeds."""

    iterations: int
    seeds: tuple[int, ...]


def finished_headroom(folder: Path) -> Headroom | None:
    """The result of an earlier start; None if it did not finish."""
    file = folder / HEADROOM
    return read_json(file) if file.is_file() else None


def require_same(folder: Path, base: PlainConfig, request: Request, where: str | Path) -> None:
    """Checks that a resumed headroom has the recorded request and config, and records them.

    Raises:
        UserError: they differ; the message lists the differences.
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
    """Trains all arms that are not trained yet, and writes and returns the result.

    In a worker group all workers call it, and rank 0 writes.

    Args:
        here: the work dir. A training that has finished there is not repeated; an interrupted one goes on from its last
            checkpoint.
        base: the distilled student's config, with its teacher plan.
        request: the iterations and the seeds.
        teachers: the scores of each teacher.
        trust_checkpoint: let a teacher's checkpoint run the Python code that it carries.
        stop: a request to stop; it is checked after each iteration.
        listener: is notified when a training starts or goes on, and of a line for the user when it ends.

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
        broadcast_object_list(finished_before)  # all workers have to train the same arms
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
    headroom = _summarised(records, request, teachers)
    if is_main_process():
        write_json(here.folder / HEADROOM, headroom)
        here.push()
    return headroom


def _summarised(records: Sequence[ArmRecord], request: Request, teachers: Sequence[Scores]) -> Headroom:
    """The content of ``headroom.json``, given the records of all trainings."""
    finished = {(record["arm"], record["seed"]): record for record in records if record["status"] == "finished"}
    one_class = never_left_one_class(finished)
    scores: dict[str, dict[int, float]] = {arm: {} for arm in ARMS}
    stuck: dict[str, list[int]] = {arm: [] for arm in ARMS}
    for (arm, seed), record in finished.items():
        scores[arm][seed] = record["mIoU"]
        if (arm, seed) in one_class:
            stuck[arm].append(seed)
    teacher = teachers[0].get("mIoU") if teachers else None
    return {
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


@dataclass(frozen=True)
class _Shared:
    """The arguments of :func:`measure` that all trainings share."""

    here: WorkDir
    base: Config
    request: Request
    teachers: Sequence[Scores]
    trust_checkpoint: bool
    stop: StopRequest
    listener: RunListener


class _Training:
    """One training of an arm, which runs in a lane.

    Attributes:
        record: its score and its cost; empty before its end.
        stopped: the exception that it raised on a request to stop; None if it did not stop.
    """

    def __init__(self, arm: str, seed: int, shared: _Shared) -> None:
        self.name, self.arm, self.seed, self.shared = f"{arm}-s{seed}", arm, seed, shared
        self.record: ArmRecord = {}
        self.stopped: Stopped | None = None

    @property
    def folder(self) -> Path:
        return self.shared.here.folder / self.name

    def finished_record(self) -> ArmRecord | None:
        """The record of the training if an earlier start has finished it; otherwise None."""
        file = self.folder / ARM
        set_aside_if_damaged(file, "it is trained again", self.shared.listener.noted)
        record: ArmRecord | None = read_json(file) if file.is_file() else None
        return record if record is not None and record["status"] == "finished" else None

    def run(self, lane: Lane) -> None:
        """Trains the arm in its lane."""
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
            if get_world_size() > 1 and not isinstance(error, RAISED_ON_ALL_RANKS):
                raise  # the other workers may be waiting for this one in an all-reduce
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
        """Keeps the record, and notifies the listener of the outcome."""
        self.record = record
        outcome = f"mIoU {record['mIoU']:.2f}" if record["status"] == "finished" else record["reason"]
        total = self.shared.request.iterations * LENGTHS.get(self.arm, 1)
        self.shared.listener.noted(f"trained   {self.name}, {total:,} iterations: {outcome}")


class _Clock(Silent):
    """A run listener that measures the seconds of a training's start, iterations and validations by its lane's clock.

    Args:
        lane: the training's lane.
        listener: is notified when the training starts.
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
        if iteration == self._iterations:  # otherwise the time since the last step includes further steps
            self._validations += now - self._last
            self._validated += 1
        self._last = now

    def rates(self) -> dict[str, float]:
        """Seconds of the start, an iteration, a validation, and of one iteration's teacher pass and data loading."""
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
    """A context without warnings: those of mmseg and mmengine are of no use to the user."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield

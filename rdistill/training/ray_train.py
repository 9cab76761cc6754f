"""One run on several workers: the same function as in one process, in a Ray Train worker group.

Begin with :func:`train_in_group`; :func:`work_in_group` is the group itself, for whatever else its workers shall do.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from queue import Empty
from typing import Any, TypedDict, cast

import ray
import torch.distributed
from mmengine.config import Config
from ray.train import (
    ControllerError,
    FailureConfig,
    Result,
    RunConfig,
    ScalingConfig,
    UserCallback,
    WorkerGroupError,
)
from ray.train.torch import TorchTrainer
from ray.util.queue import Queue

from rdistill._compat import texts
from rdistill._compat.ray import group_died_at_its_start, group_found_no_place, health_check_failed
from rdistill.config.load import LoadedConfig, import_custom_modules
from rdistill.core.causes import causes_of
from rdistill.core.errors import RunError, UserError
from rdistill.core.stopping import Stopped, StopRequest
from rdistill.core.storage import is_uri, join, open_work_dir, ray_storage
from rdistill.distributed.cluster import (
    beside_this_process,
    connected,
    free_of,
    gpus_in_cluster,
    killed_for_memory,
    require_resources,
    wait_for_room,
)
from rdistill.distributed.shares import resource_problems
from rdistill.schemas.mappings import Arguments
from rdistill.schemas.run import Clock, RunFacts, RunMetrics, Scores
from rdistill.training.hooks import RunListener, Silent
from rdistill.training.run import RunOptions, look_before, train_run

PLACEMENT_ATTEMPTS = 3  # attempts to place a worker group before the run fails; Ray's own default is no limit
MAX_FAILURES = 3  # losses of workers before the run fails
HEALTH_CHECK_S = 0.5  # seconds between two looks at the workers; each report takes Ray's own 2 s otherwise
ORDERS_S = 0.5  # seconds between two looks of the first worker at what the driver wants
DIED = (ray.exceptions.RayActorError, ray.exceptions.NodeDiedError, ray.exceptions.OutOfMemoryError)
PEERS = (torch.distributed.DistBackendError, torch.distributed.DistNetworkError)
PATIENCE_S = 20.0  # seconds that workers may take to start before a line says what they wait for
Work = Callable[[RunListener, StopRequest], Any]  # what each worker of a group does


@dataclass(frozen=True)
class Resources:
    """What one run takes."""

    workers: int = 1
    cpus_per_worker: float = 1.0
    gpus_per_worker: float | None = None  # None: one where the cluster has GPUs, else none
    min_workers: int | None = None  # go on with as few; None: with all
    max_failures: int = MAX_FAILURES  # times that the workers are started again when one is lost

    def __post_init__(self) -> None:
        if problems := resource_problems(
            self.workers, self.cpus_per_worker, self.gpus_per_worker, self.min_workers, self.max_failures
        ):
            raise UserError(*problems)

    def per_worker(self) -> dict[str, float]:
        gpus = (1.0 if gpus_in_cluster() else 0.0) if self.gpus_per_worker is None else self.gpus_per_worker
        return {"CPU": self.cpus_per_worker, **({"GPU": gpus} if gpus else {})}

    def total(self) -> dict[str, float]:
        return {kind: amount * self.workers for kind, amount in self.per_worker().items()}

    @property
    def fewest(self) -> int:
        return self.min_workers or self.workers


def train_in_group(
    config: Config | LoadedConfig,
    work_dir: str | Path,
    resources: Resources,
    *,
    options: RunOptions | None = None,
    address: str | None = None,
    listener: RunListener | None = None,
    callbacks: list[Any] | None = None,
) -> RunMetrics:
    """As :func:`rdistill.training.run.train_run`, with the batch divided among ``resources.workers`` processes.

    A worker that dies takes the others with it; all are started again, and go on from ``last.pth``. ``work_dir`` must
    be on a disk that all nodes share, or a URI. ``callbacks`` are Ray Train's own.

    Raises:
        UserError: as ``train_run``; also when the cluster is too small.
        RunError: as ``train_run``; also when workers were lost too often, or found no place any more.
    """
    run, options = LoadedConfig.of(config), options or RunOptions()
    work_dir, listener = work_dir if is_uri(work_dir) else Path(work_dir).absolute(), listener or Silent()
    with open_work_dir(work_dir, "*.json", "*.pth", "config.py") as here:
        if done := look_before(here.folder, run.cfg, options.seed, options.resume, listener):
            return done
    require_shares(run.cfg, resources)
    # What is there is this run's, also when the workers are started again; the driver passes on what stops it.
    each = partial(_train, run, str(work_dir), replace(options, resume=True, stop=None))
    with connected(address, work_dir, say=listener.noted):
        return work_in_group(  # type: ignore[no-any-return]
            each, run.cfg, work_dir, resources, stop=options.stop, listener=listener, callbacks=callbacks
        )


def _train(
    run: LoadedConfig, work_dir: str, options: RunOptions, listener: RunListener, stop: StopRequest
) -> RunMetrics:
    return train_run(run, work_dir, replace(options, stop=stop), _Reporting(listener))


def work_in_group(
    work: Work,
    cfg: Config,
    work_dir: str | Path,
    resources: Resources,
    *,
    stop: StopRequest | None = None,
    listener: RunListener | None = None,
    callbacks: list[Any] | None = None,
) -> Any:
    """Calls a function in every process of a worker group, on the cluster that this process is connected to.

    Args:
        work: is called with a listener, whose events of the first worker come to ``listener`` here, and with a request
            that is set in the first worker when ``stop`` is. It is called again when workers were lost.
        cfg: of what is trained: its ``custom_imports`` are imported first.
        work_dir: absolute, or a URI; Ray Train's own files go to ``ray_train`` there.
        resources: how many workers, and what each takes.
        stop: of the driver. What ``work`` raises as :class:`Stopped` is raised here.
        listener: of the driver.
        callbacks: Ray Train's own.

    Returns:
        What ``work`` returned in the first worker.

    Raises:
        UserError: of a worker; also when the cluster is too small.
        RunError: of a worker; also when workers were lost too often, or found no place any more.
    """
    listener = listener or Silent()
    per_worker = resources.per_worker()
    require_resources(per_worker, f"a run of {resources.fewest} workers", resources.fewest)
    wait_for_room(per_worker, resources.fewest, listener.noted)
    os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", str(HEALTH_CHECK_S))
    # Ray's memory monitor kills the youngest processes of a node, whatever they have taken: these two as well.
    light = dict(num_cpus=0, scheduling_strategy=beside_this_process(), max_restarts=-1)
    events, orders = Queue(actor_options=light), ray.remote(_Orders).options(**light).remote()
    relay = _Relay(events, listener, stop, f"{resources.fewest} workers: {{}}", per_worker)
    shared: _Shared = {"work": work, "cfg": cfg, "events": events, "orders": orders}
    relay.start()
    starts = 1
    try:
        while True:
            try:
                on_loss = _OnLoss(events, resources.max_failures)
                trainer = _trainer(shared, work_dir, resources, [on_loss, *(callbacks or [])])
                outcome = _fit(trainer, stop, orders).return_value
                break
            except Exception as error:
                told_to_stop = stop is not None and stop.signum is not None
                if told_to_stop or starts > resources.max_failures or not lost_rays_own(error):
                    raise _explained(error, per_worker, resources) from None
                again = f"starting again from the last checkpoint ({starts} of {resources.max_failures})"
                listener.noted(f"Ray Train's own process was lost ({_one_line(error)}); {again}")
                starts += 1
    finally:
        relay.stop()
    if isinstance(outcome, Stopped):
        raise outcome
    return outcome


class _Shared(TypedDict):
    """What every worker of a group is given."""

    work: Work
    cfg: Config
    events: Queue
    orders: Any  # the handle of the _Orders actor


def _trainer(shared: _Shared, work_dir: str | Path, resources: Resources, callbacks: list[Any]) -> TorchTrainer:
    """A start of the workers, who go on from where the work dir says they are."""
    per_worker = resources.per_worker()
    elastic = resources.fewest < resources.workers
    return TorchTrainer(
        _in_worker,
        train_loop_config=dict(shared),
        scaling_config=ScalingConfig(
            num_workers=(resources.fewest, resources.workers) if elastic else resources.workers,
            use_gpu="GPU" in per_worker,
            resources_per_worker=per_worker,
        ),
        run_config=RunConfig(
            # A finished name run again continues it silently; every start of ours has its own.
            name=f"{Path(work_dir).name}-{time.time_ns()}",
            **ray_storage(join(work_dir, "ray_train")),
            failure_config=FailureConfig(
                max_failures=resources.max_failures, controller_failure_limit=PLACEMENT_ATTEMPTS
            ),
            callbacks=callbacks,
        ),
    )


def require_shares(cfg: Config, resources: Resources) -> None:
    """Every worker has as many images a step, whatever the number of workers becomes.

    Raises:
        UserError: the batch does not divide.
    """
    if resources.fewest > resources.workers:
        raise UserError(f"--min-workers: must be at most --workers, {resources.workers}, got {resources.fewest}")
    batch = cfg.train_dataloader.batch_size
    odd = [count for count in range(resources.fewest, resources.workers + 1) if batch % count]
    if odd:
        raise UserError(
            f"train_dataloader.batch_size: {batch} images do not divide among {odd[0]} workers; set --batch-size"
        )


def _fit(trainer: TorchTrainer, stop: StopRequest | None, orders: Any) -> Result:
    """Runs the trainer to its end; with ``stop``, in a thread of its own: Ray would abort at the first Ctrl-C."""
    if stop is None:
        return trainer.fit()
    outcome: list[Any] = []

    def fit() -> None:
        try:
            outcome.append(trainer.fit())
        except BaseException as error:
            outcome.append(error)

    thread = threading.Thread(target=fit, name="fit", daemon=True)
    thread.start()
    while thread.is_alive():
        thread.join(timeout=0.2)
        if stop.signum is not None:  # again and again: the actor may have been restarted meanwhile
            orders.stop.remote(stop.signum)
    stop.heeded = False
    if isinstance(outcome[0], BaseException):
        raise outcome[0]
    return outcome[0]


class _Orders:
    """What the driver wants of the workers. A Ray actor."""

    def __init__(self) -> None:
        self._signum: int | None = None

    def stop(self, signum: int) -> None:
        self._signum = signum

    def stop_signal(self) -> int | None:
        return self._signum


def _in_worker(config: _Shared) -> Any:
    """What Ray Train calls in each worker. It has no console: its events go through the queue."""
    import ray.train

    import_custom_modules(config["cfg"])
    rank = ray.train.get_context().get_world_rank()
    stop = StopRequest()
    if rank == 0:
        threading.Thread(target=_heed, args=(config["orders"], stop), daemon=True).start()
    try:
        return config["work"](_ToDriver(config["events"]) if rank == 0 else Silent(), stop)
    except Stopped as stopped:  # all workers, after the same iteration: an end, and no failure to start again from
        return stopped


def _heed(orders: Any, stop: StopRequest) -> None:
    while stop.signum is None:
        time.sleep(ORDERS_S)
        with suppress(*DIED):  # and is restarted
            stop.signum = ray.get(orders.stop_signal.remote())


class _ToDriver:
    """Sends all events to the driver."""

    def __init__(self, events: Queue) -> None:
        self._events = events

    def training_started(self, **details: Any) -> None:
        self._send("training_started", (), details)

    def stepped(self, iteration: int, values: Mapping[str, float]) -> None:
        self._send("stepped", (iteration, dict(values)), {})

    def validated(self, iteration: int, metrics: Scores) -> None:
        self._send("validated", (iteration, dict(metrics)), {})

    def warned(self, message: str) -> None:
        self._send("warned", (message,), {})

    def noted(self, text: str) -> None:
        self._send("noted", (text,), {})

    def _send(self, event: str, args: tuple[Any, ...], details: Arguments) -> None:
        self._events.actor.put_nowait.remote((event, args, details))


class _Reporting:
    """Passes on all events, and reports validations to Ray Train, which wants every worker to.

    The run's clock stays here: what it has measured goes with each validation.
    """

    def __init__(self, listener: RunListener) -> None:
        self._listener, self._clock = listener, cast("Clock | None", None)
        self.stepped, self.warned, self.noted = listener.stepped, listener.warned, listener.noted

    def training_started(self, *, first_iteration: int, last_iteration: int, facts: RunFacts) -> None:
        others = facts.copy()
        self._clock = others.pop("clock", None)
        self._listener.training_started(first_iteration=first_iteration, last_iteration=last_iteration, facts=others)

    def validated(self, iteration: int, metrics: Scores) -> None:
        import ray.train

        scores = metrics if self._clock is None else Scores(**metrics, cost=self._clock.seconds())
        self._listener.validated(iteration, scores)
        ray.train.report({"iter": iteration, **metrics})


class _OnLoss(UserCallback):
    """Runs in Ray's controller when a worker fails: the machine's failures are retried, all others end the run."""

    def __init__(self, events: Queue, most: int) -> None:
        self._events, self._most, self._failures = events, most, 0

    def after_exception(self, run_context: Any, worker_exceptions: dict[int, Exception]) -> None:
        if (fatal := _fatal(worker_exceptions)) is not None:
            raise fatal  # what a callback raises is not retried
        self._failures += 1
        lost = min(worker_exceptions, key=lambda rank: not _died(worker_exceptions[rank]))
        again = "starting again from the last checkpoint" if self._failures <= self._most else "giving up"
        text = f"worker {lost} was lost ({_one_line(worker_exceptions[lost])}); {again}"
        self._events.actor.put_nowait.remote(("lost", (f"{text} ({self._failures} of {self._most})",), {}))


class _Relay(threading.Thread):
    """Carries events from the queue to a listener in the driver, and says when workers are slow to start.

    Args:
        events: as ``_ToDriver`` sends them.
        listener: is notified of them.
        stop: is heeded once training has begun.
        waiting: what is waited for, with a ``{}`` for what the cluster has.
        kinds: of resources that they take.
    """

    def __init__(
        self, events: Queue, listener: RunListener, stop: StopRequest | None, waiting: str, kinds: Mapping[str, float]
    ) -> None:
        super().__init__(daemon=True)
        self._events, self._listener, self._stopping = events, listener, threading.Event()
        self._request, self._waiting, self._kinds = stop, waiting, kinds

    def run(self) -> None:
        training, patience = False, time.monotonic() + PATIENCE_S
        while not (self._stopping.is_set() and self._is_empty()):
            try:
                event, args, details = self._events.get(timeout=0.5)
            except (Empty, *DIED):  # a queue that has died is restarted
                if not training and time.monotonic() > patience and not self._stopping.is_set():
                    patience = time.monotonic() + 2 * PATIENCE_S
                    self._listener.noted("still starting " + self._waiting.format(free_of(self._kinds)))
                continue
            if event in ("training_started", "lost"):
                training, patience = event == "training_started", time.monotonic() + PATIENCE_S
            if event == "training_started" and self._request is not None:
                self._request.heeded = True
            getattr(self._listener, "noted" if event == "lost" else event)(*args, **details)

    def _is_empty(self) -> bool:
        try:
            return bool(self._events.empty())
        except DIED:
            return True

    def stop(self) -> None:
        self._stopping.set()
        self.join(timeout=10)
        self._events.shutdown()


def _users_own(error: BaseException) -> Exception | None:
    """The UserError or RunError of a worker, from within what Ray wrapped around it."""
    return next((cause for cause in causes_of(error) if isinstance(cause, (UserError, RunError))), None)


def _died(error: BaseException) -> bool:
    """Whether a worker's process or node is gone, rather than that its code raised."""
    return any(isinstance(cause, (*DIED, *health_check_failed())) for cause in causes_of(error))


def lost_rays_own(error: BaseException) -> bool:
    """Whether ``fit`` ended for a process of Ray Train's that was lost; workers that are lost it replaces by itself."""
    starting = any(
        isinstance(cause, (*group_found_no_place(), *group_died_at_its_start())) for cause in causes_of(error)
    )
    return _users_own(error) is None and not isinstance(error, WorkerGroupError) and not starting and _died(error)


def lost_its_peers(error: BaseException) -> bool:
    """Whether a worker only says that another one is gone. gloo does in many words, after the line of its source."""
    return any(isinstance(cause, PEERS) or texts.PEER_GONE.is_in(cause) for cause in causes_of(error))


def _fatal(worker_exceptions: Mapping[int, Exception]) -> Exception | None:
    """What starting again would not mend: an error of a worker's own, while no worker has died."""
    for error in worker_exceptions.values():
        if (own := _users_own(error)) is not None:
            return own
    if any(_died(error) for error in worker_exceptions.values()):
        return None
    own_errors = [error for error in worker_exceptions.values() if not lost_its_peers(error)]
    return causes_of(own_errors[0])[-1] if own_errors else None  # type: ignore[return-value]


def _explained(error: Exception, per_worker: Mapping[str, float], resources: Resources) -> Exception:
    """What ``fit`` raised, as the user is to read it."""
    if (own := _users_own(error)) is not None:
        return own
    causes = causes_of(error)
    if any(isinstance(cause, group_died_at_its_start()) for cause in causes):  # it holds its own room still
        return RunError(
            f"a worker died before it began, {PLACEMENT_ATTEMPTS} times tried, last by: {_one_line(error)}; the node's "
            f"memory may be short; continue with --resume"
        )
    if any(isinstance(cause, group_found_no_place()) for cause in causes):
        needs = " and ".join(f"{amount:g} {kind}" for kind, amount in per_worker.items())
        return RunError(
            f"no place for {resources.fewest} workers of {needs}, {PLACEMENT_ATTEMPTS} times tried: "
            f"{free_of(per_worker)}; continue with --resume when there is room"
        )
    if isinstance(error, ControllerError):
        return error.controller_failure
    return RunError(
        f"workers were lost more than --max-failures {resources.max_failures} times, last by: "
        f"{_one_line(causes[1] if len(causes) > 1 else error)}; continue with --resume"
    )


def _one_line(error: BaseException) -> str:
    last = causes_of(error)[-1]
    if isinstance(last, ray.exceptions.OutOfMemoryError):
        return killed_for_memory(last)
    lines = [line.strip() for line in str(last).splitlines() if line.strip()] or [type(error).__name__]
    return lines[0][:200]

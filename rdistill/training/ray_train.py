"""Trains one run on several workers: a Ray Train worker group calls the same function as a single process.

Begin with :func:`train_in_group`. :func:`work_in_group` runs any function in a worker group.
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
from rdistill.core.errors import RunError, UserError, causes_of
from rdistill.core.stopping import Stopped, StopRequest
from rdistill.core.storage import is_uri, join, open_work_dir, ray_storage
from rdistill.distributed.cluster import (
    connected,
    free_resources,
    gpus_in_cluster,
    killed_for_memory,
    on_this_node,
    require_resources,
    wait_for_room,
)
from rdistill.distributed.shares import resource_problems
from rdistill.schemas.mappings import Arguments
from rdistill.schemas.run import Clock, RunFacts, RunMetrics, Scores
from rdistill.training.hooks import RunListener, Silent
from rdistill.training.run import RunOptions, check_work_dir, train_run

PLACEMENT_ATTEMPTS = 3  # attempts to place a worker group before the run fails; Ray's default is no limit
MAX_FAILURES = 3  # the run fails when workers are lost more often than this
HEALTH_CHECK_S = 0.5  # seconds between two polls of the workers; each report would take Ray's default of 2 s otherwise
STOP_POLL_S = 0.5  # seconds between two looks of the first worker for a stop signal of the driver
# Errors which say that the process or the node of an actor or a worker is lost.
PROCESS_LOST = (ray.exceptions.RayActorError, ray.exceptions.NodeDiedError, ray.exceptions.OutOfMemoryError)
# Errors of torch.distributed in a worker after another worker is lost.
PEER_LOST = (torch.distributed.DistBackendError, torch.distributed.DistNetworkError)
PATIENCE_S = 20.0  # seconds that workers may take to start before a line says what they wait for
Work = Callable[[RunListener, StopRequest], Any]  # the function that each worker of a group calls


@dataclass(frozen=True)
class Resources:
    """The workers of one run and the resources that they take."""

    workers: int = 1
    cpus_per_worker: float = 1.0
    gpus_per_worker: float | None = None  # None: one if the cluster has GPUs, otherwise none
    min_workers: int | None = None  # the run may go on with so few workers; None: it always needs all of them
    max_failures: int = MAX_FAILURES  # how often the workers are started again after one is lost

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
    def min_group_size(self) -> int:
        """The smallest number of workers with which the run goes on."""
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
    """Like :func:`rdistill.training.run.train_run`, but divides each batch among ``resources.workers`` processes.

    If a worker dies, all workers are started again and go on from ``last.pth``.

    Args:
        config: the run's config.
        work_dir: a folder on a disk that all nodes share, or a URI.
        resources: how many workers, and what each takes.
        options: seed, resume and so on.
        address: the Ray cluster to join, see :func:`rdistill.distributed.cluster.connected`.
        listener: is notified of the progress.
        callbacks: callbacks of Ray Train.

    Raises:
        UserError: as for ``train_run``; or the cluster is too small.
        RunError: as for ``train_run``; or workers were lost too often, or could not be placed again.
    """
    run, options = LoadedConfig.of(config), options or RunOptions()
    work_dir, listener = work_dir if is_uri(work_dir) else Path(work_dir).absolute(), listener or Silent()
    with open_work_dir(work_dir, "*.json", "*.pth", "config.py") as opened:
        metrics = check_work_dir(opened.folder, run.cfg, options.seed, options.resume, listener)
        if metrics is not None:
            return metrics
    require_divisible_batch(run.cfg, resources)
    # Workers that are started again resume: after the check above, all that is in the work dir belongs to this run.
    # They get their stop signal from the driver.
    work = partial(_train, run, str(work_dir), replace(options, resume=True, stop=None))
    with connected(address, work_dir, notify=listener.noted):
        return work_in_group(  # type: ignore[no-any-return]
            work, run.cfg, work_dir, resources, stop=options.stop, listener=listener, callbacks=callbacks
        )


def _train(
    run: LoadedConfig, work_dir: str, options: RunOptions, listener: RunListener, stop: StopRequest
) -> RunMetrics:
    return train_run(run, work_dir, replace(options, stop=stop), _RayTrainListener(listener))


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
        work: the function. It gets a listener, whose events of the first worker are passed to ``listener`` here, and a
            stop request, which is set in the first worker when ``stop`` is set here. It is called again after workers
            were lost.
        cfg: the config of the training; its ``custom_imports`` are imported first.
        work_dir: an absolute path or a URI; Ray Train's own files go to ``ray_train`` in it.
        resources: how many workers, and what each takes.
        stop: the driver's stop request. If ``work`` raises :class:`Stopped`, it is raised here.
        listener: the driver's listener.
        callbacks: callbacks of Ray Train.

    Returns:
        What ``work`` returned in the first worker.

    Raises:
        UserError: a worker raised it; or the cluster is too small.
        RunError: a worker raised it; or workers were lost too often, or could not be placed again.
    """
    listener = listener or Silent()
    per_worker = resources.per_worker()
    require_resources(per_worker, f"a run of {resources.min_group_size} workers", resources.min_group_size)
    wait_for_room(per_worker, resources.min_group_size, listener.noted)
    os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", str(HEALTH_CHECK_S))
    # Both helper actors can be restarted: Ray's memory monitor kills the youngest processes of a node, however little
    # memory they use.
    actor_options = dict(num_cpus=0, scheduling_strategy=on_this_node(), max_restarts=-1)
    events = Queue(actor_options=actor_options)
    stop_actor = ray.remote(_StopSignal).options(**actor_options).remote()
    relay = _EventRelay(events, listener, stop, f"{resources.min_group_size} workers: {{}}", per_worker)
    shared: _WorkerConfig = {"work": work, "cfg": cfg, "events": events, "stop_actor": stop_actor}
    relay.start()
    starts = 1
    try:
        while True:
            try:
                loss_callback = _WorkerLossCallback(events, resources.max_failures)
                trainer = _trainer(shared, work_dir, resources, [loss_callback, *(callbacks or [])])
                outcome = _fit(trainer, stop, stop_actor).return_value
                break
            except Exception as error:
                stop_requested = stop is not None and stop.signum is not None
                if stop_requested or starts > resources.max_failures or not controller_lost(error):
                    raise _readable_error(error, per_worker, resources) from None
                restart = f"starting again from the last checkpoint ({starts} of {resources.max_failures})"
                listener.noted(f"Ray Train's own process was lost ({_one_line(error)}); {restart}")
                starts += 1
    finally:
        relay.stop()
    if isinstance(outcome, Stopped):
        raise outcome
    return outcome


class _WorkerConfig(TypedDict):
    """What every worker of a group gets from Ray Train (``train_loop_config``)."""

    work: Work
    cfg: Config
    events: Queue
    stop_actor: Any  # the handle of the _StopSignal actor


def _trainer(shared: _WorkerConfig, work_dir: str | Path, resources: Resources, callbacks: list[Any]) -> TorchTrainer:
    """The trainer of one start of the workers; they resume from the checkpoint in the work dir."""
    per_worker = resources.per_worker()
    elastic = resources.min_group_size < resources.workers
    return TorchTrainer(
        _in_worker,
        train_loop_config=dict(shared),
        scaling_config=ScalingConfig(
            num_workers=(resources.min_group_size, resources.workers) if elastic else resources.workers,
            use_gpu="GPU" in per_worker,
            resources_per_worker=per_worker,
        ),
        run_config=RunConfig(
            # Ray Train silently continues a run whose name it knows, so each start gets a new name.
            name=f"{Path(work_dir).name}-{time.time_ns()}",
            **ray_storage(join(work_dir, "ray_train")),
            failure_config=FailureConfig(
                max_failures=resources.max_failures, controller_failure_limit=PLACEMENT_ATTEMPTS
            ),
            callbacks=callbacks,
        ),
    )


def require_divisible_batch(cfg: Config, resources: Resources) -> None:
    """Makes sure that a batch divides among the workers, for each number of workers that the run may have.

    Raises:
        UserError: it does not.
    """
    if resources.min_group_size > resources.workers:
        raise UserError(
            f"--min-workers: must be at most --workers, {resources.workers}, got {resources.min_group_size}"
        )
    batch = cfg.train_dataloader.batch_size
    indivisible = [count for count in range(resources.min_group_size, resources.workers + 1) if batch % count]
    if indivisible:
        raise UserError(
            f"train_dataloader.batch_size: {batch} images do not divide among {indivisible[0]} workers; set "
            f"--batch-size"
        )


def _fit(trainer: TorchTrainer, stop: StopRequest | None, stop_actor: Any) -> Result:
    """Runs the trainer to its end. With ``stop`` it runs in a thread, because Ray would abort at the first Ctrl-C."""
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
        if stop.signum is not None:  # sent repeatedly, because the actor forgets the signal if it is restarted
            stop_actor.set.remote(stop.signum)
    stop.can_stop_gracefully = False
    if isinstance(outcome[0], BaseException):
        raise outcome[0]
    return outcome[0]


class _StopSignal:
    """A Ray actor that holds the stop signal of the driver for the workers."""

    def __init__(self) -> None:
        self._signum: int | None = None

    def set(self, signum: int) -> None:
        self._signum = signum

    def get(self) -> int | None:
        return self._signum


def _in_worker(config: _WorkerConfig) -> Any:
    """The function that Ray Train calls in each worker. A worker has no console: its events go through the queue."""
    import ray.train

    import_custom_modules(config["cfg"])
    rank = ray.train.get_context().get_world_rank()
    stop = StopRequest()
    if rank == 0:
        threading.Thread(target=_poll_stop_signal, args=(config["stop_actor"], stop), daemon=True).start()
    try:
        return config["work"](_ToDriver(config["events"]) if rank == 0 else Silent(), stop)
    except Stopped as stopped:  # returned, because Ray Train would take an exception for a failure and start again
        return stopped


def _poll_stop_signal(stop_actor: Any, stop: StopRequest) -> None:
    while stop.signum is None:
        time.sleep(STOP_POLL_S)
        with suppress(*PROCESS_LOST):  # Ray restarts the actor
            stop.signum = ray.get(stop_actor.get.remote())


class _ToDriver:
    """A :class:`RunListener` that sends all events to the driver."""

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


class _RayTrainListener:
    """A :class:`RunListener` that passes on all events, and reports validations to Ray Train.

    Ray Train needs the report of every worker. The run's clock stays in the worker's process; its seconds are sent with
    each validation.
    """

    def __init__(self, listener: RunListener) -> None:
        self._listener, self._clock = listener, cast("Clock | None", None)
        self.stepped, self.warned, self.noted = listener.stepped, listener.warned, listener.noted

    def training_started(self, *, first_iteration: int, last_iteration: int, facts: RunFacts) -> None:
        facts = facts.copy()
        self._clock = facts.pop("clock", None)
        self._listener.training_started(first_iteration=first_iteration, last_iteration=last_iteration, facts=facts)

    def validated(self, iteration: int, metrics: Scores) -> None:
        import ray.train

        scores = metrics if self._clock is None else Scores(**metrics, cost=self._clock.seconds())
        self._listener.validated(iteration, scores)
        ray.train.report({"iter": iteration, **metrics})


class _WorkerLossCallback(UserCallback):
    """Runs in Ray's controller when workers fail: Ray Train retries lost workers; all other errors end the run."""

    def __init__(self, events: Queue, max_failures: int) -> None:
        self._events, self._max_failures, self._failures = events, max_failures, 0

    def after_exception(self, run_context: Any, worker_exceptions: dict[int, Exception]) -> None:
        if (fatal := _fatal_error(worker_exceptions)) is not None:
            raise fatal  # Ray Train does not retry after an exception of a callback
        self._failures += 1
        lost_rank = min(worker_exceptions, key=lambda rank: not _died(worker_exceptions[rank]))
        action = "starting again from the last checkpoint" if self._failures <= self._max_failures else "giving up"
        text = f"worker {lost_rank} was lost ({_one_line(worker_exceptions[lost_rank])}); {action}"
        self._events.actor.put_nowait.remote(("lost", (f"{text} ({self._failures} of {self._max_failures})",), {}))


class _EventRelay(threading.Thread):
    """Passes events from the queue to a listener in the driver, and notifies it if workers are slow to start.

    Args:
        events: the queue that ``_ToDriver`` writes to.
        listener: is notified of the events.
        stop: the driver's stop request; once training has started, the run can stop gracefully.
        waiting: text that says what is waited for, with a ``{}`` for what the cluster has.
        kinds: the kinds of resources that the workers take.
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
            except (Empty, *PROCESS_LOST):  # Ray restarts the actor of the queue
                if not training and time.monotonic() > patience and not self._stopping.is_set():
                    patience = time.monotonic() + 2 * PATIENCE_S
                    self._listener.noted("still starting " + self._waiting.format(free_resources(self._kinds)))
                continue
            if event in ("training_started", "lost"):
                training, patience = event == "training_started", time.monotonic() + PATIENCE_S
            if event == "training_started" and self._request is not None:
                self._request.can_stop_gracefully = True
            getattr(self._listener, "noted" if event == "lost" else event)(*args, **details)

    def _is_empty(self) -> bool:
        try:
            return bool(self._events.empty())
        except PROCESS_LOST:
            return True

    def stop(self) -> None:
        self._stopping.set()
        self.join(timeout=10)
        self._events.shutdown()


def _user_error(error: BaseException) -> Exception | None:
    """The UserError or RunError of a worker, if Ray's error wraps one."""
    return next((cause for cause in causes_of(error) if isinstance(cause, (UserError, RunError))), None)


def _died(error: BaseException) -> bool:
    """Whether a worker's process or node was lost; False if its code raised an exception."""
    return any(isinstance(cause, (*PROCESS_LOST, *health_check_failed())) for cause in causes_of(error))


def controller_lost(error: BaseException) -> bool:
    """Whether ``fit`` ended because Ray Train's own process was lost. (Ray Train itself replaces lost workers.)"""
    starting = any(
        isinstance(cause, (*group_found_no_place(), *group_died_at_its_start())) for cause in causes_of(error)
    )
    return _user_error(error) is None and not isinstance(error, WorkerGroupError) and not starting and _died(error)


def peer_lost(error: BaseException) -> bool:
    """Whether a worker's error only says that another worker is lost.

    gloo says so in the text of a plain RuntimeError.
    """
    return any(isinstance(cause, PEER_LOST) or texts.PEER_GONE.is_in(cause) for cause in causes_of(error))


def _fatal_error(worker_exceptions: Mapping[int, Exception]) -> Exception | None:
    """An error that a restart would not fix: one that a worker's code raised while no worker was lost."""
    for error in worker_exceptions.values():
        if (user_error := _user_error(error)) is not None:
            return user_error
    if any(_died(error) for error in worker_exceptions.values()):
        return None
    raised = [error for error in worker_exceptions.values() if not peer_lost(error)]
    return causes_of(raised[0])[-1] if raised else None  # type: ignore[return-value]


def _readable_error(error: Exception, per_worker: Mapping[str, float], resources: Resources) -> Exception:
    """The error for the user, made from what ``fit`` raised."""
    if (user_error := _user_error(error)) is not None:
        return user_error
    causes = causes_of(error)
    # Checked first, because the resources of a group that died at its start do not count as free yet.
    if any(isinstance(cause, group_died_at_its_start()) for cause in causes):
        return RunError(
            f"a worker died before it began, {PLACEMENT_ATTEMPTS} times tried, last by: {_one_line(error)}; the node's "
            f"memory may be short; continue with --resume"
        )
    if any(isinstance(cause, group_found_no_place()) for cause in causes):
        needs = " and ".join(f"{amount:g} {kind}" for kind, amount in per_worker.items())
        return RunError(
            f"no place for {resources.min_group_size} workers of {needs}, {PLACEMENT_ATTEMPTS} times tried: "
            f"{free_resources(per_worker)}; continue with --resume when there is room"
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

"""One run on several workers: the same function as in one process, in a Ray Train worker group."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from queue import Empty
from typing import Any

from mmengine.config import Config
from ray.train import FailureConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchTrainer
from ray.util.queue import Queue

from rdistill.cluster import connected, gpus_in_cluster, require_resources
from rdistill.errors import UserError
from rdistill.hooks import Listener, Silent

PLACEMENT_ATTEMPTS = 3  # of a worker group, before the run fails; Ray's own default is for ever


@dataclass(frozen=True)
class Resources:
    """What one run takes."""

    workers: int = 1
    cpus_per_worker: float = 1.0
    gpus_per_worker: float | None = None  # None: one where the cluster has GPUs, else none

    def per_worker(self) -> dict[str, float]:
        gpus = (1.0 if gpus_in_cluster() else 0.0) if self.gpus_per_worker is None else self.gpus_per_worker
        return {"CPU": self.cpus_per_worker, **({"GPU": gpus} if gpus else {})}

    def total(self) -> dict[str, float]:
        return {kind: amount * self.workers for kind, amount in self.per_worker().items()}


def train_in_group(
    cfg: Config,
    work_dir: str | Path,
    resources: Resources,
    *,
    address: str | None = None,
    listener: Listener | None = None,
    callbacks: list[Any] | None = None,
    **options: Any,
) -> dict[str, Any]:
    """As :func:`rdistill.training.train`, with the batch divided among ``resources.workers`` processes.

    ``work_dir`` must be on a disk that all nodes share. ``callbacks`` are Ray Train's own.

    Raises:
        UserError: as ``train``; also when the cluster is too small.
    """
    from rdistill.training import refuse_overwriting

    work_dir = Path(work_dir).absolute()
    refuse_overwriting(work_dir, options.get("resume", False))
    if cfg.train_dataloader.batch_size % resources.workers:
        raise UserError(
            f"train_dataloader.batch_size: {cfg.train_dataloader.batch_size} images do not divide among "
            f"{resources.workers} workers; set --batch-size"
        )
    with connected(address, work_dir):
        require_resources(resources.total(), f"a run of {resources.workers} workers")
        per_worker = resources.per_worker()
        events = Queue(actor_options={"num_cpus": 0})
        relay = _Relay(events, listener or Silent())
        trainer = TorchTrainer(
            _work,
            train_loop_config={"cfg": cfg, "work_dir": str(work_dir), "options": options, "events": events},
            scaling_config=ScalingConfig(
                num_workers=resources.workers, use_gpu="GPU" in per_worker, resources_per_worker=per_worker
            ),
            run_config=RunConfig(
                # A finished name run again continues it silently; every start of ours has its own.
                name=f"{work_dir.name}-{time.time_ns()}",
                storage_path=str(work_dir / "ray_train"),
                failure_config=FailureConfig(max_failures=0, controller_failure_limit=PLACEMENT_ATTEMPTS),
                callbacks=callbacks,
            ),
        )
        relay.start()
        try:
            result = trainer.fit()
        except Exception as error:
            raise _users_own(error) or error from None
        finally:
            relay.stop()
        return dict(result.return_value)


def _work(config: dict[str, Any]) -> dict[str, Any]:
    """What each worker runs. It has no console: what it has to tell goes through the queue."""
    import ray.train

    from rdistill.training import train

    rank = ray.train.get_context().get_world_rank()
    listener = _WorkerListener(config["events"] if rank == 0 else None)
    return train(config["cfg"], config["work_dir"], listener=listener, **config["options"])


class _WorkerListener:
    """Reports validations to Ray Train, which wants every worker to, and all events of rank 0 to the driver."""

    def __init__(self, events: Queue | None) -> None:
        self._events = events

    def started(self, **details: Any) -> None:
        self._send("started", (), details)

    def stepped(self, iteration: int, values: Mapping[str, float]) -> None:
        self._send("stepped", (iteration, dict(values)), {})

    def validated(self, iteration: int, metrics: Mapping[str, Any]) -> None:
        import ray.train

        self._send("validated", (iteration, dict(metrics)), {})
        ray.train.report({"iter": iteration, **metrics})

    def warned(self, message: str) -> None:
        self._send("warned", (message,), {})

    def _send(self, event: str, args: tuple[Any, ...], details: dict[str, Any]) -> None:
        if self._events is not None:
            self._events.actor.put_nowait.remote((event, args, details))


class _Relay(threading.Thread):
    """Carries events from the queue to a listener in the driver."""

    def __init__(self, events: Queue, listener: Listener) -> None:
        super().__init__(daemon=True)
        self._events, self._listener, self._stop_asked = events, listener, threading.Event()

    def run(self) -> None:
        while not (self._stop_asked.is_set() and self._events.empty()):
            try:
                event, args, details = self._events.get(timeout=0.5)
            except Empty:
                continue
            getattr(self._listener, event)(*args, **details)

    def stop(self) -> None:
        self._stop_asked.set()
        self.join(timeout=10)
        self._events.shutdown()


def _users_own(error: BaseException) -> Exception | None:
    """The UserError or DivergedError of a worker, from within what Ray wrapped around it."""
    from rdistill.hooks import DivergedError

    seen: list[BaseException] = [error]
    while seen:
        current = seen.pop()
        if isinstance(current, (UserError, DivergedError)):
            return current
        inner = list(getattr(current, "worker_failures", {}).values())
        seen += [
            e for e in (*inner, current.__cause__, getattr(current, "cause", None)) if isinstance(e, BaseException)
        ]
    return None

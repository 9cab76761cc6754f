"""What Ray does not document, and rdistill needs: its own cluster on 127.0.0.1, who holds what, why workers ended.

Tried with Ray 2.60.0; `setup.py` allows no later minor version.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TypedDict

from rdistill._compat.changed import LibraryChangedError, private, private_module

PACKAGE = "ray"


@contextmanager
def on_loopback() -> Iterator[None]:
    """Has ``ray.init`` take 127.0.0.1 as it stands, for every one of its ports, as long as the context lasts.

    Elsewhere it puts in the address by which other machines know this one, and listens on all interfaces; not where it
    thinks that it cannot form clusters, as on Windows. That is a constant of its own.

    Raises:
        LibraryChangedError: the constant is gone. No cluster is started then: anybody on the network could join it.
    """
    need = "keeps its cluster to this machine"
    constants = private_module(PACKAGE, "ray._private.ray_constants", need)
    before = private(PACKAGE, constants, "ENABLE_RAY_CLUSTER", need)
    constants.ENABLE_RAY_CLUSTER = False
    try:
        yield
    finally:
        constants.ENABLE_RAY_CLUSTER = before


def start_options(folder: str) -> dict[str, str]:
    """Options of ``ray.init`` for a cluster on 127.0.0.1 with its files in a folder.

    Both are there for Ray's own tests. ``ray.init`` refuses options that it does not know with a RuntimeError that
    names them, so that they cannot be ignored.
    """
    return {"_temp_dir": folder, "_node_ip_address": "127.0.0.1"}


def bootstrap_address(address: str) -> str:
    """The ``host:port`` behind an address such as ``auto``, as ``ray.init`` finds it.

    Raises:
        ConnectionError, ValueError: there is none.
        LibraryChangedError: the function is gone.
    """
    need = "finds a cluster"
    services = private_module(PACKAGE, "ray._private.services", need)
    return str(private(PACKAGE, services, "canonicalize_bootstrap_address_or_die", need)(address))


def ask_cluster(address: str, timeout_s: float) -> None:
    """Gets a cluster's nodes, with this user's token, without joining it: ``ray.init`` would try for minutes.

    Raises:
        ray.exceptions.AuthenticationError: it wants a token.
        Exception: it does not answer; Ray's are of many kinds.
        LibraryChangedError: the client is gone.
    """
    need = "asks whether a cluster is there"
    tokens = private_module(PACKAGE, "ray._private.authentication.authentication_token_setup", need)
    private(PACKAGE, tokens, "maybe_enable_token_auth_if_token_available", need)(warn_if_disabled=False)
    client = private(PACKAGE, private_module(PACKAGE, "ray._raylet", need), "GcsClient", need)
    client(address=address).get_all_node_info(timeout=timeout_s)


def autoscaler_limits() -> Mapping[str, float]:
    """How much of each resource the autoscaler may grow the cluster to; empty without one.

    Without it a sweep would be refused on a cluster that has yet to grow, hence an error where it is gone.
    """
    import ray

    need = "knows how far a cluster may grow"
    limits = private(PACKAGE, ray, "_private.state.state.get_max_resources_from_cluster_config", need)()
    return dict(limits or {})


class Job(TypedDict):
    """A job of a cluster, as far as it is read here."""

    JobID: str
    Entrypoint: str


class Actor(TypedDict):
    """An actor of a cluster, as far as it is read here."""

    ActorClassName: str
    JobID: str
    State: str


def jobs_and_actors() -> tuple[list[Job], list[Actor]]:
    """The cluster's jobs and actors as plain records, without the dashboard that ``ray.util.state`` needs.

    For the line that says who holds what a trial waits for. Who calls it must bear its failure.
    """
    import ray

    need = "says who is at work on the cluster"
    jobs, actors = (private(PACKAGE, ray, f"_private.state.{name}", need)() for name in ("jobs", "actors"))
    return list(jobs), list(actors.values())


def demands() -> list[dict[str, float]]:
    """The bundles of resources that are wanted of the cluster and have no room on it, alone or in groups.

    From the autoscaler's interface, whose module Ray does not document. As :func:`jobs_and_actors`.
    """
    import ray

    sdk = private_module(PACKAGE, "ray.autoscaler.v2.sdk", "sees what waits for room")
    waiting = sdk.get_cluster_status(ray.get_runtime_context().gcs_address).resource_demands
    groups = [*waiting.placement_group_demand, *waiting.ray_task_actor_demand]
    return [dict(by_count.bundle) for group in groups for by_count in group.bundles_by_count]


@contextmanager
def failures_of_actors_as(converted: Callable[[Exception], Exception]) -> Iterator[None]:
    """While Ray Tune runs within this, what its trials' processes fail of is converted first.

    Tune (2.60) knows RayActorError and RayTaskError, and ends the whole experiment at any other kind, such as the
    OutOfMemoryError of Ray's own memory monitor.

    Raises:
        LibraryChangedError: the method is gone. Without it one trial too many for the memory would end the sweep.
    """
    need = "lets a sweep outlive a trial that Ray kills for its node's memory"
    manager = private(PACKAGE, private_module(PACKAGE, "ray.air.execution._internal", need), "RayActorManager", need)
    tunes_own = private(PACKAGE, manager, "_actor_task_failed", need)

    def failed(self: Any, tracked_actor_task: Any, exception: Exception) -> None:
        tunes_own(self, tracked_actor_task, converted(exception))

    manager._actor_task_failed = failed
    try:
        yield
    finally:
        manager._actor_task_failed = tunes_own


def trials_of(results: Any) -> list[Any]:
    """Ray Tune's own trials behind a ResultGrid, with the state and the error that each ended in."""
    need = "ends the records of trials that could not do so themselves"
    return list(private(PACKAGE, results, "_experiment_analysis.trials", need))


def is_at_its_end(asha: Any, result: Mapping[str, Any]) -> bool:
    """Whether a result is the last that an ASHAScheduler waits for: it keeps neither argument under a public name."""
    need = "lets trials at their last validation finish"
    return bool(result[private(PACKAGE, asha, "_time_attr", need)] >= private(PACKAGE, asha, "_max_t", need))


def run_of_trial(logger: Any) -> dict[Any, str]:
    """The table trial -> MLflow run of Ray's MLflowLoggerCallback: a resumed sweep goes on with its runs."""
    return private(PACKAGE, logger, "_trial_runs", "goes on with a trial's run of MLflow")


def group_found_no_place() -> tuple[type[Exception], ...]:
    """What Ray Train raises where there is no room for a group of workers."""
    return _train_errors("WorkerGroupStartupTimeoutError")


def group_died_at_its_start() -> tuple[type[Exception], ...]:
    """What Ray Train raises where a group had its room, and a worker's process died before it could begin."""
    return _train_errors("WorkerGroupStartupFailedError")


def health_check_failed() -> tuple[type[Exception], ...]:
    """What Ray Train wraps around the loss of a worker's process."""
    return _train_errors("WorkerHealthCheckTimeoutError", "WorkerHealthCheckFailedError")


def _train_errors(*names: str) -> tuple[type[Exception], ...]:
    need = "tells lost workers from mistakes"
    module = private_module(PACKAGE, "ray.train.v2._internal.exceptions", need)
    return tuple(private(PACKAGE, module, name, need) for name in names)


def errors_within(error: BaseException) -> list[BaseException]:
    """What Ray has wrapped in an error of its own, not further down.

    Ray Train keeps them under a name for each kind: ``worker_failures`` and ``controller_failure`` are documented, the
    names of a failed health check and of a worker's exception with its traceback are not.
    """
    failures = getattr(error, "worker_failures", None)
    inner = list(failures.values()) if isinstance(failures, Mapping) else []
    names = ("cause", "controller_failure", "_base_exc", "health_check_failure")
    inner += [getattr(error, name, None) for name in names]
    return [each for each in inner if isinstance(each, BaseException)]


__all__ = [
    "LibraryChangedError", "ask_cluster", "autoscaler_limits", "bootstrap_address", "demands", "errors_within",
    "failures_of_actors_as", "group_died_at_its_start", "group_found_no_place", "health_check_failed", "is_at_its_end",
    "jobs_and_actors", "on_loopback", "run_of_trial", "start_options", "trials_of",
]  # fmt: skip

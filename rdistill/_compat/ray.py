"""Undocumented in Ray: a cluster on 127.0.0.1, who uses which resources, and why workers ended.

Tested with Ray 2.60.0; `setup.py` allows no later minor version.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TypedDict

from rdistill._compat.changed import LibraryChangedError, private, private_module

PACKAGE = "ray"


@contextmanager
def on_loopback() -> Iterator[None]:
    """Within the context, ``ray.init`` uses 127.0.0.1 for all its ports.

    Otherwise Ray replaces it by the machine's address in the network and listens on all interfaces, unless a constant
    says that it cannot form clusters, as on Windows. This function sets that constant.

    Raises:
        LibraryChangedError: the constant is missing. No cluster is started then, because anybody in the network could
            join it.
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

    Ray has both options for its own tests. They cannot be silently ignored, because ``ray.init`` raises a RuntimeError
    for unknown options.
    """
    return {"_temp_dir": folder, "_node_ip_address": "127.0.0.1"}


def bootstrap_address(address: str) -> str:
    """The ``host:port`` of an address such as ``auto``, as ``ray.init`` finds it.

    Raises:
        ConnectionError, ValueError: there is no such cluster.
        LibraryChangedError: the function is missing.
    """
    need = "finds a cluster"
    services = private_module(PACKAGE, "ray._private.services", need)
    return str(private(PACKAGE, services, "canonicalize_bootstrap_address_or_die", need)(address))


def ask_cluster(address: str, timeout_s: float) -> None:
    """Gets a cluster's nodes, with this user's token, without joining it: ``ray.init`` would try for minutes.

    Raises:
        ray.exceptions.AuthenticationError: the cluster needs a token.
        Exception: the cluster does not answer; Ray raises many kinds of errors for this.
        LibraryChangedError: the client is missing.
    """
    need = "asks whether a cluster is there"
    tokens = private_module(PACKAGE, "ray._private.authentication.authentication_token_setup", need)
    private(PACKAGE, tokens, "maybe_enable_token_auth_if_token_available", need)(warn_if_disabled=False)
    client = private(PACKAGE, private_module(PACKAGE, "ray._raylet", need), "GcsClient", need)
    client(address=address).get_all_node_info(timeout=timeout_s)


def autoscaler_limits() -> Mapping[str, float]:
    """Resource -> the largest amount to which the autoscaler may grow the cluster; empty without an autoscaler.

    Without this function, a sweep would be refused on a cluster that has not grown yet, so it is an error if it is
    missing.
    """
    import ray

    need = "knows how far a cluster may grow"
    limits = private(PACKAGE, ray, "_private.state.state.get_max_resources_from_cluster_config", need)()
    return dict(limits or {})


class Job(TypedDict):
    """The keys of a cluster's job that rdistill reads."""

    JobID: str
    Entrypoint: str


class Actor(TypedDict):
    """The keys of a cluster's actor that rdistill reads."""

    ActorClassName: str
    JobID: str
    State: str


def jobs_and_actors() -> tuple[list[Job], list[Actor]]:
    """The jobs and actors of the cluster, without the dashboard that ``ray.util.state`` needs.

    They are for the message that says who uses the resources that a trial waits for. Callers must handle its failure.
    """
    import ray

    need = "says who is at work on the cluster"
    jobs, actors = (private(PACKAGE, ray, f"_private.state.{name}", need)() for name in ("jobs", "actors"))
    return list(jobs), list(actors.values())


def demands() -> list[dict[str, float]]:
    """The resource bundles that wait in the cluster, single ones and those of placement groups.

    They are read from the autoscaler's interface, whose module Ray does not document. Callers must handle its failure.
    """
    import ray

    sdk = private_module(PACKAGE, "ray.autoscaler.v2.sdk", "sees what waits for room")
    waiting = sdk.get_cluster_status(ray.get_runtime_context().gcs_address).resource_demands
    groups = [*waiting.placement_group_demand, *waiting.ray_task_actor_demand]
    return [dict(by_count.bundle) for group in groups for by_count in group.bundles_by_count]


@contextmanager
def failures_of_actors_as(converted: Callable[[Exception], Exception]) -> Iterator[None]:
    """Within the context, the errors of trials' processes are converted before Ray Tune handles them.

    Tune (2.60) handles RayActorError and RayTaskError, and ends the whole experiment at any other error, such as the
    OutOfMemoryError of Ray's memory monitor.

    Raises:
        LibraryChangedError: the method is missing. Without it, a single trial that needs too much memory would end the
            sweep.
    """
    need = "lets a sweep outlive a trial that Ray kills for its node's memory"
    manager = private(PACKAGE, private_module(PACKAGE, "ray.air.execution._internal", need), "RayActorManager", need)
    original = private(PACKAGE, manager, "_actor_task_failed", need)

    def failed(self: Any, tracked_actor_task: Any, exception: Exception) -> None:
        original(self, tracked_actor_task, converted(exception))

    manager._actor_task_failed = failed
    try:
        yield
    finally:
        manager._actor_task_failed = original


def trials_of(results: Any) -> list[Any]:
    """Ray Tune's trials behind a ResultGrid, each with its final state and error."""
    need = "ends the records of trials that could not do so themselves"
    return list(private(PACKAGE, results, "_experiment_analysis.trials", need))


def is_at_its_end(asha: Any, result: Mapping[str, Any]) -> bool:
    """Whether a result is the last one of a trial for an ASHAScheduler, whose arguments are private attributes."""
    need = "lets trials at their last validation finish"
    return bool(result[private(PACKAGE, asha, "_time_attr", need)] >= private(PACKAGE, asha, "_max_t", need))


def run_of_trial(logger: Any) -> dict[Any, str]:
    """The table trial -> MLflow run of Ray's MLflowLoggerCallback, so that a resumed sweep continues these runs."""
    return private(PACKAGE, logger, "_trial_runs", "goes on with a trial's run of MLflow")


def group_found_no_place() -> tuple[type[Exception], ...]:
    """The errors that Ray Train raises if there are not enough resources for a group of workers."""
    return _train_errors("WorkerGroupStartupTimeoutError")


def group_died_at_its_start() -> tuple[type[Exception], ...]:
    """The errors that Ray Train raises if a group was placed, but a worker's process died before it could start."""
    return _train_errors("WorkerGroupStartupFailedError")


def health_check_failed() -> tuple[type[Exception], ...]:
    """The errors in which Ray Train wraps the loss of a worker's process."""
    return _train_errors("WorkerHealthCheckTimeoutError", "WorkerHealthCheckFailedError")


def _train_errors(*names: str) -> tuple[type[Exception], ...]:
    need = "tells lost workers from mistakes"
    module = private_module(PACKAGE, "ray.train.v2._internal.exceptions", need)
    return tuple(private(PACKAGE, module, name, need) for name in names)


def errors_within(error: BaseException) -> list[BaseException]:
    """The errors that Ray has wrapped directly in an error.

    Ray Train keeps each kind in another attribute: ``worker_failures`` and ``controller_failure`` are documented, those
    of a failed health check and of a worker's exception with its traceback are not.
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

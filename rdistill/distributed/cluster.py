"""Joins a Ray cluster, or starts one on this machine that writes to the work dir only."""

from __future__ import annotations

import logging
import os
import secrets
import socket
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import ray
from ray.util import placement_group, remove_placement_group
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from rdistill._compat import texts
from rdistill._compat.changed import LibraryChangedError
from rdistill._compat.ray import (
    ask_cluster,
    autoscaler_limits,
    bootstrap_address,
    demands,
    jobs_and_actors,
    on_loopback,
    start_options,
)
from rdistill.core.errors import RunError, UserError
from rdistill.core.logs import keep_worker_logs
from rdistill.core.stopping import sigterm_kept
from rdistill.distributed.ray_folder import folder_for_ray

WAIT_NOTE_S = 10.0  # seconds between two lines that say what a group of workers waits for
CONNECT_TIMEOUT_S = 20  # seconds that a cluster may take to answer; Ray itself would try for minutes
START_ATTEMPTS = 2  # attempts to start a cluster on this machine
PATIENCE_S = 10  # seconds that a request may wait for resources before a line says so
REMIND_S = 60  # seconds between two lines about the same wait

_log = logging.getLogger(__name__)


NO_DASHBOARD = (
    "note      the cluster at {} has no dashboard. By it, Ray frees the workers of a trial that was stopped or whose "
    "node was lost: without it, they stay reserved, and the sweep may wait for them without end. Start the head node "
    "with --include-dashboard=true"
)


@cache
def _own_token() -> str:
    return secrets.token_hex(32)


@contextmanager
def connected(
    address: str | None, scratch: str | Path, *, dashboard: bool = False, notify: Callable[[str], None] | None = None
) -> Iterator[None]:
    """Within the context, connects to a Ray cluster; at its end, stops a cluster that it has started.

    Args:
        address: the address of a cluster, or 'auto' for a cluster on this machine. By default it is ``RAY_ADDRESS``
            (which Ray sets within a job); without that, a new cluster on this machine is started, bound to 127.0.0.1.
        scratch: the work dir, which this process has locked. The files of a new cluster go there, see
            :func:`rdistill.distributed.ray_folder.folder_for_ray`.
        dashboard: whether the cluster's dashboard is needed, as for trials of several workers: Ray learns from it
            that the workers of a stopped trial, or of a lost node's trial, can be freed. A new cluster starts
            its dashboard then.
        notify: is called with a line if processes of an earlier, killed start were ended, or if the cluster at
            ``address`` has no dashboard although it is needed.

    Raises:
        UserError: no cluster answers at the address.
        RunError: a new cluster did not start.
    """
    if ray.is_initialized():  # the caller has connected already
        yield
        return
    address = address or os.environ.get("RAY_ADDRESS")
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    quiet = dict(log_to_driver=False, logging_level=logging.ERROR, configure_logging=True)
    if address:
        _require_answer(address)
        try:
            with sigterm_kept():
                cluster = ray.init(address=address, **quiet)
        except ConnectionError as error:
            raise UserError(f"--address {address}: no Ray cluster answers: {str(error).splitlines()[0]}") from None
        if dashboard and not cluster.dashboard_url:
            (notify or _log.warning)(NO_DASHBOARD.format(address))
        try:
            yield
        finally:
            ray.shutdown()
        return
    # A cohort's proxy trials are many small processes; this keeps Ray from warning about them.
    os.environ.setdefault("RAY_worker_maximum_startup_concurrency", "16")
    # Ray requires a token by default, and would write one to the home directory. This token is the same in all calls
    # within a process, because Ray reads it only once.
    os.environ.setdefault("RAY_AUTH_TOKEN", _own_token())
    with folder_for_ray(scratch, notify or _log.warning) as temp_dir:
        _start(
            address="local",
            **start_options(str(temp_dir)),
            include_dashboard=dashboard,
            dashboard_host="127.0.0.1",
            **quiet,
        )
        try:
            yield
        finally:
            ray.shutdown()
            keep_worker_logs(temp_dir, Path(scratch))


def _start(**options: Any) -> None:
    """Calls ``ray.init``, a second time if Ray did not start in time (30 s for its node, 60 s for its dashboard).

    Raises:
        RunError: Ray did not start at the second attempt either.
    """
    for attempt in range(START_ATTEMPTS):
        try:
            with on_loopback(), sigterm_kept():
                ray.init(**options)
            return
        except Exception as error:  # Ray raises plain Exceptions for this
            ray.shutdown()
            if not texts.RAY_STARTS_SLOWLY.is_in(error):
                raise
            if attempt == START_ATTEMPTS - 1:
                raise RunError("Ray did not start within its time, twice: the machine is too busy; try again") from None


def _require_answer(address: str) -> None:
    """Raises UserError if no cluster answers, or if it refuses the connection; Ray itself would try for minutes."""
    if "://" in address:
        return  # only Ray can look up this kind of address
    try:
        node = bootstrap_address(address)
    except (ConnectionError, ValueError) as error:
        raise UserError(f"--address {address}: no Ray cluster answers: {str(error).splitlines()[0]}") from None
    host, _, port = node.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=CONNECT_TIMEOUT_S).close()
    except OSError as error:
        raise UserError(f"--address {address}: no Ray cluster answers: {error.strerror or error}") from None
    failure: list[BaseException | None] = []

    def connect() -> None:
        try:
            ask_cluster(node, CONNECT_TIMEOUT_S)
            failure.append(None)
        except Exception as error:
            failure.append(error)

    attempt = threading.Thread(target=connect, daemon=True)  # a daemon: it cannot be stopped if nothing answers
    attempt.start()
    attempt.join(CONNECT_TIMEOUT_S)
    if failure and isinstance(failure[0], LibraryChangedError):
        raise failure[0]
    if failure and isinstance(failure[0], ray.exceptions.AuthenticationError):
        raise UserError(
            f"--address {address}: the Ray cluster at {node} wants its token; set RAY_AUTH_MODE=token and "
            f"RAY_AUTH_TOKEN, or RAY_AUTH_TOKEN_PATH"
        )
    if not failure or failure[0] is not None:
        raise UserError(f"--address {address}: no Ray cluster answers: {node} is not one's port (Ray's own is 6379)")


def require_resources(per_worker: Mapping[str, float], what: str, workers: int = 1) -> int:
    """How many groups of ``workers`` workers fit into the cluster; each worker must fit on one node.

    If the cluster has an autoscaler, its limits count instead of the present nodes.

    Args:
        per_worker: kind of resource -> amount for one worker.
        what: what needs the resources, for the message.
        workers: number of workers in a group.

    Raises:
        UserError: not even one group fits; the message says what is missing.
    """
    needed = {kind: amount * workers for kind, amount in per_worker.items() if amount > 0}
    nodes: list[dict[str, float]] = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    have = {kind: sum(node.get(kind, 0.0) for node in nodes) for kind in needed}
    growing = autoscaler_limits()
    limit = {kind: max(have[kind], float(growing.get(kind, 0))) for kind in needed}
    lacking = [
        f"{amount:g} {kind} (the cluster has {limit[kind]:g})"
        for kind, amount in needed.items()
        if amount > limit[kind] + 1e-9
    ]
    if lacking:
        raise UserError(f"{what} takes {' and '.join(lacking)}; request less, or join a larger cluster with --address")
    if limit != have:  # the size of nodes that do not exist yet is not known
        return min(int(limit[kind] / amount + 1e-9) for kind, amount in needed.items())
    slots = sum(min(int(node.get(kind, 0) / amount + 1e-9) for kind, amount in per_worker.items()) for node in nodes)
    if slots < workers:
        largest = max(
            nodes, key=lambda node: [node.get(kind, 0.0) for kind in sorted(needed, reverse=True)], default={}
        )
        needs = " and ".join(f"{amount:g} {kind}" for kind, amount in per_worker.items())
        largest_has = " and ".join(f"{largest.get(kind, 0):g} {kind}" for kind in per_worker)
        raise UserError(
            f"{what} takes {workers} x {needs}, each on one node, but the cluster has room for {slots} (its largest "
            f"node has {largest_has}); request less a worker, or join a cluster of larger nodes with --address"
        )
    return slots // workers


@contextmanager
def visible_wait(per_worker: Mapping[str, float], what: str, notify: Callable[[str], None]) -> Iterator[None]:
    """Within the context, notifies the user if a request for these resources has waited for a while.

    ``notify`` is called from another thread, at most every ``REMIND_S`` seconds, with a line such as ``waiting  one
    trial needs 1 CPU: 0 of 2 are free; held by 2 Cohort of `rdistill sweep coef.yaml` ``.
    """
    ended = threading.Event()
    watcher = threading.Thread(target=_watch, args=(dict(per_worker), what, notify, ended), daemon=True)
    watcher.start()
    try:
        yield
    finally:
        ended.set()
        watcher.join(timeout=5)


def _watch(per_worker: dict[str, float], what: str, notify: Callable[[str], None], ended: threading.Event) -> None:
    waited_s, notified_at_s, step_s = 0.0, -float(REMIND_S), PATIENCE_S / 4
    while not ended.wait(step_s):
        try:
            waited_s = waited_s + step_s if _is_waiting(per_worker) else 0.0
            if waited_s < PATIENCE_S:
                notified_at_s = -float(REMIND_S)
            elif waited_s - notified_at_s >= REMIND_S:
                notified_at_s = waited_s
                notify(f"waiting   {what} needs {shortage(per_worker)}")
        except Exception as error:  # the state of the cluster could not be read; that must not end this thread
            _log.debug("cannot see who waits: %s", error)


def _is_waiting(per_worker: Mapping[str, float]) -> bool:
    """Whether a request for these resources, by itself or in a placement group, waits in the cluster."""
    return any(all(bundle.get(kind) == amount for kind, amount in per_worker.items()) for bundle in demands())


def shortage(per_worker: Mapping[str, float]) -> str:
    """How much of each resource is free, and who uses the rest: ``1 CPU: 0 of 2 are free; held by ...``."""
    have, free = ray.cluster_resources(), ray.available_resources()
    parts = [
        f"{amount:g} {kind}: {free.get(kind, 0):g} of {have.get(kind, 0):g} are free"
        for kind, amount in per_worker.items()
    ]
    owners = holders()
    return ", ".join(parts) + (f"; held by {', '.join(owners)}" if owners else "")


def holders() -> list[str]:
    """The actors on the cluster, the most numerous first: ``2 Cohort of `rdistill sweep coef.yaml` ``."""
    jobs, actors = jobs_and_actors()
    programs = {job["JobID"]: job["Entrypoint"] for job in jobs}
    count = Counter((actor["ActorClassName"], actor["JobID"]) for actor in actors if actor["State"] == "ALIVE")
    return [f"{n} {kind} of `{_short(programs.get(job, job))}`" for (kind, job), n in count.most_common(3)]


def _short(command: Any) -> str:
    words = [word.rpartition("/")[2] if word.startswith("/") else word for word in str(command).split()]
    return " ".join(words)[:60]


def joins_a_cluster(address: str | None) -> bool:
    """Whether a command runs in an existing cluster: one with an address, or that of the Ray job it runs in."""
    return bool(address or os.environ.get("RAY_ADDRESS"))


def wait_for_room(per_worker: Mapping[str, float], workers: int, notify: Callable[[str], None]) -> None:
    """Waits until a group of workers can be placed; meanwhile notifies the user of what is missing."""
    group = placement_group([dict(per_worker)] * workers, strategy="PACK")
    try:
        while not group.wait(timeout_seconds=WAIT_NOTE_S):
            notify(f"waiting for {workers} x {_amounts(per_worker)}: {free_resources(per_worker)}")
    finally:
        remove_placement_group(group)


def free_resources(kinds: Iterable[str]) -> str:
    """The total and the free amount of some resources as text: ``the cluster has 2 CPU, 0.5 are free``."""
    have, free = ray.cluster_resources(), ray.available_resources()
    parts = [f"{have.get(kind, 0):g} {kind}, {free.get(kind, 0):g} are free" for kind in kinds]
    return f"the cluster has {' and '.join(parts)}"


def _amounts(resources: Mapping[str, float]) -> str:
    return " and ".join(f"{amount:g} {kind}" for kind, amount in resources.items())


def is_single_node() -> bool:
    """Whether the node of this process is the only one in the cluster."""
    alive = [node["NodeID"] for node in ray.nodes() if node["Alive"]]
    return alive == [ray.get_runtime_context().get_node_id()]


def on_this_node() -> NodeAffinitySchedulingStrategy:
    """Places an actor on the node of this process, so that the loss of another node cannot end it."""
    return NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)


def gpus_in_cluster() -> float:
    return float(ray.cluster_resources().get("GPU", 0))


def killed_for_memory(error: ray.exceptions.OutOfMemoryError) -> str:
    """One line about a process that Ray's memory monitor killed; Ray's own text is a page."""
    used = texts.RAY_MEMORY.read(error)  # 6.41GB used / 23.54GB limit
    return f"out of memory: Ray killed the process, its node had {used or 'too little left'}"

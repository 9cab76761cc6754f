"""Joining a Ray cluster, or starting one on this machine that leaves no trace outside the work dir."""

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

SAY_EVERY_S = 10.0  # what is waited for
ANSWER_S = 20  # seconds that a cluster may take to answer; Ray itself tries again for minutes
STARTS = 2  # attempts to start a cluster of our own
PATIENCE_S = 10  # seconds that something may wait for room on the cluster before a line says so
REMIND_S = 60  # seconds between two lines about the same wait

_log = logging.getLogger(__name__)


@cache
def _own_token() -> str:
    return secrets.token_hex(32)


@contextmanager
def connected(
    address: str | None, scratch: str | Path, *, dashboard: bool = False, say: Callable[[str], None] | None = None
) -> Iterator[None]:
    """Connects to a cluster for as long as the context lasts, and stops what it started.

    Args:
        address: a cluster's address, or 'auto' for one on this machine; by default that of ``RAY_ADDRESS``
            (which Ray sets within a job), or else a new one-machine cluster bound to 127.0.0.1.
        scratch: the work dir, which this process holds: the new cluster's own files go there; see
            :func:`rdistill.distributed.ray_folder.folder_for_ray`.
        dashboard: start it too: Tune frees the workers of a stopped several-worker trial through it.
        say: is given a line about what an earlier start left and this one has cleared.
    """
    if ray.is_initialized():  # the caller's own connection
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
                ray.init(address=address, **quiet)
        except ConnectionError as error:
            raise UserError(f"--address {address}: no Ray cluster answers: {str(error).splitlines()[0]}") from None
        try:
            yield
        finally:
            ray.shutdown()
        return
    # Trials in a cohort are many thin processes: that is no mistake to be warned of.
    os.environ.setdefault("RAY_worker_maximum_startup_concurrency", "16")
    # Ray requires a token by default: one of this cluster alone, so that it writes none to the home directory.
    # The same in each call of a process: Ray reads it once.
    os.environ.setdefault("RAY_AUTH_TOKEN", _own_token())
    with folder_for_ray(scratch, say or _log.warning) as temp_dir:
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
    """``ray.init``, once more where the machine was too busy: Ray gives its node 30 s to start, its dashboard 60 s.

    Raises:
        RunError: it did not start the second time either.
    """
    for attempt in range(STARTS):
        try:
            with on_loopback(), sigterm_kept():
                ray.init(**options)
            return
        except Exception as error:  # Ray raises plain ones for this
            ray.shutdown()
            if not texts.RAY_STARTS_SLOWLY.is_in(error):
                raise
            if attempt == STARTS - 1:
                raise RunError("Ray did not start within its time, twice: the machine is too busy; try again") from None


def _require_answer(address: str) -> None:
    """Raises UserError where no cluster answers, or one that does not let us in: Ray tries again for minutes."""
    if "://" in address:
        return  # a kind of address that only Ray can look up
    try:
        node = bootstrap_address(address)
    except (ConnectionError, ValueError) as error:
        raise UserError(f"--address {address}: no Ray cluster answers: {str(error).splitlines()[0]}") from None
    host, _, port = node.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=ANSWER_S).close()
    except OSError as error:
        raise UserError(f"--address {address}: no Ray cluster answers: {error.strerror or error}") from None
    failure: list[BaseException | None] = []

    def connect() -> None:
        try:
            ask_cluster(node, ANSWER_S)
            failure.append(None)
        except Exception as error:
            failure.append(error)

    attempt = threading.Thread(target=connect, daemon=True)  # it cannot be stopped where nothing ever answers
    attempt.start()
    attempt.join(ANSWER_S)
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
    """How many times the cluster holds ``workers`` workers, each of which must fit on one node.

    Where an autoscaler says how far it may grow, that counts.

    Raises:
        UserError: not even once; says what is missing.
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
        raise UserError(f"{what} takes {' and '.join(lacking)}; ask for less, or join a larger cluster with --address")
    if limit != have:  # nodes that are not there yet: what they hold is the autoscaler's affair
        return min(int(limit[kind] / amount + 1e-9) for kind, amount in needed.items())
    slots = sum(min(int(node.get(kind, 0) / amount + 1e-9) for kind, amount in per_worker.items()) for node in nodes)
    if slots < workers:
        largest = max(
            nodes, key=lambda node: [node.get(kind, 0.0) for kind in sorted(needed, reverse=True)], default={}
        )
        needs = " and ".join(f"{amount:g} {kind}" for kind, amount in per_worker.items())
        most = " and ".join(f"{largest.get(kind, 0):g} {kind}" for kind in per_worker)
        raise UserError(
            f"{what} takes {workers} x {needs}, each on one node, but the cluster has room for {slots} (its largest "
            f"node has {most}); ask for less a worker, or join a cluster of larger nodes with --address"
        )
    return slots // workers


@contextmanager
def visible_wait(per_worker: Mapping[str, float], what: str, say: Callable[[str], None]) -> Iterator[None]:
    """Says what is missing whenever, within the context, something of this size has found no room for a while.

    ``say`` is given a line such as ``waiting  one trial needs 1 CPU: 0 of 2 are free; held by 2 Cohort of
    `rdistill sweep coef.yaml` `` from another thread, at most every ``REMIND_S`` seconds.
    """
    over = threading.Event()
    watcher = threading.Thread(target=_watch, args=(dict(per_worker), what, say, over), daemon=True)
    watcher.start()
    try:
        yield
    finally:
        over.set()
        watcher.join(timeout=5)


def _watch(per_worker: dict[str, float], what: str, tell: Callable[[str], None], over: threading.Event) -> None:
    waited_s, said_at_s, step_s = 0.0, -float(REMIND_S), PATIENCE_S / 4
    while not over.wait(step_s):
        try:
            waited_s = waited_s + step_s if _demanded(per_worker) else 0.0
            if waited_s < PATIENCE_S:
                said_at_s = -float(REMIND_S)
            elif waited_s - said_at_s >= REMIND_S:
                said_at_s = waited_s
                tell(f"waiting   {what} needs {shortage(per_worker)}")
        except Exception as error:  # the cluster's own books could not be read: who waits for them must not fail too
            _log.debug("cannot see who waits: %s", error)


def _demanded(per_worker: Mapping[str, float]) -> bool:
    """Whether the cluster has a request of this size, alone or in a group, that it has no room for."""
    return any(all(bundle.get(kind) == amount for kind, amount in per_worker.items()) for bundle in demands())


def shortage(per_worker: Mapping[str, float]) -> str:
    """How much of each kind is free, and who holds the rest: ``1 CPU: 0 of 2 are free; held by ...``."""
    have, free = ray.cluster_resources(), ray.available_resources()
    parts = [
        f"{amount:g} {kind}: {free.get(kind, 0):g} of {have.get(kind, 0):g} are free"
        for kind, amount in per_worker.items()
    ]
    owners = holders()
    return ", ".join(parts) + (f"; held by {', '.join(owners)}" if owners else "")


def holders() -> list[str]:
    """Who is at work on the cluster: ``2 Cohort of `rdistill sweep coef.yaml` ``, most numerous first."""
    jobs, actors = jobs_and_actors()
    programs = {job["JobID"]: job["Entrypoint"] for job in jobs}
    count = Counter((actor["ActorClassName"], actor["JobID"]) for actor in actors if actor["State"] == "ALIVE")
    return [f"{n} {kind} of `{_short(programs.get(job, job))}`" for (kind, job), n in count.most_common(3)]


def _short(command: Any) -> str:
    words = [word.rpartition("/")[2] if word.startswith("/") else word for word in str(command).split()]
    return " ".join(words)[:60]


def joins_a_cluster(address: str | None) -> bool:
    """Whether there is a cluster to run in: one that was named, or that of the job this process is."""
    return bool(address or os.environ.get("RAY_ADDRESS"))


def wait_for_room(per_worker: Mapping[str, float], workers: int, say: Callable[[str], None]) -> None:
    """Waits until a group of workers can be placed, and says every few seconds what is missing."""
    group = placement_group([dict(per_worker)] * workers, strategy="PACK")
    try:
        while not group.wait(timeout_seconds=SAY_EVERY_S):
            say(f"waiting for {workers} x {_amounts(per_worker)}: {free_of(per_worker)}")
    finally:
        remove_placement_group(group)


def free_of(kinds: Iterable[str]) -> str:
    """``the cluster has 2 CPU, 0.5 are free``."""
    have, free = ray.cluster_resources(), ray.available_resources()
    parts = [f"{have.get(kind, 0):g} {kind}, {free.get(kind, 0):g} are free" for kind in kinds]
    return f"the cluster has {' and '.join(parts)}"


def _amounts(resources: Mapping[str, float]) -> str:
    return " and ".join(f"{amount:g} {kind}" for kind, amount in resources.items())


def alone_on_this_machine() -> bool:
    """Whether the cluster has no other node than the one this process is on."""
    alive = [node["NodeID"] for node in ray.nodes() if node["Alive"]]
    return alive == [ray.get_runtime_context().get_node_id()]


def beside_this_process() -> NodeAffinitySchedulingStrategy:
    """For an actor that this process cannot do without: on its own node, so that no other's loss takes it away."""
    return NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)


def gpus_in_cluster() -> float:
    return float(ray.cluster_resources().get("GPU", 0))


def killed_for_memory(error: ray.exceptions.OutOfMemoryError) -> str:
    """What Ray's memory monitor did, in a line: its own text is a page, with the figures in front."""
    used = texts.RAY_MEMORY.read(error)  # 6.41GB used / 23.54GB limit
    return f"out of memory: Ray killed the process, its node had {used or 'too little left'}"

"""Joining a Ray cluster, or starting one on this machine that leaves no trace outside the work dir."""

from __future__ import annotations

import logging
import os
import secrets
import shutil
import socket
import tempfile
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import ray
from ray.util import placement_group, remove_placement_group

from rdistill.errors import UserError
from rdistill.logs import keep_worker_logs

SAY_EVERY_S = 10.0  # what is waited for
ANSWER_S = 20  # seconds that a cluster may take to answer; Ray itself goes on asking for minutes
LONGEST_TEMP_DIR = 40  # characters; Ray adds 65 for its sockets, and Unix allows 107


@contextmanager
def connected(address: str | None, scratch: Path, *, dashboard: bool = False) -> Iterator[None]:
    """Connects to a cluster for as long as the context lasts, and stops what it started.

    Args:
        address: a cluster's address, or 'auto' for one on this machine; by default that of ``RAY_ADDRESS``
            (which Ray sets within a job), or else a new one-machine cluster bound to 127.0.0.1.
        scratch: folder for the new cluster's own files; a temporary one where its path is too long for sockets.
        dashboard: start it too: Tune frees the workers of a stopped several-worker trial through it.
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
    # Ray asks for a token by default: one of this cluster alone, so that it writes none to the home directory.
    os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
    temp_dir = scratch.absolute() / "ray"
    if len(str(temp_dir)) > LONGEST_TEMP_DIR:
        temp_dir = Path(tempfile.mkdtemp(prefix="rdistill-"))
    ray.init(
        address="local",
        _temp_dir=str(temp_dir),
        _node_ip_address="127.0.0.1",
        include_dashboard=dashboard,
        dashboard_host="127.0.0.1",
        **quiet,
    )
    try:
        yield
    finally:
        ray.shutdown()
        keep_worker_logs(temp_dir / "session_latest", scratch)
        shutil.rmtree(temp_dir, ignore_errors=True)


def _require_answer(address: str) -> None:
    """Raises UserError where no cluster answers, or one that does not let us in: Ray goes on asking for minutes."""
    if "://" in address:
        return  # a kind of address that only Ray can look up
    from ray._private.authentication.authentication_token_setup import maybe_enable_token_auth_if_token_available
    from ray._private.services import canonicalize_bootstrap_address_or_die
    from ray._raylet import GcsClient  # type: ignore[attr-defined]

    try:
        found = canonicalize_bootstrap_address_or_die(address)
    except (ConnectionError, ValueError) as error:
        raise UserError(f"--address {address}: no Ray cluster answers: {str(error).splitlines()[0]}") from None
    host, _, port = found.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=ANSWER_S).close()
    except OSError as error:
        raise UserError(f"--address {address}: no Ray cluster answers: {error.strerror or error}") from None
    failure: list[BaseException | None] = []

    maybe_enable_token_auth_if_token_available(warn_if_disabled=False)  # as ray.init does

    def ask() -> None:
        try:
            GcsClient(address=found).get_all_node_info(timeout=ANSWER_S)
            failure.append(None)
        except Exception as error:
            failure.append(error)

    asking = threading.Thread(target=ask, daemon=True)  # it cannot be stopped where nothing ever answers
    asking.start()
    asking.join(ANSWER_S)
    if failure and isinstance(failure[0], ray.exceptions.AuthenticationError):
        raise UserError(
            f"--address {address}: the Ray cluster at {found} wants its token; set RAY_AUTH_MODE=token and "
            f"RAY_AUTH_TOKEN, or RAY_AUTH_TOKEN_PATH"
        )
    if not failure or failure[0] is not None:
        raise UserError(f"--address {address}: no Ray cluster answers: {found} is not one's port (Ray's own is 6379)")


def require_resources(needed: Mapping[str, float], what: str) -> int:
    """How many times the cluster holds ``needed``.

    Raises:
        UserError: not even once; says what is missing.
    """
    have = ray.cluster_resources()
    lacking = [
        f"{amount:g} {kind} (the cluster has {have.get(kind, 0):g})"
        for kind, amount in needed.items()
        if amount > have.get(kind, 0)
    ]
    if lacking:
        raise UserError(f"{what} takes {' and '.join(lacking)}; ask for less, or join a larger cluster with --address")
    return min(int(have[kind] / amount + 1e-9) for kind, amount in needed.items() if amount > 0)


def joins_a_cluster(address: str | None) -> bool:
    """Whether there is a cluster to run in: one that was named, or that of the job this process is."""
    return bool(address or os.environ.get("RAY_ADDRESS"))


def require_group(per_worker: Mapping[str, float], workers: int, what: str) -> None:
    """Makes sure that some nodes together hold a group of workers, each of which is on one node.

    Raises:
        UserError: not even when nothing else runs; says what is missing.
    """
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    kinds = [kind for kind, amount in per_worker.items() if amount > 0]
    room = [min(int(node.get(kind, 0) / per_worker[kind] + 1e-9) for kind in kinds) for node in nodes]
    if sum(room) >= workers:
        return
    each = _amounts(per_worker)
    largest = max(
        ({kind: node.get(kind, 0.0) for kind in kinds} for node in nodes), key=lambda node: tuple(node.values())
    )
    total = {kind: sum(node.get(kind, 0.0) for node in nodes) for kind in kinds}
    on = f"on {len(nodes)} nodes, at most {_amounts(largest)} on one, " if len(nodes) > 1 else ""
    raise UserError(
        f"{what} takes {workers} x {each} (the cluster has {_amounts(total)} {on}which is room for {sum(room)}); "
        f"ask for less, or join a larger cluster with --address"
    )


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


def gpus_in_cluster() -> float:
    return float(ray.cluster_resources().get("GPU", 0))

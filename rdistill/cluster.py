"""Joining a Ray cluster, or starting one on this machine that leaves no trace outside the work dir."""

from __future__ import annotations

import logging
import os
import secrets
import shutil
import socket
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import ray

from rdistill.errors import UserError
from rdistill.logs import keep_worker_logs

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
        _require_listener(address)
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


def _require_listener(address: str) -> None:
    """Raises UserError where nobody listens: Ray would go on asking for minutes."""
    host, _, port = address.rpartition(":")
    if "://" in address or not port.isdigit():
        return  # 'auto', or an address of a kind that only Ray can look up
    try:
        socket.create_connection((host, int(port)), timeout=10).close()
    except OSError as error:
        raise UserError(f"--address {address}: no Ray cluster answers: {error.strerror or error}") from None


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


def gpus_in_cluster() -> float:
    return float(ray.cluster_resources().get("GPU", 0))

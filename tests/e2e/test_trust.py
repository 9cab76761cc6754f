"""Who can reach what a user runs, and where secrets go."""

from __future__ import annotations

import os
import re
import socket
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import Tiny

from e2e.conftest import Sandbox

pytestmark = pytest.mark.e2e

KEY = "feedface" * 5  # wandb's keys are so long
LISTENING = "0A"  # the state's number in /proc/net/tcp
A_CLUSTER_OF_OURS = """
import os, sys
import ray
from rdistill.distributed.cluster import connected

with connected(None, sys.argv[1], dashboard=True):
    ray.get(ray.remote(lambda: os.getpid()).remote())  # so that there is a worker
    print(ray.get_runtime_context().gcs_address, flush=True)
    sys.stdin.read()
"""
A_STRANGER = """
from ray._raylet import GcsClient

try:
    GcsClient(address=sys.argv[1]).get_all_node_info(timeout=20)
except Exception as error:
    print(type(error).__name__)
else:
    print("was let in")
"""


@pytest.fixture(scope="module")
def cluster(sandbox: Sandbox) -> Iterator[tuple[int, str]]:
    """A cluster that rdistill has started, dashboard and all: the pid of its driver, and its address."""
    with subprocess.Popen(
        [sys.executable, "-c", A_CLUSTER_OF_OURS, str(sandbox.root / "trust")],
        cwd=sandbox.cwd, env=sandbox.environment(), text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    ) as driver:  # fmt: skip
        assert driver.stdin is not None and driver.stdout is not None
        address = driver.stdout.readline().strip()
        assert address
        yield driver.pid, address
        driver.stdin.close()


def descendants(root: int) -> list[int]:
    """A process and all that it started."""
    children: dict[int, list[int]] = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
        except OSError:  # it is gone
            continue
        children.setdefault(parent, []).append(int(folder.name))
    pids = [root]
    for pid in pids:
        pids += children.get(pid, [])
    return pids


def listening() -> dict[str, tuple[str, int]]:
    """Inode of a socket -> the address and the port that it listens on."""
    addresses = {}
    for table, family in (("tcp", socket.AF_INET), ("tcp6", socket.AF_INET6)):
        for line in Path("/proc/net", table).read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == LISTENING:
                address, port = fields[1].split(":")
                words = (int(address[at : at + 8], 16) for at in range(0, len(address), 8))
                addresses[fields[9]] = (
                    socket.inet_ntop(family, b"".join(struct.pack("=I", w) for w in words)),
                    int(port, 16),
                )
    return addresses


def sockets(pid: int) -> Iterator[str]:
    """Inodes of a process's sockets."""
    for file in Path(f"/proc/{pid}/fd").glob("*"):
        try:
            target = os.readlink(file)
        except OSError:
            continue
        if inode := re.fullmatch(r"socket:\[(\d+)\]", target):
            yield inode[1]


@pytest.mark.skipif(not Path("/proc/net/tcp").exists(), reason="reads Linux's tables")
def test_a_cluster_of_ours_listens_on_the_loopback_alone(cluster: tuple[int, str]) -> None:
    everything = listening()
    listeners = [
        (*everything[inode], Path(f"/proc/{pid}/cmdline").read_text().replace("\0", " ")[:80])
        for pid in descendants(cluster[0])
        for inode in sockets(pid)
        if inode in everything
    ]
    assert len(listeners) > 5  # the GCS, the raylet, its agents, the dashboard, the driver, a worker
    assert [entry for entry in listeners if entry[0] not in ("127.0.0.1", "::1", "::ffff:127.0.0.1")] == []


def test_without_its_token_nobody_is_let_in(cluster: tuple[int, str], sandbox: Sandbox) -> None:
    assert "RAY_AUTH_TOKEN" not in sandbox.environment()
    assert sandbox.python(A_STRANGER, cluster[1]).split()[-1] == "AuthenticationError"


@pytest.mark.slow
def test_a_key_reaches_nothing_that_is_kept(sandbox: Sandbox, tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    work_dir = sandbox.root / "secret"
    sweep = sandbox.sweep_file(
        "secret",
        {
            "config": str(tiny.folder / "distill.py"),
            "space": {"distill.losses.logits.weight": {"type": "loguniform", "low": 1.0, "high": 100.0}},
            "search": {"type": "random", "num_trials": 1},
            "tracking": "wandb",
        },
    )
    small = ["--data-root", tiny.data_root, "--size", 32, "--batch-size", 2, "--val-interval", 2, "--iters", 4]
    swept = sandbox.run("sweep", sweep, "--work-dir", work_dir, *small)
    reported = sandbox.run("report", work_dir)
    files = [file for folder in (work_dir, sandbox.home, sandbox.cwd) for file in folder.rglob("*") if file.is_file()]
    kept = {file.name for file in files}
    assert {"best.py", "trial.py", "study.json", "summary.json", "report.html", "driver.log"} <= kept
    assert any(name.endswith(".wandb") for name in kept)
    assert [file for file in files if KEY.encode() in file.read_bytes()] == []
    assert KEY not in swept.stdout + swept.stderr + reported.stdout + reported.stderr
